"""Training batches whose position is one number: batch k of a text is a pure function of k."""

from __future__ import annotations

import numpy as np

from mlx_gpt.errors import SettingError


class Shuffled:
    """Every block of the text once per epoch, in a new order and from a new starting point each time."""

    def __init__(self, ids: np.ndarray, batch_size: int, length: int, seed: int) -> None:
        """Blocks of `length` + 1 ids (the last is a target only) from ids (N,)."""
        require(len(ids), length)
        self.ids, self.batch_size, self.length, self.seed = ids, batch_size, length, seed
        self.blocks = (len(ids) - 1) // length
        self._epoch: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def at(self, step: int) -> np.ndarray:
        """The batch of a step, (B, T + 1) int32, whatever was asked for before."""
        serial = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        starts = [self._starts(int(n // self.blocks))[n % self.blocks] for n in serial]
        return np.stack([self.ids[start : start + self.length + 1] for start in starts]).astype(np.int32)

    def _starts(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            chance = np.random.default_rng([self.seed, epoch])
            spare = len(self.ids) - 1 - self.blocks * self.length
            shift = int(chance.integers(spare + 1))
            self._epoch = (epoch, chance.permutation(self.blocks) * self.length + shift)
        return self._epoch[1]


class Running:
    """The text in reading order on `batch_size` parallel tracks: each batch goes on where the last one ended."""

    def __init__(self, ids: np.ndarray, batch_size: int, length: int) -> None:
        require(len(ids), length)
        self.ids, self.batch_size, self.length = ids, batch_size, length

    def at(self, step: int) -> np.ndarray:
        """The batch of a step, (B, T + 1) int32; tracks start evenly spread and wrap around at the end."""
        tracks = np.arange(self.batch_size) * (len(self.ids) // self.batch_size)
        places = (tracks + step * self.length)[:, None] + np.arange(self.length + 1)  # (B, T + 1)
        return self.ids[places % len(self.ids)].astype(np.int32)


def require(tokens: int, length: int) -> None:
    """Raise SettingError when a text of `tokens` ids has no block of `length` + 1."""
    if tokens <= length:
        raise SettingError(
            f"sequences of {length} tokens: the training text has only {tokens}; "
            "take a shorter --length (or --context), or more text"
        )
