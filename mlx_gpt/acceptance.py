"""What drafts are worth: every model as the draft of every other, the share accepted and the speed of greedy text.

The texts of a pair are written by turns, with the draft and without it, so that both meet the same machine.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx

from mlx_gpt.corpus import Text
from mlx_gpt.decoding import generate
from mlx_gpt.drafting import Draft, Lookup, Model, Tally, drafted
from mlx_gpt.endless import Endless
from mlx_gpt.model import LanguageModel
from mlx_gpt.sampling import Taste

PROMPT = "prompt"  # the draft that is no model
PROMPTS, BEGUN, WRITTEN = 2, 24, 48  # texts of a pair, tokens they begin with, tokens written of each
TIE = 1e-4  # nats between the likeliest tokens that a pass of several rows may confuse with a pass of one
GREEDY = Taste(temperature=0)


@dataclass
class Worth:
    """What a draft was worth to a target: tokens, and seconds with the draft and without it."""

    tokens: int = 0
    seconds: float = 0.0
    plain_seconds: float = 0.0
    ties: int = 0  # texts that part where two tokens are as likely, within rounding
    tally: Tally = field(default_factory=Tally)

    @property
    def share(self) -> float:
        """Of the proposed tokens, those accepted."""
        return self.tally.accepted / max(1, self.tally.proposed)

    @property
    def speedup(self) -> float:
        """Tokens a second, by those without a draft."""
        return self.plain_seconds / self.seconds

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        rates = {"tokens_per_second": self.tokens / self.seconds}
        rates |= {"plain_tokens_per_second": self.tokens / self.plain_seconds, "speedup": self.speedup}
        return asdict(self.tally) | {"share_accepted": self.share, "ties": self.ties} | rates


def beginnings(text: Text, most: int = PROMPTS, length: int = BEGUN) -> list[list[int]]:
    """The first tokens of documents, of those that are longer if there are any."""
    documents = [text.document(index)[:length].tolist() for index in range(len(text))]
    return sorted(documents, key=len, reverse=True)[:most]


def own_beginnings(model: LanguageModel, eot: int, count: int = PROMPTS, length: int = BEGUN) -> list[list[int]]:
    """The same of texts that a model writes itself, as likely as it holds them for; `eot` begins each."""
    written = (generate(model, [eot], Taste(), seed) for seed in range(count))
    return [[eot, *itertools.islice(tokens, length - 1)] for tokens in written]


def worth(target: LanguageModel, propose: Callable[[], Draft], prompts: Sequence[Sequence[int]], written: int) -> Worth:
    """Write each prompt on with and without what `propose` makes for it; the first token of each is not timed.

    The texts are the same, or part where the target holds two tokens for as likely within `TIE`; AssertionError else.
    """
    found = Worth()
    for prompt in prompts:
        ways = generate(target, prompt, GREEDY, 0), drafted(target, propose(), prompt, GREEDY, 0, found.tally)
        (plain, plain_seconds), (own, seconds) = (_timed(way, written) for way in ways)
        found.tokens += written
        found.plain_seconds += plain_seconds
        found.seconds += seconds
        if own != plain:
            at = next(at for at, (one, other) in enumerate(zip(own, plain, strict=True)) if one != other)
            logprobs = Endless(target).following(mx.array([[*prompt, *plain[:at]]]))[0]
            gap = abs(logprobs[own[at]].item() - logprobs[plain[at]].item())
            assert gap < TIE, f"a draft changed a greedy text: token {at}, {gap} nats from the likeliest"
            found.ties += 1
    return found


def _timed(tokens: Iterator[int], written: int) -> tuple[list[int], float]:
    """The first token and `written` more, and the seconds of those."""
    first, started = next(tokens), time.perf_counter()
    return [first, *itertools.islice(tokens, written)], time.perf_counter() - started


def pairs(
    models: Mapping[str, LanguageModel], prompts: Mapping[str, Sequence[Sequence[int]]], written: int
) -> Iterator[tuple[str, str, Worth]]:
    """Every model as target, with every model and the text itself as draft: names of both, and what it was worth.

    The prompts are those of the targets, by name.
    """
    for (target, model), draft in itertools.product(models.items(), [*models, PROMPT]):
        yield target, draft, worth(model, partial(_draft, models, draft), prompts[target], written)


def _draft(models: Mapping[str, LanguageModel], name: str) -> Draft:
    return Lookup(next(iter(models.values())).vocab_size) if name == PROMPT else Model(models[name], GREEDY)
