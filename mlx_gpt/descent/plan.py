"""What a run will take, before it starts: work, memory by part, time, and a way to compute it that fits the machine.

Nothing here prints: `plan` returns numbers, which planned.py puts into words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlx_gpt.corpus import Corpus
from mlx_gpt.descent.loop import looked_at, sequence_length
from mlx_gpt.descent.neural import Neural
from mlx_gpt.descent.optimizers import hidden_matrices, is_matrix
from mlx_gpt.descent.precision import fastest
from mlx_gpt.descent.probe import Probe, Reading, Way
from mlx_gpt.device import GPU_SHARE, room_to_compute
from mlx_gpt.errors import SettingError
from mlx_gpt.measure import BATCH_TOKENS
from mlx_gpt.model import LanguageModel
from mlx_gpt.recipe import Descent, option, size_in_bytes

Build = Callable[[], LanguageModel]

MEASURING = "measuring a step and a look at the validation text, to plan the run; a large model takes up to a minute"
MARGIN = 1.1  # a plan fits if it still does when it is wrong by so much
CLEAR = 0.25  # share of the limit below which a rough bound is enough
CHUNK = 512  # positions: the loss in chunks, where nothing else helps
FLOATS_A_WEIGHT = 18  # never passed in any step: masters, optimiser, gradients, Muon's products
FLOATS_A_NUMBER = 8  # the same for what goes in and out of a matrix, for each token
# Recommended working sets of an M2 by its memory (GB): 16 GB from logs of llama.cpp (10922 MiB), the rest by two thirds
M2 = {8: 5.3 * 2**30, 16: 10_922 * 2**20, 24: 16.0 * 2**30}
M2_FLOPS = 1.6e12  # a second, sustained: 45 % of ten cores' 3.58 TFLOPS, as published trainings reach on an M2 Pro


@dataclass(frozen=True)
class Work:
    """Floating-point operations of training."""

    multiplying: int  # weights that multiply every token
    attention: int  # layers x width x tokens in a sequence; 0 without heads
    tokens: int

    @property
    def per_token(self) -> float:
        """Forward and backward (Kaplan et al. 2020; the attention as in PaLM, Chowdhery et al. 2022)."""
        return 6.0 * self.multiplying + 12.0 * self.attention


@dataclass(frozen=True)
class Need:
    """The bytes of MLX's buffers where a run needs most of them, by part."""

    weights: float
    optimizer: float
    carried: float
    best: float
    gradients: float
    logits: float
    activations: float  # and all that is on its way: the rest of what was measured
    look: float  # all that a look at the validation text needs, which is another moment

    @property
    def step(self) -> float:
        """All that a step needs."""
        held = self.weights + self.optimizer + self.carried + self.best
        return held + self.gradients + self.logits + self.activations

    @property
    def total(self) -> float:
        return max(self.step, self.look)


@dataclass(frozen=True)
class Offer:
    """A way to compute the steps, and what it takes."""

    way: Way
    need: Need
    seconds: float  # a step


@dataclass(frozen=True)
class Plan:
    """What a run will take. Bytes, seconds, tokens."""

    recipe: Descent
    length: int
    precision: str
    parameters: int
    steps: int
    corpus: int
    work: Work
    limit: int
    room: str  # what the limit is
    given: Offer
    fitting: Offer | None
    measured: int  # sequences, the most that were measured at one time; what more of them take is extrapolated
    look_seconds: float
    looks: int
    m2: dict[int, Offer | None]

    @property
    def seconds(self) -> float:
        """The whole run, by the fitting way where there is one."""
        return self.steps * (self.fitting or self.given).seconds + self.looks * self.look_seconds


def room() -> tuple[int, str]:
    """Bytes a run may use and what they are; MLX_GPT_MEMORY puts another size in place of the machine's."""
    named = os.environ.get("MLX_GPT_MEMORY", "")
    if not named:
        return room_to_compute()
    try:
        return size_in_bytes(named), f"MLX_GPT_MEMORY={named}"
    except SettingError as error:
        raise SettingError(f"MLX_GPT_MEMORY={named}: expected a size such as 500M or 2G") from error


def require(build: Build, corpus: Corpus, recipe: Descent, notice: Callable[[str], None] = lambda _: None) -> None:
    """Raise SettingError, naming settings that would do, for a run that does not fit; free for one that clearly does.

    `build` makes a model like the run's, and draws from MLX's global stream of random numbers; `notice` is told before
    anything is measured.
    """
    limit, what = room()
    if bound(_built(build), recipe) <= CLEAR * limit:
        return
    notice(MEASURING)
    given, fitting = _choose(_probe(build, recipe), recipe, corpus, limit)
    if fitting == given:
        return
    needs = f"{spelled(given.way)}: needs {sized(given.need.total)} for MLX's buffers, and there are {sized(limit)}"
    if fitting is None:
        raise SettingError(
            f"{needs} ({what}); no --accumulate and no recomputation fits: take a smaller --length, --width or --preset"
        )
    raise SettingError(
        f"{needs} ({what}); this fits, for the same steps: {spelled(fitting.way)} ({sized(fitting.need.total)})"
    )


