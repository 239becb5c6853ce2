"""What bench_counting.py asks a counted model: scores, distributions, tokens, bytes on disk, and KenLM the same."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_counting_tasks import SEED, STAGE, Figures, corpus_of, model_of, table_of

from mlx_gpt.checkpoint import Card, load, save
from mlx_gpt.corpus import Corpus, Text
from mlx_gpt.counting import Sampler, Table
from mlx_gpt.counting.arpa import seen_ids, write_arpa
from mlx_gpt.counting.quantise import quantised
from mlx_gpt.decoding import generate
from mlx_gpt.device import pick_device
from mlx_gpt.door import notice
from mlx_gpt.measure import measure
from mlx_gpt.model import Silent
from mlx_gpt.recipe import Counting
from mlx_gpt.sampling import Taste

if TYPE_CHECKING:
    from bench_counting import Job

KENLM_ORDERS = range(2, 7)  # what its Python package is compiled for
MOST_CELLS = 2**29  # of a dense table: above this, fewer states are asked for in a call


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is asked of a model, and how often: a figure is the median of `runs` runs."""

    runs: int
    scored: int  # tokens, at least
    singles: int  # distributions asked for one by one
    states: int  # distributions in one call
    generated: int  # tokens
    streams: int  # sequences sampled side by side
    length: int  # tokens of each


FULL = Effort(runs=5, scored=2_000_000, singles=2_000, states=4_096, generated=2_000, streams=16_384, length=32)
QUICK = Effort(runs=1, scored=20_000, singles=50, states=64, generated=50, streams=256, length=4)


