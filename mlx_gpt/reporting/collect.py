"""Runs and what an earlier report knows of them -> everything a report shows, as one dict; see the package for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gpt import checkpoint, safetensors, stages
from mlx_gpt.bootstrap import fewer
from mlx_gpt.checkpoint import MODEL, Card, Checkpoint
from mlx_gpt.corpus import units
from mlx_gpt.corpus.corpus import training_text
from mlx_gpt.corpus.documents import digest, files, named_paths
from mlx_gpt.errors import CheckpointError, MlxGptError
from mlx_gpt.folder import LOG
from mlx_gpt.heldout import Notice, Shared
from mlx_gpt.league import Entry, by_row, legend, rows
from mlx_gpt.measure import Score, measure
from mlx_gpt.plot import read_log
from mlx_gpt.probes import Asking
from mlx_gpt.recipe import Counting
from mlx_gpt.reporting import FORMAT, VERSION
from mlx_gpt.reporting.asked import Asked, curve, excerpts, lengths, passage, passage_bits, prompts, samples
from mlx_gpt.reporting.causes import Words
from mlx_gpt.reporting.frontiers import frontiers
from mlx_gpt.reporting.kept import Earlier
from mlx_gpt.reporting.machine import machine
from mlx_gpt.reporting.where import PARTS, Witness, where, words_of
from mlx_gpt.reporting.written import Copies, measures, training_pieces
from mlx_gpt.roster import called, reason, roster
from mlx_gpt.tokenizer import WORD, Tokenizer


class Collector:
    """Asks every run what an earlier report does not know yet."""

    def __init__(self, runs: Sequence[Path], data: Sequence[str], asked: Asked, notice: Notice) -> None:
        """`asked` without prompts: some are taken from the held-out text.

        Raises as `roster` does.
        """
        found = roster(runs, data)
        self.folder, self.cards, self.left_out = found.folder, found.cards, found.left_out
        self.data, self.notice = data, notice
        self.folders = {run.name: run for run in self.cards}
        self.of_words = [run.name for run, card in self.cards.items() if card.source.tokenizer == WORD]
        self.asked = asked
        self.key = next(iter(self.cards.values())).text
        if data:
            with named_paths(data) as paths:
                self.key = digest(files(paths))
        self.texts = Shared(data, self.cards.values(), notice)
        self.asking = Asking(notice)
        self.text: dict[str, Any] | None = None
        self.witness: Witness | None = None
        self.excerpts: list[dict[str, Any]] = []  # of the held-out text, where they are to be measured
        self.written: list[dict[str, Any]] | None = None
        self.runs: list[dict[str, Any]] = []
        self.tokenizers: dict[str, Tokenizer] = {}  # of the corpora of the runs that were asked

    def collect(self, before: dict[str, Any], show: Notice, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Everything, as one dict; what is known already of the very same models and text is not asked again.

        before  an earlier results.json, or nothing
        show    is told what is being done
        keep    is given what there is when something ends this early

        Raises CheckpointError where no run can be read, DataError where the held-out text is gone.
        """
        known, found = self._known(before), dict[str, dict[str, Any]]()
        for folder, card in self.cards.items():
            try:
                run = self._run(folder, card)
            except CheckpointError as error:
                self.left_out[folder.name] = reason(folder, error)
                continue
            found[folder.name] = run | known.runs.get(run["sha256"], {})
        table = by_row(
            (found[run.name]["stage"], run.name, card) for run, card in self.cards.items() if run.name in found
        )
        table.sort(key=lambda row: row[0] in self.of_words)  # the first describes the text; they cannot spell it
        asked = sum(not self._is_known(found[name], name == row[0]) for row in table for name in row)
        number = 0
        try:
            for row in table:
                first = True
                for name in row:
                    if self._is_known(found[name], first):
                        self.runs.append(found[name])
                    else:
                        number += 1
                        show(f"{number} of {asked}: {name}")
                        if not self._ask(found[name], first):
                            continue
                    first = False
            show("looking for copies of the training text")
            self._measure()
        except BaseException:
            if self.runs and self.tokenizers:
                keep(self._told())
            raise
        if not self.runs:
            raise CheckpointError(f"{self.folder}: no run can be read; {'; '.join(self.left_out.values())}")
        return self._told()

    def _is_known(self, run: dict[str, Any], first: bool) -> bool:
        """Whether a run, the first of its row or another seed, need not be asked."""
        if self.text is None or self.written is None or "score" not in run:
            return False
        return not first or None not in (run["surprise"], run["samples"], run["skills"], run["written"])

    def _known(self, before: dict[str, Any]) -> Earlier:
        wanted = self.asked.json()
        if not self.asked.prompts:
            del wanted["prompts"]
        try:
            known = Earlier(before, self.key, wanted)
        except (KeyError, TypeError, AttributeError, ValueError):
            self.notice("the earlier report is damaged; everything is scored again")
            known = Earlier({}, self.key, wanted)
        self.text, self.written = known.text, known.written
        if self.text is not None and not self.asked.prompts:
            self.asked = dataclasses.replace(self.asked, prompts=tuple(self.text["prompts"]))
        return known

    def _run(self, folder: Path, card: Card) -> dict[str, Any]:
        stage = stages.stage(card.stage)
        log = folder / LOG
        return {
            "run": folder.name,
            "sha256": safetensors.digest(folder / MODEL),
            "bytes_on_disk": (folder / MODEL).stat().st_size,
            "stage": stage.number,
            "name": stage.name,
            "title": stage.title,
            "remembers": stage.remembers,
            "preset": card.preset,
            "trained_on": self._trained_on(card),
            "counted": isinstance(card.recipe, Counting),
            "curve": curve(read_log(log) if log.is_file() else [], card.scores),
            **dict.fromkeys(("surprise", "samples", "skills", "written")),
        }

    def _trained_on(self, card: Card) -> str:
        """The name of a run's training text, with a part of its hash where another text has the same name."""
        if card.preset == "imported":
            return "a text that is not known (imported)"
        name = called(card.source.paths)
        others = {each.text for each in self.cards.values() if called(each.source.paths) == name}
        return f"{name} ({card.text[:8]})" if len(others) > 1 else name

    def _describe(self, trained: Checkpoint) -> str:
        """The passage; before it, all that is to be known of the held-out text, by the first run that is asked."""
        text, tokenizer = self.texts.of(trained), trained.tokenizer
        if self.text is None:
            parts = units(text, tokenizer)
            lines, least = self.texts.free(trained)
            shown = passage(text, tokenizer)
            self.text = {
                "key": self.key,
                "source": called(self.data or trained.card.source.paths),
                "bytes": text.bytes,
                "documents": len(text),
                "resampled": str(parts),
                "sizes": fewer(parts.sizes).tolist(),
                "parts": fewer(parts.sizes, PARTS).tolist(),
                "words": words_of(trained, text, self.notice).json(),
                "floor": None if least is None else fewer(least).tolist(),
                "reference_lines": lines,
                "passage": shown,
                "prompts": list(prompts(text, tokenizer, shown)),
            }
        if not self.asked.prompts:
            self.asked = dataclasses.replace(self.asked, prompts=tuple(self.text["prompts"]))
        if self.witness is None:
            self.witness = Witness(Words.kept(self.text["words"]))
        if self.written is None and not self.excerpts:
            self.excerpts = excerpts(text, tokenizer, self.asked)
        return str(self.text["passage"])

    def _ask(self, run: dict[str, Any], first: bool) -> bool:
        """Score of a run, and of the first of a row surprise, samples and skills, but for what is known already; False
        where it cannot be loaded."""
        try:
            trained = checkpoint.load(self.folders[run["run"]])
        except CheckpointError as error:
            self.left_out[run["run"]] = reason(self.folders[run["run"]], error)
            return False
        shown = self._describe(trained)
        if "score" not in run:
            assert self.witness is not None
            text, tokenizer = self.texts.of(trained), trained.tokenizer
            parts, logprobs = units(text, tokenizer), self.witness.tokens(text)
            score = measure(trained.model, text, units=parts, told=logprobs)
            run["where"] = self.witness.told(logprobs, text, tokenizer, parts)
            run["score"] = {
                "nats": fewer(score.nats).tolist(),
                "tokens": score.tokens,
                "seconds": score.seconds,
                "context": trained.model.memory().room,
            }
        if first and run["surprise"] is None:
            run["surprise"] = passage_bits(trained, shown)
        if first and run["samples"] is None:
            run["samples"] = samples(trained, self.asked)
        if first and run["skills"] is None:
            run["skills"] = self.asking.ask(trained, self.texts.of(trained), own=not self.data)
        run["warnings"] = self.texts.said[trained.card.text] if self.data else []
        run["written"] = None
        self.tokenizers[trained.card.corpus] = trained.tokenizer
        self.runs.append(run)
        return True

    def _measure(self) -> None:
        """What can be told of new samples, each held against the text its own run was trained on."""
        corpora, held_out = {folder.name: card.corpus for folder, card in self.cards.items()}, self.excerpts
        for corpus, tokenizer in self.tokenizers.items():
            new = [run for run in self.runs if run["written"] is None and run["samples"] is not None]
            members = [run for run in new if corpora[run["run"]] == corpus]
            texts = [each["text"] for run in members for each in run["samples"]] + [each["text"] for each in held_out]
            found = Copies(texts)
            copies: Copies | None = found
            try:
                found.look(training_pieces(training_text(corpus, tokenizer), tokenizer))
            except (OSError, ValueError, EOFError, MlxGptError):
                copies = None
                self.notice("the cached training text is gone, so copies of it were not looked for")
            for run in members:
                for each in run["samples"]:
                    each["copied"] = None if copies is None else copies.share([each["text"]])
                    each["spans"] = [] if copies is None else copies.spans(each["text"])
                run["written"] = _measured(lengths(self.asked, run["samples"]), copies)
            if held_out:
                self.written, held_out = _measured(lengths(self.asked, held_out), copies), []

    def _remarks(self, table: Sequence[dict[str, Any]]) -> list[str]:
        """Which runs stand for seeds where there is no mean of them, and which are not to be compared with others."""
        first = (
            "of several seeds all are asked for their score and where the bits went, told as means; the first alone "
            "for skills, passage, samples and measures, and its curve is the one that is drawn"
        )
        remarks = [first] if any(len(row["runs"]) > 1 for row in table) else []
        names = [run["run"] for run in self.runs if run["run"] in self.of_words]
        said = "of words; blanks and letters of unknown words are no part of its bits, so it is no match for the others"
        return remarks + [f"{name}: {said}" for name in names]

    def _told(self) -> dict[str, Any]:
        assert self.text is not None
        sizes = np.array(self.text["sizes"])
        least = None if self.text["floor"] is None else np.array(self.text["floor"])
        cards = {folder.name: card for folder, card in self.cards.items()}
        entries = []
        for run in self.runs:
            kept = run["score"]
            nats = np.array([math.inf if each is None else each for each in kept["nats"]])
            score = Score(nats, sizes, kept["tokens"], kept["seconds"])
            entries.append(Entry(run["run"], run["stage"], run["name"], cards[run["run"]], kept["context"], score))
        table = rows(entries, least)
        found = {run["stage"] for run in self.runs}
        return {
            "format": FORMAT,
            "version": VERSION,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "text": self.text,
            "asked": self.asked.json(),
            "league": table,
            "legend": legend(table, self.text["resampled"]) + self._remarks(table),
            "frontiers": frontiers(table, self.runs, sizes),
            "where": where(table, self.runs, self.text),
            "runs": sorted(self.runs, key=lambda run: (run["stage"], run["run"])),
            "written": self.written,
            "missing_stages": [number for number in stages.numbers() if number not in found],
            "left_out": self.left_out,
        }


def _measured(texts: dict[int, list[str]], copies: Copies | None) -> list[dict[str, Any]]:
    return [{"tokens": length, **measures(each, copies)} for length, each in texts.items()]
