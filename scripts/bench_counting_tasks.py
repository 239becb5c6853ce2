"""What bench_counting.py measures, each task in a process of its own: its memory and its CPU time are its own."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from mlx_gpt import stages
from mlx_gpt.checkpoint import Card, load, save
from mlx_gpt.corpus import Corpus, Source, Text, open_corpus
from mlx_gpt.counting import Sampler, Table, count, estimate
from mlx_gpt.counting.arpa import seen_ids, write_arpa
from mlx_gpt.counting.counts import id_type, threads_here
from mlx_gpt.counting.quantise import quantised
from mlx_gpt.counting.smoothing import Discounting
from mlx_gpt.counting.statistics import three_discounts
from mlx_gpt.decoding import generate
from mlx_gpt.device import description, memory_of_machine, peak_memory, pick_device
from mlx_gpt.measure import measure
from mlx_gpt.model import Silent
from mlx_gpt.recipe import Counting
from mlx_gpt.sampling import Taste

if TYPE_CHECKING:
    from bench_counting import Job

SEED = 0
STAGE = 4  # modified Kneser-Ney
KENLM_ORDERS = range(2, 7)  # what its Python package is compiled for
MOST_CELLS = 2**29  # of a dense table: above this, fewer states are asked for in a call

Figures = dict[str, Any]


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


def perform(job: Job) -> Figures:
    """The figures of a job, ready for JSON."""
    tasks = {"prepare": _prepare, "nothing": _nothing, "count": _count, "shards": _shards, "ask": _ask}
    return tasks[job.task](job)


def _notice(message: str) -> None:
    click.secho(message, err=True, dim=True)


def _corpus(job: Job, notice: Callable[[str], None]) -> Corpus:
    return open_corpus(Source(tuple(job.data), job.tokenizer, job.vocab_size, 0), notice)


def _grown(job: Job) -> np.ndarray:
    """The ids (tokens + 1,) to be counted, memory-mapped."""
    return np.memmap(Path(job.folder) / "grown.ids", id_type(job.vocab_size), "r")[: job.tokens + 1]


# --- texts


def _prepare(job: Job) -> Figures:
    """Write the text that grows: the training text while it lasts, then the same again and again with a share of
    the tokens drawn anew from the unigram; and its beginning, size 1, as decimal ids, a document a line."""
    pick_device()
    corpus = _corpus(job, _notice)
    ids, words = corpus.train.ids, corpus.tokenizer
    base = np.array(ids[: job.tokens + 1])
    if len(base) <= job.tokens:
        _notice(f"the training text has {len(base) - 1:,} tokens: size 1 is all of it")
    chance = np.random.default_rng(SEED)
    with (Path(job.folder) / "grown.ids").open("wb") as file:
        wanted = job.tokens * job.repeats + 1
        real = np.array(ids[:wanted])
        real.tofile(file)
        wanted -= len(real)
        while wanted > 0:
            text = real[1 : wanted + 1].copy()
            wanted -= len(text)
            drawn = real[chance.integers(0, len(real), len(text))]
            anew = (chance.random(len(text)) < job.noise) & (drawn != words.eot) & (text != words.eot)
            text[anew] = drawn[anew]
            text.tofile(file)
    with Path(job.ids).open("w", encoding="ascii") as lines:
        for document in np.split(base, np.flatnonzero(base == words.eot)):
            if len(document) > 1:
                lines.write(" ".join(map(str, document[1:].tolist())) + "\n")
    return {
        "machine": {
            "description": description(),
            "cpus": threads_here(),
            "memory_bytes": memory_of_machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "text": {
            "source": str(corpus.source),
            "tokenizer": words.kind,
            "vocab_size": words.vocab_size,
            "training_tokens": corpus.train.tokens,
            "held_out_tokens": corpus.test.tokens,
            "size_1_tokens": len(base) - 1,
        },
        "eot": words.eot,
    }


# --- from ids to a model


def _nothing(job: Job) -> Figures:
    _grown(job)
    return {"peak_bytes": peak_memory()}


def _count(job: Job) -> Figures:
    ids = _grown(job)
    started, worked = time.perf_counter(), time.process_time()
    table = _counted(ids, job.order, job.vocab_size, job.eot)
    return _point(job, table, started, worked)


def _shards(job: Job) -> Figures:
    """The same through files, as stage 4 does it when a text is too long for --memory."""
    corpus = _corpus(job, Silent().notice)
    text = Text(_grown(job), np.array([0, job.tokens]), np.array([1]))
    corpus = dataclasses.replace(corpus, train=text, valid=corpus.valid.head(1, corpus.tokenizer))
    model = _model(job)
    started, worked = time.perf_counter(), time.process_time()
    model.fit(corpus, Counting(memory=job.memory), Silent())
    return {**_point(job, model.table, started, worked), "on_disk": not model.table.finder.may_index}


def _counted(ids: np.ndarray, order: int, vocab_size: int, eot: int) -> Table:
    counts = count(ids, order, vocab_size, eot)
    return estimate(counts, Discounting(three_discounts, continuation=True), lambda message: None)[0]


def _point(job: Job, table: Table, started: float, worked: float) -> Figures:
    return {
        "tokens": job.tokens,
        "order": job.order,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - worked,
        "peak_bytes": peak_memory(),
        "ngrams": table.rows,
    }


def _model(job: Job, in_bits: bool = False) -> Any:
    stage = stages.stage(STAGE)
    config = dataclasses.replace(stage.config, order=job.order, quantised=in_bits)  # type: ignore[call-arg]
    return stage.model(config, job.vocab_size)


# --- what a model answers


def _ask(job: Job) -> Figures:
    """All that is asked of the model of the whole training text."""
    pick_device()
    corpus, effort = _corpus(job, Silent().notice), QUICK if job.quick else FULL
    started = time.perf_counter()
    table = _counted(corpus.train.ids, job.order, job.vocab_size, job.eot)
    counted = time.perf_counter() - started
    model = _model(job)
    model.table = table

    ids = _repeated(corpus.test.ids, effort.scored)
    scoring: dict[str, Work] = {
        "score_1_thread": (ids.size, lambda: table.score(ids, None, 1)),
        "score_2_threads": (ids.size, lambda: table.score(ids, None, 2)),
    }
    table.finder.may_index = False
    _notice("scoring without the index")
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
    _notice("asking for scores, distributions and tokens")
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
    _notice("saving, loading and measuring, plain and quantised")
    short = _model(job, in_bits=True)
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
        _notice("kenlm is not installed, so nothing is compared with it: pip install kenlm")
        return {}, None
    if job.order not in KENLM_ORDERS:
        _notice(f"KenLM reads orders 2 to 6, not {job.order}: nothing is compared with it")
        return {}, None
    _notice("writing the model as ARPA, for KenLM to load")
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
