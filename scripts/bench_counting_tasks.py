"""What bench_counting.py counts, each task in a process of its own: its memory and its CPU time are its own."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_gpt import stages
from mlx_gpt.corpus import Corpus, Source, Text, open_corpus
from mlx_gpt.counting import Table, count, estimate
from mlx_gpt.counting.counts import id_type, threads_here
from mlx_gpt.counting.smoothing import Discounting
from mlx_gpt.counting.statistics import three_discounts
from mlx_gpt.device import description, memory_of_machine, peak_memory, pick_device
from mlx_gpt.door import notice
from mlx_gpt.model import Silent
from mlx_gpt.recipe import Counting

if TYPE_CHECKING:
    from bench_counting import Job

SEED = 0
STAGE = 4  # modified Kneser-Ney

Figures = dict[str, Any]


def corpus_of(job: Job, notice: Callable[[str], None]) -> Corpus:
    return open_corpus(Source(tuple(job.data), job.tokenizer, job.vocab_size, 0), notice)


def _grown(job: Job) -> np.ndarray:
    """The ids (tokens + 1,) to be counted, memory-mapped."""
    return np.memmap(Path(job.folder) / "grown.ids", id_type(job.vocab_size), "r")[: job.tokens + 1]


# --- texts


def prepare(job: Job) -> Figures:
    """Write the text that grows: the training text while it lasts, then the same again and again with a share of
    the tokens drawn anew from the unigram; and its beginning, size 1, as decimal ids, a document a line."""
    pick_device()
    corpus = corpus_of(job, notice)
    ids, words = corpus.train.ids, corpus.tokenizer
    base = np.array(ids[: job.tokens + 1])
    if len(base) <= job.tokens:
        notice(f"the training text has {len(base) - 1:,} tokens: size 1 is all of it")
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


def nothing(job: Job) -> Figures:
    _grown(job)
    return {"peak_bytes": peak_memory()}


def count_all(job: Job) -> Figures:
    ids = _grown(job)
    started, worked = time.perf_counter(), time.process_time()
    table = table_of(ids, job.order, job.vocab_size, job.eot)
    return _point(job, table, started, worked)


def shards(job: Job) -> Figures:
    """The same through files, as stage 4 does it when a text is too long for --memory."""
    corpus = corpus_of(job, Silent().notice)
    text = Text(_grown(job), np.array([0, job.tokens]), np.array([1]))
    corpus = dataclasses.replace(corpus, train=text, valid=corpus.valid.head(1, corpus.tokenizer))
    model = model_of(job)
    started, worked = time.perf_counter(), time.process_time()
    model.fit(corpus, Counting(memory=job.memory), Silent())
    return {**_point(job, model.table, started, worked), "on_disk": not model.table.finder.may_index}


def table_of(ids: np.ndarray, order: int, vocab_size: int, eot: int) -> Table:
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


def model_of(job: Job, in_bits: bool = False) -> Any:
    stage = stages.stage(STAGE)
    config = dataclasses.replace(stage.config, order=job.order, quantised=in_bits)  # type: ignore[call-arg]
    return stage.model(config, job.vocab_size)
