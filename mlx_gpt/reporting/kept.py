"""results.json as it is written and read again, so that nothing is scored twice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlx_gpt.errors import CheckpointError, SettingError
from mlx_gpt.probes.asking import VERSION as PROBES
from mlx_gpt.replacing import replacing
from mlx_gpt.reporting import FORMAT, VERSION
from mlx_gpt.reporting.causes import Sums, Words
from mlx_gpt.reporting.textless import has_text


class Earlier:
    """What an earlier report of the same text knows of models, by the SHA-256 of their files."""

    def __init__(self, told: dict[str, Any], key: str, asked: dict[str, Any]) -> None:
        """`asked` may lack prompts: then those of the earlier report hold.

        Raises ValueError, KeyError or TypeError where something is not as a report tells it.
        """
        self.text: dict[str, Any] | None = None
        self.written: list[dict[str, Any]] | None = None
        self.runs: dict[str, dict[str, Any]] = {}
        if not told or told["text"]["key"] != key:
            return
        if not has_text(told):  # where the bits went is not known for new runs without the words
            self._skills(told)
            return
        Words.kept(told["text"]["words"])
        self.text = told["text"]
        same = told["asked"] == told["asked"] | asked
        self.written = told["written"] if same else None
        for run in told["runs"]:
            surprise = run["surprise"] or {"pieces": [], "bits": []}
            nats, pieces, bits = run["score"]["nats"], surprise["pieces"], surprise["bits"]
            if len(nats) != len(told["text"]["sizes"]) or len(pieces) != len(bits):
                raise ValueError("lists that do not fit")
            if not all(each is None or type(each) in (int, float) for each in [*nats, *bits]):
                raise ValueError("numbers that are none")
            if Sums.kept(run["where"]).nats.shape[1] != len(told["text"]["parts"]):
                raise ValueError("lists that do not fit")
            names = ("score", "where", "surprise", "samples", "written") if same else ("score", "where", "surprise")
            self.runs[run["sha256"]] = {name: run[name] for name in names} | {"warnings": run.get("warnings", [])}
        self._skills(told)

    def _skills(self, told: dict[str, Any]) -> None:
        """Those of the probes as they are now."""
        for run in told["runs"]:
            if (run.get("skills") or {}).get("version") == PROBES:
                self.runs.setdefault(run["sha256"], {})["skills"] = run["skills"]


def read(path: Path, notice: Callable[[str], None], no_text: bool | None = None) -> dict[str, Any]:
    """An earlier results.json; empty where there is none, or one of another version, which a notice tells.

    Raises CheckpointError for a file that is something else, which must not be replaced; and SettingError where a
    report without text, `no_text`, is about to take the place of one with text, or the other way.
    """
    if not path.exists():
        return {}
    try:
        told = json.loads(path.read_bytes())
        ours = told["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise CheckpointError(f"{path}: in the way, and no report of mlx_gpt; move it or name another folder, --output")
    if no_text and has_text(told):
        raise SettingError(f"--no-text: {path} holds the text and is kept; name another folder, --output")
    if no_text is False and not has_text(told):
        raise SettingError(f"{path}: a report without text, to be published; say --no-text, or name another --output")
    if told.get("version") != VERSION:
        notice(f"{path}: of another version of mlx_gpt; everything is scored again")
        return {}
    return dict(told)


def known(path: Path) -> dict[str, Any]:
    """What may be in a file that is only looked at; empty where it is no report of this version."""
    with contextlib.suppress(CheckpointError):
        return read(path, lambda message: None)
    return {}


def write(path: Path, text: str) -> None:
    """Replace a file whole or not at all. Raises CheckpointError where the disk refuses."""
    with replacing(path) as file:
        file.write(text.encode())
