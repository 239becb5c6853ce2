"""Batches prepared by a thread of their own while the device computes."""

from __future__ import annotations

import queue
import threading
from typing import Protocol

import numpy as np

READY = 2  # batches that wait at most


class Batches(Protocol):
    """Batch k of a text, a pure function of k."""

    def at(self, step: int) -> np.ndarray: ...


class Ahead:
    """The batches of steps `start`, `start` + 1, … one after another; `close` ends the thread."""

    def __init__(self, batches: Batches, start: int) -> None:
        self._batches = batches
        self._ready: queue.Queue[np.ndarray | BaseException] = queue.Queue(READY)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._prepare, args=(start,), name="batches", daemon=True)
        self._thread.start()

    def next(self) -> np.ndarray:
        """The next batch; what went wrong in the thread is raised here."""
        batch = self._ready.get()
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def close(self) -> None:
        """Stop preparing; returns when the thread has ended."""
        self._over.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.01)  # makes room for a thread that waits to hand one over
            except queue.Empty:
                self._thread.join(timeout=0.01)

    def _prepare(self, step: int) -> None:
        while not self._over.is_set():
            try:
                self._ready.put(self._batches.at(step))
            except BaseException as error:  # whatever it is belongs to the thread that trains
                self._ready.put(error)
                return
            step += 1
