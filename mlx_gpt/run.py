"""A run folder as it is written: the live line, the log, the samples, the best model, what a resume needs, pictures."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import shlex
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import click

from mlx_gpt import checkpoint
from mlx_gpt.asked import Asked
from mlx_gpt.checkpoint import LAST, MODEL, Card, Last, read_last
from mlx_gpt.corpus import Corpus, Text
from mlx_gpt.device import peak_memory
from mlx_gpt.errors import SettingError, Stopped
from mlx_gpt.events import Events
from mlx_gpt.measure import measure
from mlx_gpt.model import Kept, LanguageModel, Progress, Stage
from mlx_gpt.plot import draw_curve, terminal_curve
from mlx_gpt.recipe import Recipe, Settings
from mlx_gpt.replacing import alone, sweep
from mlx_gpt.sampling import Taste, generate, stream

LOG, SAMPLES, CURVE = "log.jsonl", "samples.txt", "curve.png"
SAMPLE_TOKENS = 60
BOOKKEEPING = ("tokens", "starts", "bases", "block")  # arrays of a table that hold no probabilities
QUIET_SECONDS = 20.0  # between two lines of progress where nobody watches a terminal


def prepare(folder: Path) -> Path:
    """Make sure that a run can be written; returns the folder's full path. An earlier run stays untouched.

    Raises SettingError for a folder that cannot be written or holds other things than a run.
    """
    folder = Path(os.path.abspath(folder))
    try:
        if (
            folder.is_dir()
            and not (folder / LOG).is_file()
            and any(not path.name.startswith(".") for path in folder.iterdir())
        ):
            raise SettingError(f"--run {folder}: holds other files and no run; name a new or an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("a"):
            pass
    except FileExistsError as error:
        raise SettingError(f"--run {folder}: a file stands in the way; name a folder") from error
    except OSError as error:
        raise SettingError(f"--run {folder}: cannot be written ({error.strerror}); name another folder") from error
    return folder


def parameter_count(model: LanguageModel) -> int:
    """Numbers in a model: its weights, or the probabilities and backoffs of its table."""
    found = model.arrays().items()
    return sum(math.prod(array.shape) for name, array in found if not name.endswith(BOOKKEEPING))


class Run:
    """What `fit` reports to: prints, logs, draws samples, saves the model whenever it got better, and keeps the rest.

    Nothing of an earlier run in the folder is touched before there is something to put in its place.
    """

    def __init__(
        self,
        folder: Path,
        stage: Stage,
        preset: str,
        config: Settings,
        recipe: Recipe,
        corpus: Corpus,
        model: LanguageModel,
        last: Last | None = None,
    ) -> None:
        """`last` is where the run goes on from; without it, it begins."""
        self.folder, self.stage, self.corpus, self.model, self.last = folder, stage, corpus, model, last
        self.card = Card(
            stage.number,
            preset,
            config,
            recipe,
            corpus.tokenizer.vocab_size,
            corpus.source,
            corpus.digest,
            corpus.text,
            0,
            False,
            {},
        )
        facts = {} if last is None else last.kept.facts
        self.best = float(facts.get("best", math.inf))
        self.before = float(facts.get("seconds", 0.0))  # seconds of training before this process
        tokens = int(facts.get("tokens", 0))
        self.latest = Progress(int(facts.get("step", 0)), 1, math.nan, 0.0, tokens, self.before)
        self.saved = 0  # step of the last save
        self.live = sys.stderr.isatty()
        self.bits_per_nat = _tokens_per_byte(corpus.train) / math.log(2)

    def __enter__(self) -> Self:
        self.stack = ExitStack()
        self.stack.enter_context(alone(self.folder))
        self.asked = self.stack.enter_context(Asked())
        try:
            self._begin()
        except BaseException:
            self.stack.close()
            raise
        return self

    def _begin(self) -> None:
        sweep(self.folder)
        self.started = time.perf_counter()
        self.spoke = self.started
        self.log: BinaryIO = io.BytesIO()  # until there is a save to take an earlier run's place
        self.samples: BinaryIO = io.BytesIO()
        self.events: Events | None = None
        self.opened = False
        if self.last is not None:  # read again: before the lock was held, another process may have gone on
            self._reopen(read_last(self.folder, self.notice))
            self.last = None  # or the file that the next save replaces would stay mapped

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None and issubclass(kind, Stopped | KeyboardInterrupt) and self.opened:
            self._clear()
            step = f"; saved at step {self.saved:,}" if self.saved else ""
            click.echo(f"stopped{step}; go on with: python -m mlx_gpt.train --resume {self._named()}", err=True)
        self.stack.close()

    def _open(self) -> None:
        """Begin the folder's files with what was said so far; an earlier run is kept as <name>.previous."""
        if any((self.folder / name).is_file() for name in (MODEL, LAST)):
            kept = _room_for_previous(self.folder)
            self.folder.rename(kept)
            self.folder.mkdir()
            self.stack.enter_context(alone(self.folder))
            self.notice(f"the run that was here is kept as {kept}")
        for name, told in ((LOG, self.log), (SAMPLES, self.samples)):
            assert isinstance(told, io.BytesIO)
            (self.folder / name).write_bytes(told.getvalue())
        self._append()
        self.events = Events(self.folder, time.time())
        self.stack.callback(self.events.close)

    def _reopen(self, last: Last) -> None:
        """Go on with the folder's files as they were at the last save: what came after it will come again."""
        for name, size in ((LOG, last.notes["log"]), (SAMPLES, last.notes["samples"])):
            path = self.folder / name
            path.touch()
            if path.stat().st_size > size:
                os.truncate(path, size)
        self._append()
        self.saved = int(last.kept.facts.get("step", 0))
        self.events = Events(self.folder, time.time(), self.saved)
        self.stack.callback(self.events.close)
        self.asked.later = bool(last.kept.arrays)

    def _append(self) -> None:
        self.log, self.samples = (self.stack.enter_context((self.folder / name).open("ab")) for name in (LOG, SAMPLES))
        self.opened = True

    def notice(self, message: str) -> None:
        """One dim line."""
        self._clear()
        click.secho(message, err=True, dim=True)

    def progress(self, progress: Progress) -> None:
        """The live line, and a line of the log."""
        self.latest = progress
        figures = {
            "loss": progress.loss,
            "bits_per_byte": progress.loss * self.bits_per_nat,
            "learning_rate": progress.learning_rate,
            "gradient_norm": progress.gradient_norm,
            "loss_scale": progress.loss_scale,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
        }
        self._write_log(step=progress.step, **figures)
        per_second = progress.tokens / max(progress.seconds, 1e-9)
        self._show(progress.step, figures, train_tokens_per_second=per_second)
        if self.live:
            click.echo("\r" + self._line().ljust(100)[: shutil.get_terminal_size().columns - 1], err=True, nl=False)
        elif time.perf_counter() - self.spoke > QUIET_SECONDS:
            self.spoke = time.perf_counter()
            click.echo(self._line(), err=True)

    def validated(self, model: LanguageModel, step: int, bits_per_byte: float) -> None:
        """A line of its own, a sample, and the model on disk if it is the best so far."""
        better = bits_per_byte < self.best
        self._write_log(step=step, valid_bits_per_byte=bits_per_byte)
        self._show(step, {"valid_bits_per_byte": bits_per_byte})
        self._clear()
        mark = "" if better else " (not better)"
        click.echo(f"step {step}: {bits_per_byte:.4f} bits per byte on the validation text{mark}", err=True)
        sample = self._sample(model)
        self.samples.write(f"--- step {step}\n{sample}\n\n".encode())
        self.samples.flush()
        click.secho("  " + " ".join(sample.split())[:200], err=True, dim=True)
        if better:
            self.best = bits_per_byte
            self._save(step, finished=False)

    def keep(self, kept: Kept) -> None:
        """Save all that a resume needs; from now on a signal is answered after the step it came in."""
        if not self.opened:
            self._open()
        self.asked.later = bool(kept.arrays)  # where there are none, nobody looks between two steps
        self._flush()
        card = Card(**{**vars(self.card), "step": int(kept.facts.get("step", 0))})
        notes = {"log": self.log.tell(), "samples": self.samples.tell()}
        checkpoint.keep(self.folder, kept, self.corpus.tokenizer, card, notes)
        self.saved = card.step

    def kept(self) -> Kept | None:
        """The last save of this run."""
        if not self.opened:
            return None
        kept = read_last(self.folder, self.notice).kept
        return kept if kept.arrays else None

    def stopping(self) -> int:
        """The number of the signal that asked the run to stop, or 0."""
        return self.asked.number

    def finish(self) -> None:
        """Score the held-out text, save the figures with the model, draw the curve, say how to go on."""
        self.asked.later = False
        seconds = self.before + time.perf_counter() - self.started
        tokens = self.latest.tokens or self.corpus.train.tokens
        score = measure(self.model, self.corpus.test)
        scores = {
            "bits_per_byte": score.bits_per_byte,
            "valid_bits_per_byte": self.best,
            "perplexity": score.perplexity,
            "tokens_per_second": score.tokens_per_second,
            "parameters": float(parameter_count(self.model)),
            "seconds": seconds,
            "train_tokens": float(tokens),
            "train_tokens_per_second": tokens / max(seconds, 1e-9),
            "peak_memory": float(peak_memory()),
        }
        self._save(max(1, self.latest.step), finished=True, scores=scores)
        self._write_log(finished=True, **scores)
        self._flush()
        log = self.folder / LOG
        drawn = draw_curve(log, self.folder / CURVE, f"stage {self.stage.number} {self.stage.name}")
        self._clear()
        curve = terminal_curve(log, min(100, shutil.get_terminal_size().columns), unicode=_speaks_unicode())
        click.secho(curve + "\n" if curve else "", err=True, nl=bool(curve), fg="cyan")
        click.secho(
            f"{score.bits_per_byte:.4f} bits per byte on the held-out text, {scores['parameters']:,.0f} parameters, "
            f"{seconds:,.1f} s, {scores['peak_memory'] / 1e6:,.0f} MB",
            bold=True,
        )
        click.echo(f"\n{self._sample(self.model, 2 * SAMPLE_TOKENS)}\n")
        if not drawn and math.isfinite(self.latest.loss):
            self.notice("no curve.png: pip install 'mlx-gpt[plots]' draws one")
        click.echo(f"python -m mlx_gpt.generate {self._named()}")

    def _named(self) -> str:
        """How the command line names this run."""
        default = self.folder == Path(os.path.abspath(checkpoint.RUNS / self.stage.run))
        return f"--stage {self.stage.number}" if default else f"--run {shlex.quote(os.path.relpath(self.folder))}"

    def _line(self) -> str:
        now = self.latest
        per_second = (now.tokens) / max(now.seconds, 1e-9)
        left = now.seconds / max(now.step, 1) * (now.steps - now.step)
        loss = f"loss {now.loss:.3f}  {now.loss * self.bits_per_nat:.3f} bits/byte  " if now.step else ""
        return (
            f"step {now.step:,}/{now.steps:,}  {loss}{per_second:,.0f} tokens/s  "
            f"{peak_memory() / 1e6:,.0f} MB  ETA {int(left) // 60}:{int(left) % 60:02d}"
        )

    def _clear(self) -> None:
        if self.live:
            click.echo("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", err=True, nl=False)

    def _sample(self, model: LanguageModel, tokens: int = SAMPLE_TOKENS) -> str:
        ids = generate(model, [self.corpus.tokenizer.eot], Taste(), seed=0)
        return "".join(stream(ids, self.corpus.tokenizer, tokens))

    def _save(self, step: int, finished: bool, scores: dict[str, float] | None = None) -> None:
        if not self.opened:
            self._open()
        shown = {"valid_bits_per_byte": self.best} if scores is None else scores
        card = Card(**{**vars(self.card), "step": step, "finished": finished, "scores": shown})
        checkpoint.save(self.folder / MODEL, self.model, self.corpus.tokenizer, card)

    def _write_log(self, **figures: Any) -> None:
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}
        self.log.write((json.dumps(clean) + "\n").encode())
        self.log.flush()

    def _show(self, step: int, figures: dict[str, float], **more: float) -> None:
        """The same figures for TensorBoard."""
        known = {name: value for name, value in {**figures, **more}.items() if math.isfinite(value)}
        if self.events is not None:
            self.events.scalars(step, time.time(), known)

    def _flush(self) -> None:
        """The growing files on the disk, so that no save speaks of lines that a power cut takes back."""
        for file in (self.log, self.samples):
            file.flush()
            if self.opened:
                os.fsync(file.fileno())


def _room_for_previous(folder: Path) -> Path:
    """A free name beside a run's folder, for the run to be kept under; an earlier run there makes room.

    Raises SettingError where that one is being trained.
    """
    for number in itertools.count(1):
        place = folder.with_name(f"{folder.name}.previous{number if number > 1 else ''}")
        if not place.exists():
            return place
        if any((place / name).is_file() for name in (LOG, LAST)):
            with alone(place):
                shutil.rmtree(place)
            return place
    raise AssertionError


def _tokens_per_byte(text: Text) -> float:
    return text.tokens / text.bytes


def _speaks_unicode() -> bool:
    return "utf" in (getattr(sys.stderr, "encoding", None) or "").lower()