def ask(job: Job) -> Figures:
    """All that is asked of the model of the whole training text."""
    pick_device()
    corpus, effort = corpus_of(job, Silent().notice), QUICK if job.quick else FULL
    started = time.perf_counter()
    table = table_of(corpus.train.ids, job.order, job.vocab_size, job.eot)
    counted = time.perf_counter() - started
    model = model_of(job)
    model.table = table

    ids = _repeated(corpus.test.ids, effort.scored)
    scoring: dict[str, Work] = {
        "score_1_thread": (ids.size, lambda: table.score(ids, None, 1)),
        "score_2_threads": (ids.size, lambda: table.score(ids, None, 2)),
    }
    table.finder.may_index = False
    notice("scoring without the index")
    rates = {f"{name}_no_index": rate for name, rate in _rates(scoring, effort.runs).items()}
    started = time.perf_counter()
    table.finder.build()
    indexed = time.perf_counter() - started
    started = time.perf_counter()
    sampler = Sampler(table)
    summed = time.perf_counter() - started

    chance = np.random.default_rng(SEED)
    states = table.advance(corpus.test.ids[None])[:, 0]  # (N - 1, T)
    together = max(1, min(effort.states, MOST_CELLS // job.vocab_size))
    dense = np.empty((together, job.vocab_size), np.float32)

    def some(number: int) -> np.ndarray:
        return states[:, chance.integers(0, states.shape[1], number)]

    def one_by_one() -> None:
        for state in some(effort.singles).T:
            table.distribution(state)

    works: dict[str, Work] = {
        **scoring,
        "distributions_one_by_one": (effort.singles, one_by_one),
        "distributions_batched_1_thread": (together, lambda: table.distributions(some(together), 1, dense)),
        "distributions_batched_2_threads": (together, lambda: table.distributions(some(together), 2, dense)),
        "generate_one_stream": (
            effort.generated,
            lambda: list(islice(generate(model, [job.eot], Taste(temperature=1.0), SEED), effort.generated)),
        ),
        "sample_batched": (
            effort.streams * effort.length,
            lambda: sampler.sample(effort.streams, effort.length, job.eot, SEED),
        ),
    }
    kenlm, peer = _kenlm(job, table, corpus, works)
    notice("asking for scores, distributions and tokens")
    rates |= _rates(works, effort.runs)
    storage = _storage(job, model, corpus)
    if peer is not None:
        ours, theirs = rates["score_1_thread"], rates.pop("kenlm_full_scores")
        perplexity = 10 ** (-_full_scores(peer, _lines(corpus.test)) / corpus.test.tokens)
        kenlm |= {"full_scores_tokens_per_second": theirs, "times_full_scores": ours / theirs}
        kenlm |= {"perplexity": perplexity, "perplexity_ratio": perplexity / storage["plain"]["perplexity"]}
    return {
        "model": {
            "order": job.order,
            "tokens": corpus.train.tokens,
            "ngrams": table.rows,
            "seconds": counted,
            "index_seconds": indexed,
            "sampler_seconds": summed,
        },
        "effort": {**dataclasses.asdict(effort), "states": together, "scored": int(ids.size)},
        "rates": rates,
        "storage": storage,
        "kenlm": kenlm,
    }


Work = tuple[int, Callable[[], object]]  # how many answers one call gives, and the call


def _rates(works: Mapping[str, Work], runs: int) -> dict[str, float]:
    """Answers a second, the median of several runs; taken in turn, so that a busy moment is not one work's own."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, (_, work) in works.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: answers / statistics.median(seconds[name]) for name, (answers, _) in works.items()}


def _repeated(ids: np.ndarray, tokens: int) -> np.ndarray:
    """A stream as often as it takes to reach so many tokens, (1, T)."""
    times = -(-tokens // (len(ids) - 1))
    return np.concatenate([ids[:1], np.tile(ids[1:], times)])[None]


def _storage(job: Job, model: Any, corpus: Corpus) -> Figures:
    """Bytes on disk, time and perplexity, of the table as it is and in 8-bit numbers. Files stay in the page cache."""
    notice("saving, loading and measuring, plain and quantised")
    short = model_of(job, in_bits=True)
    started = time.perf_counter()
    short.table = quantised(model.table)
    seconds = time.perf_counter() - started
    found: Figures = {"quantise_seconds": seconds}
    for name, each in (("plain", model), ("quantised", short)):
        path = Path(job.folder) / f"{name}.safetensors"
        started = time.perf_counter()
        save(path, each, corpus.tokenizer, _card(each, corpus))
        saved = time.perf_counter()
        loaded = load(path)
        seconds = time.perf_counter() - saved
        score = measure(each, corpus.test)
        assert loaded.card.vocab_size == job.vocab_size
        found[name] = {
            "bytes": path.stat().st_size,
            "bytes_per_ngram": path.stat().st_size / sum(each.table.rows),
            "save_seconds": saved - started,
            "load_seconds": seconds,
            "perplexity": score.perplexity,
            "bits_per_byte": score.bits_per_byte,
        }
    found["perplexity_ratio"] = found["quantised"]["perplexity"] / found["plain"]["perplexity"]
    return found


def _card(model: Any, corpus: Corpus) -> Card:
    return Card(
        stage=STAGE,
        preset="small",
        config=model.config,
        recipe=Counting(),
        vocab_size=model.vocab_size,
        source=corpus.source,
        corpus=corpus.digest,
        text=corpus.text,
        step=1,
        finished=True,
        scores={},
    )


# --- KenLM, through its Python package


def _kenlm(job: Job, table: Table, corpus: Corpus, works: dict[str, Work]) -> tuple[Figures, Any]:
    """Load our model into KenLM and add its scoring to the works; what was measured on the way, and the model."""
    if importlib.util.find_spec("kenlm") is None:
        notice("kenlm is not installed, so nothing is compared with it: pip install kenlm")
        return {}, None
    if job.order not in KENLM_ORDERS:
        notice(f"KenLM reads orders 2 to 6, not {job.order}: nothing is compared with it")
        return {}, None
    notice("writing the model as ARPA, for KenLM to load")
    path, words = Path(job.folder) / "model.arpa", corpus.tokenizer
    spelled, unknown = [str(each) for each in range(job.vocab_size)], words.unknown
    started, worked = time.perf_counter(), time.process_time()
    write_arpa(table, spelled, job.eot, unknown, seen_ids(table, unknown), path)
    written, cpu = time.perf_counter(), time.process_time() - worked
    kenlm = importlib.import_module("kenlm")
    config = kenlm.Config()
    config.show_progress = False
    peer = kenlm.Model(str(path), config)
    loaded, size = time.perf_counter(), path.stat().st_size
    path.unlink()
    lines = _lines(corpus.test)
    works["kenlm_full_scores"] = (corpus.test.tokens, lambda: _full_scores(peer, lines))
    return {
        "arpa_seconds": written - started,
        "arpa_cpu_seconds": cpu,
        "arpa_bytes": size,
        "load_seconds": loaded - written,
    }, peer


def _lines(text: Text) -> list[str]:
    """Documents as KenLM takes them: decimal ids between blanks."""
    return [" ".join(map(str, text.document(place)[1:-1].tolist())) for place in range(len(text))]


def _full_scores(peer: Any, lines: list[str]) -> float:
    """The sum of log10 p of every word, by KenLM's Python package."""
    return sum(score for line in lines for score, _, _ in peer.full_scores(line, bos=True, eos=True))
