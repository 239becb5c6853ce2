"""A run folder as it is written: the live line, the log, the samples, the best model, what a resume needs, pictures."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import click

from mlx_gpt import checkpoint
from mlx_gpt.asked import Asked
from mlx_gpt.chart import terminal_curve
from mlx_gpt.checkpoint import MODEL, Card, Last, read_last
from mlx_gpt.corpus import Corpus, Text
from mlx_gpt.decoding import Writer, generate, stream
from mlx_gpt.device import description, peak_memory, slowness
from mlx_gpt.errors import SettingError, Stopped
from mlx_gpt.folder import LOG, Folder
from mlx_gpt.measure import measure
from mlx_gpt.model import Kept, LanguageModel, Progress, Stage
from mlx_gpt.plot import draw_curve
from mlx_gpt.recipe import Recipe, Settings
from mlx_gpt.sampling import Taste

CURVE = "curve.png"
SAMPLE_TOKENS = 60
BOOKKEEPING = ("tokens", "starts", "bases", "block")  # arrays of a table that hold no probabilities
QUIET_SECONDS = 20.0  # between two lines of progress where nobody watches a terminal


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
        resume: bool = False,
    ) -> None:
        """With `resume` the run goes on from its last save; without it, it begins."""
        self.folder, self.stage, self.corpus, self.model, self.resume = Folder(folder), stage, corpus, model, resume
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
        self.last: Last | None = None  # what the run goes on from, until it is asked for
        self.best = math.inf
        self.before = 0.0  # seconds of training before this process
        self.saved = 0  # step of the last save
        self.latest = Progress(0, 1, math.nan, 0.0, 0, 0.0)
        self.live, self.said = sys.stderr.isatty(), False
        self.bits_per_nat = _tokens_per_byte(corpus.train) / math.log(2)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.asked = stack.enter_context(Asked())
            stack.enter_context(self.folder)
            self.started = self.spoke = time.perf_counter()
            if self.resume:
                self._go_on()
            self.stack = stack.pop_all()
        return self

    def _go_on(self) -> None:
        """Take up the run where its last save left it, read while no other process can go on with it.

        Raises SettingError where that save is no longer of the run whose settings were read before.
        """
        self.last = read_last(self.folder.path, self.notice)
        card, mine = self.last.card, self.card
        if (card.stage, card.config, card.recipe, card.corpus) != (mine.stage, mine.config, mine.recipe, mine.corpus):
            raise SettingError(f"--run {self.folder.path}: another training began here meanwhile; resume again")
        facts = self.last.kept.facts
        self.best = float(facts.get("best", math.inf))
        self.before = float(facts.get("seconds", 0.0))
        self.saved = int(facts.get("step", 0))
        self.latest = Progress(self.saved, 1, math.nan, 0.0, int(facts.get("tokens", 0)), self.before)
        self.folder.go_on(self.last.notes, self.saved)
        self.notice(f"going on after step {self.saved:,}")
        self.asked.later = bool(self.last.kept.arrays)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None and issubclass(kind, Stopped | KeyboardInterrupt) and self.folder.opened:
            self._clear()
            step = f"; saved at step {self.saved:,}" if self.saved else ""
            click.echo(f"stopped{step}; go on with: python -m mlx_gpt.train --resume {self._named()}", err=True)
        self.stack.close()

    def notice(self, message: str) -> None:
        """One dim line."""
        self._clear()
        click.secho(message, err=True, dim=True)

    def _begun(self) -> None:
        """Say what is trained, and on what machine, once nothing can be refused any more."""
        if self.said:
            return
        self.said = True
        self.notice(description())
        if slowness():
            click.secho(slowness(), err=True, fg="yellow")
        corpus = self.corpus
        click.secho(
            f"stage {self.stage.number} {self.stage.name} on {corpus.source}: {corpus.train.bytes / 1e6:,.1f} MB of "
            f"training text, {corpus.tokenizer.vocab_size:,} {corpus.tokenizer.kind} tokens",
            bold=True,
        )

    def progress(self, progress: Progress) -> None:
        """The live line, and a line of the log."""
        if progress.step:
            self._begun()
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
        self.folder.note(step=progress.step, **figures)
        self.folder.show(progress.step, {**figures, "train_tokens_per_second": progress.tokens_per_second})
        if self.live:
            click.echo("\r" + self._line().ljust(100)[: shutil.get_terminal_size().columns - 1], err=True, nl=False)
        elif time.perf_counter() - self.spoke > QUIET_SECONDS:
            self.spoke = time.perf_counter()
            click.echo(self._line(), err=True)

    def validated(self, model: LanguageModel, step: int, bits_per_byte: float) -> None:
        """A line of its own, a sample, and the model on disk if it is the best so far."""
        self._begun()
        better = bits_per_byte < self.best
        self.folder.note(step=step, valid_bits_per_byte=bits_per_byte)
        self.folder.show(step, {"valid_bits_per_byte": bits_per_byte})
        self._clear()
        mark = "" if better else " (not better)"
        click.echo(f"step {step}: {bits_per_byte:.4f} bits per byte on the validation text{mark}", err=True)
        sample = self._sample(model)
        self.folder.sample(step, sample)
        click.secho("  " + " ".join(sample.split())[:200], err=True, dim=True)
        if better:
            self.best = bits_per_byte
            self._save(step, finished=False)

    def keep(self, kept: Kept) -> None:
        """Save all that a resume needs; from now on a signal is answered after the step it came in."""
        self._begun()
        self.folder.begin(self.notice)
        self.asked.later = bool(kept.arrays)  # where there are none, nobody looks between two steps
        card = Card(**{**vars(self.card), "step": int(kept.facts.get("step", 0))})
        checkpoint.keep(self.folder.path, kept, self.corpus.tokenizer, card, self.folder.settle())
        self.saved, self.last = card.step, None

    def kept(self) -> Kept | None:
        """The last save of this run."""
        if not self.folder.opened:
            return None
        kept = (self.last or read_last(self.folder.path, self.notice)).kept
        self.last = None  # or the file that the next save replaces would stay mapped
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
        self.folder.note(finished=True, **scores)
        self.folder.settle()
        log = self.folder.path / LOG
        drawn = draw_curve(log, self.folder.path / CURVE, f"stage {self.stage.number} {self.stage.name}")
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
        folder = self.folder.path
        default = folder == Path(os.path.abspath(checkpoint.RUNS / self.stage.run))
        return f"--stage {self.stage.number}" if default else f"--run {shlex.quote(os.path.relpath(folder))}"

    def _line(self) -> str:
        now = self.latest
        left = now.seconds / max(now.step, 1) * (now.steps - now.step)
        loss = f"loss {now.loss:.3f}  {now.loss * self.bits_per_nat:.3f} bits/byte  " if now.step else ""
        return (
            f"step {now.step:,}/{now.steps:,}  {loss}{now.tokens_per_second:,.0f} tokens/s  "
            f"{peak_memory() / 1e6:,.0f} MB  ETA {int(left) // 60}:{int(left) % 60:02d}"
        )

    def _clear(self) -> None:
        if self.live:
            click.echo("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", err=True, nl=False)

    def _sample(self, model: LanguageModel, tokens: int = SAMPLE_TOKENS) -> str:
        ids = generate(model, [self.corpus.tokenizer.eot], Taste(), seed=0)
        return "".join(stream(ids, Writer(self.corpus.tokenizer, tokens)))

    def _save(self, step: int, finished: bool, scores: dict[str, float] | None = None) -> None:
        self.folder.begin(self.notice)
        shown = {"valid_bits_per_byte": self.best} if scores is None else scores
        card = Card(**{**vars(self.card), "step": step, "finished": finished, "scores": shown})
        checkpoint.save(self.folder.path / MODEL, self.model, self.corpus.tokenizer, card)


def _tokens_per_byte(text: Text) -> float:
    return text.tokens / text.bytes


def _speaks_unicode() -> bool:
    return "utf" in (getattr(sys.stderr, "encoding", None) or "").lower()
