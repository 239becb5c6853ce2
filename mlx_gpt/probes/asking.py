"""Runs and what each is asked: the same probes for all runs of one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_gpt.checkpoint import Checkpoint
from mlx_gpt.corpus import Text
from mlx_gpt.corpus.corpus import training_text
from mlx_gpt.errors import MlxGptError
from mlx_gpt.heldout import Notice
from mlx_gpt.probes.ask import answers
from mlx_gpt.probes.dependencies import dependencies, sampled
from mlx_gpt.probes.pairs import Skill, Twins, twins
from mlx_gpt.probes.words import find, sample
from mlx_gpt.tokenizer import WORD

VERSION = 2  # of the probes: what was answered to others is asked again


class Asking:
    """Asks run after run."""

    def __init__(self, notice: Notice) -> None:
        self.notice = notice
        self.probes: dict[str, list[tuple[Skill, Sequence[Twins]]]] = {}
        self.stories: list[str] | None = None

    def ask(self, trained: Checkpoint, held_out: Text, own: bool) -> dict[str, Any]:
        """What a run can do: `version`, `probes`, and `dependencies`, None but for a run of the built-in stories.

        own  the held-out text is the run's own, not one that was named
        """
        model, tokenizer, card = trained.model, trained.tokenizer, trained.card
        if card.text not in self.probes:
            passages = sample(held_out, tokenizer)
            try:
                learned = sample(training_text(card.corpus, tokenizer), tokenizer)
            except (OSError, ValueError, EOFError, MlxGptError):
                learned = passages
                self.notice("the cached training text is gone; the words of the probes are those of the held-out text")
            self.probes[card.text] = list(twins(find(learned, passages)))
        told: dict[str, Any] = {"version": VERSION, "dependencies": None}
        told["probes"] = answers(model, tokenizer, self.probes[card.text])
        if card.source.builtin and own and tokenizer.kind != WORD:
            if self.stories is None:
                self.stories = sampled(held_out, tokenizer)
            told["dependencies"] = dependencies(model, tokenizer, self.stories)
        return told
