"""Signals that ask a training run to stop: the first is answered when all is saved, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from mlx_gpt.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Asked:
    """While entered, SIGINT and SIGTERM are held in `number` (0: none yet) for whoever looks between two steps.

    Where nobody looks, with `later` false, the first one raises Stopped at once. The second one ends the process on
    the spot, with exit code 128 + number: files are only ever replaced whole, so nothing is lost by it.
    """

    def __init__(self) -> None:
        self.number = 0
        self.later = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python hands signals to no other
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            os._exit(128 + number)
        self.number = number
        if not self.later:
            raise Stopped(number)
        os.write(2, b"\nfinishing this step and saving; once more to leave at once\n")  # print is not safe in here
