"""A run folder as it is written: the live line, the log, the samples, the best model so far, the picture."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import click

from mlx_gpt import checkpoint
from mlx_gpt.checkpoint import MODEL, Card
from mlx_gpt.corpus import Corpus, Text
from mlx_gpt.device import peak_memory
from mlx_gpt.errors import SettingError
from mlx_gpt.measure import measure
from mlx_gpt.model import LanguageModel, Progress, Stage
from mlx_gpt.plot import draw_curve
from mlx_gpt.recipe import Recipe, Settings
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
        if folder.is_dir() and any(folder.iterdir()) and not (folder / LOG).is_file():
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
    """What `fit` reports to: prints, logs, draws samples, and saves the model whenever it got better."""

    def __init__(
        self,
        folder: Path,
        stage: Stage,
        preset: str,
        config: Settings,
        recipe: Recipe,
        corpus: Corpus,
        model: LanguageModel,
    ) -> None:
        self.folder, self.stage, self.corpus, self.model = folder, stage, corpus, model
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
        self.best = math.inf
        self.latest = Progress(0, 1, math.nan, 0.0, 0, 0.0)
        self.live = sys.stderr.isatty()
        self.bits_per_nat = _tokens_per_byte(corpus.train) / math.log(2)

    def __enter__(self) -> Self:
        self.started = time.perf_counter()
        self.spoke = self.started
        self.log: TextIO = io.StringIO()  # until there is a model to take an earlier one's place
        self.samples: TextIO = io.StringIO()
        if not (self.folder / MODEL).is_file():
            self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.log.close()
        self.samples.close()
        if kind is KeyboardInterrupt and self.best < math.inf:
            click.echo(f"\nstopped; the best model so far is in {self.folder / MODEL}", err=True)

    def _open(self) -> None:
        """Begin the folder's files with what was said so far; an earlier run is kept as <name>.previous."""
        if (self.folder / MODEL).is_file():
            kept = self.folder.with_name(self.folder.name + ".previous")
            shutil.rmtree(kept, ignore_errors=True)
            self.folder.rename(kept)
            self.folder.mkdir()
            self.notice(f"the run that was here is kept as {kept}")
        told = (self.log, self.samples)
        self.log, self.samples = ((self.folder / name).open("w", encoding="utf-8") for name in (LOG, SAMPLES))
        for file, before in zip((self.log, self.samples), told, strict=True):
            file.write(before.getvalue() if isinstance(before, io.StringIO) else "")
            file.flush()

    def notice(self, message: str) -> None:
        """One dim line."""
        self._clear()
        click.secho(message, err=True, dim=True)

    def progress(self, progress: Progress) -> None:
        """The live line, and a line of the log."""
        self.latest = progress
        bits = progress.loss * self.bits_per_nat
        self._write_log(
            step=progress.step,
            loss=progress.loss,
            bits_per_byte=bits,
            learning_rate=progress.learning_rate,
            tokens=progress.tokens,
            seconds=progress.seconds,
        )
        if self.live:
            click.echo("\r" + self._line().ljust(100)[: shutil.get_terminal_size().columns - 1], err=True, nl=False)
        elif time.perf_counter() - self.spoke > QUIET_SECONDS:
            self.spoke = time.perf_counter()
            click.echo(self._line(), err=True)

    def validated(self, model: LanguageModel, step: int, bits_per_byte: float) -> None:
        """A line of its own, a sample, and the model on disk if it is the best so far."""
        better = bits_per_byte < self.best
        self._write_log(step=step, valid_bits_per_byte=bits_per_byte)
        self._clear()
        mark = "" if better else " (not better)"
        click.echo(f"step {step}: {bits_per_byte:.4f} bits per byte on the validation text{mark}", err=True)
        sample = self._sample(model)
        self.samples.write(f"--- step {step}\n{sample}\n\n")
        self.samples.flush()
        click.secho("  " + " ".join(sample.split())[:200], err=True, dim=True)
        if better:
            self.best = bits_per_byte
            self._save(step, finished=False)

    def finish(self) -> None:
        """Score the held-out text, save the figures with the model, draw the curve, say how to go on."""
        seconds = time.perf_counter() - self.started
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
        self.log.flush()
        drawn = draw_curve(self.folder / LOG, self.folder / CURVE, f"stage {self.stage.number} {self.stage.name}")
        self._clear()
        click.secho(
            f"{score.bits_per_byte:.4f} bits per byte on the held-out text, {scores['parameters']:,.0f} parameters, "
            f"{seconds:,.1f} s, {scores['peak_memory'] / 1e6:,.0f} MB",
            bold=True,
        )
        click.echo(f"\n{self._sample(self.model, 2 * SAMPLE_TOKENS)}\n")
        if not drawn and math.isfinite(self.latest.loss):
            self.notice("no curve.png: pip install 'mlx-gpt[plots]' draws one")
        default = self.folder == Path(os.path.abspath(checkpoint.RUNS / self.stage.run))
        named = f"--stage {self.stage.number}" if default else f"--run {os.path.relpath(self.folder)}"
        click.echo(f"python -m mlx_gpt.generate {named}")

    def _line(self) -> str:
        now = self.latest
        per_second = now.tokens / max(now.seconds, 1e-9)
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
        if isinstance(self.log, io.StringIO):
            self._open()
        shown = {"valid_bits_per_byte": self.best} if scores is None else scores
        card = Card(**{**vars(self.card), "step": step, "finished": finished, "scores": shown})
        checkpoint.save(self.folder / MODEL, self.model, self.corpus.tokenizer, card)

    def _write_log(self, **figures: Any) -> None:
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}
        self.log.write(json.dumps(clean) + "\n")
        self.log.flush()


def _tokens_per_byte(text: Text) -> float:
    return text.tokens / text.bytes