def plan(build: Build, corpus: Corpus, recipe: Descent, m2: bool = True) -> Plan:
    """Measure a few steps and plan the whole run; `m2` also looks for ways that fit the memories of an M2."""
    limit, what = room()
    probe = _probe(build, recipe)
    given, fitting = _choose(probe, recipe, corpus, limit)
    best = fitting or given
    steps = max(1, round(60 * recipe.minutes / best.seconds)) if recipe.minutes else recipe.steps
    model = probe.model
    return Plan(
        recipe,
        probe.length,
        probe.precision,
        sum(array.size for array in model.arrays().values()),
        steps,
        corpus.train.tokens,
        work(model, steps * recipe.batch_size, probe.length),
        limit,
        what,
        given,
        fitting,
        probe.most,
        probe.look(looked_at(corpus)).seconds,
        -(-steps // recipe.evaluate_every),
        {gb: _choose(probe, recipe, corpus, GPU_SHARE * size)[1] for gb, size in M2.items()} if m2 else {},
    )


def work(model: Neural, sequences: int, length: int) -> Work:
    """What training on so many sequences of `length` tokens costs: every matrix multiplies every token once, a table
    whose rows are looked up does not, and blocks with heads compare each token with `length` others."""
    head, _ = model.head()
    arrays = model.arrays()
    hidden = sum(arrays[name].size for name in hidden_matrices(arrays))
    layers = len(model.blocks) if "blocks" in model else 0
    return Work(hidden + head.size, layers * head.shape[1] * length, sequences * length)


def bound(model: Neural, recipe: Descent) -> float:
    """Bytes that no run of this recipe passes, from the shapes of the weights alone; several times the truth."""
    length = sequence_length(model, recipe)
    tokens = max(recipe.batch_size // recipe.accumulate * length, BATCH_TOKENS)
    arrays = model.arrays()
    wide = sum(sum(a.shape) if is_matrix(name, a) else a.size for name, a in arrays.items() if a.ndim >= 2)
    # heads of at least 16 numbers each, every one with a score for each pair of tokens
    scores = len(model.blocks) * -(-model.head()[0].shape[1] // 16) * length if "blocks" in model else 0
    floats = FLOATS_A_WEIGHT * sum(array.size for array in arrays.values())
    return 4 * (floats + FLOATS_A_NUMBER * tokens * (wide + scores))


def ways(recipe: Descent, blocks: bool) -> Iterator[Way]:
    """As the settings say, then in more parts, then computing blocks again, then both, and then logits in chunks."""
    size = recipe.batch_size
    parts = [n for n in range(recipe.accumulate, size + 1) if size % n == 0]
    smaller = [CHUNK] * (not recipe.loss_chunk or recipe.loss_chunk > CHUNK)
    for chunk in (recipe.loss_chunk, *smaller):
        for again in (recipe.recompute, *[True] * (blocks and not recipe.recompute)):
            for most in (False, True):
                yield from (Way(n, again, chunk) for n in parts if (n > recipe.accumulate) == most)


def _probe(build: Build, recipe: Descent) -> Probe:
    precision = fastest()[0] if recipe.precision == "auto" else recipe.precision
    length = sequence_length(_built(build), recipe)
    return Probe(lambda: _built(build), recipe, precision, length, room_to_compute()[0])


def _built(build: Build) -> Neural:
    model = build()
    assert isinstance(model, Neural), "a recipe of descent for a model without weights"
    return model


def _choose(probe: Probe, recipe: Descent, corpus: Corpus, limit: float) -> tuple[Offer, Offer | None]:
    """The way the settings give, and the first that fits."""
    given = None
    look = probe.look(looked_at(corpus))
    for way in ways(recipe, "blocks" in probe.model):
        offer = _offer(probe, way, look, limit)
        given = given or offer
        if MARGIN * offer.need.total <= limit:
            return given, offer
    assert given is not None
    return given, None


def _offer(probe: Probe, way: Way, look: Reading, limit: float) -> Offer:
    recipe, (peak, seconds) = probe.recipe, probe.step(way, limit)
    rows = recipe.batch_size // way.accumulate
    # the weights that did best are the run's own until the step after the first look
    best = probe.weights if recipe.minutes or recipe.steps > recipe.evaluate_every else 0
    gradients = probe.weights * min(way.accumulate, 2)  # with parts, the sum and what is added to it
    rest = max(0.0, peak - probe.weights - probe.optimizer - probe.carried - gradients)
    positions = rows * probe.length
    logits = 2.0 * 4 * probe.model.vocab_size * (min(way.loss_chunk, positions) if way.loss_chunk else positions)
    logits = min(logits, rest)
    need = Need(probe.weights, probe.optimizer, probe.carried, best, gradients, logits, rest - logits, look.peak + best)
    return Offer(way, need, seconds)


def spelled(way: Way) -> str:
    """A way as the command line has it."""
    words = [option("accumulate"), str(way.accumulate)]
    words += [option("recompute")] * way.recompute
    words += [option("loss_chunk"), str(way.loss_chunk)] if way.loss_chunk else []
    return " ".join(words)


def sized(size: float) -> str:
    """480.0 MB or 1.25 GB."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
