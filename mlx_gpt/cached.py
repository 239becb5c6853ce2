"""A GPT read through another cache than its own: one without an end that keeps the first tokens, one of few bits."""

from __future__ import annotations

import mlx.core as mx

from mlx_gpt.errors import SettingError
from mlx_gpt.kv_cache import KVCache
from mlx_gpt.memory import Memory
from mlx_gpt.model import LanguageModel, Wrapped


def cached(model: LanguageModel, keep_first: int | None = None, bits: int | None = None) -> LanguageModel:
    """A model with such a cache, see `Cached`; the model itself where nothing is asked for."""
    return model if keep_first is None and bits is None else Cached(model, keep_first, bits)


class Cached(Wrapped):
    """A model whose memories are caches of the given kind; without one given, too, it reads through one."""

    def __init__(self, model: LanguageModel, keep_first: int | None, bits: int | None) -> None:
        """
        keep_first  tokens of the beginning that stay; the others are forgotten as the window moves on, and the memory
                    has no end. None: it ends with the context
        bits        8 or 4 for each number of the keys and values; None: as they are

        Raises SettingError for a model that has no such cache.
        """
        super().__init__(model)
        self.keep_first, self.bits = keep_first, bits
        plain = model.memory()
        rotary = isinstance(plain, KVCache) and plain.layout.rotary
        if keep_first is not None and not rotary:
            why = "knows the places of its context one by one, and none beyond" if plain.room else "never fills"
            raise SettingError(
                f"--keep-first {keep_first}: this model's memory {why}; drop it, or take stage 10 or 11, which turn "
                "keys by their distance"
            )
        if not isinstance(plain, KVCache):
            raise SettingError(
                f"--cache-bits {bits}: this model keeps no keys and values of its own; drop it, or take "
                "stage 9, 10 or 11"
            )
        self.layout = plain.layout
        self.memory()

    def memory(self, batch: int = 1) -> KVCache:
        """An empty one."""
        return KVCache(batch, self.layout, self.keep_first, self.bits)

    def logprobs(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T, V)."""
        return self.model.logprobs(ids, self.memory(ids.shape[0]) if memory is None else memory)

    def following(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, V), after the last id alone."""
        return self.model.following(ids, self.memory(ids.shape[0]) if memory is None else memory)

    def score(self, ids: mx.array, memory: Memory | None = None) -> mx.array:
        """(B, T) -> (B, T - 1)."""
        return self.model.score(ids, self.memory(ids.shape[0]) if memory is None else memory)
