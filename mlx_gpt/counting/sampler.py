"""Many sequences drawn at once, without ever making a table of the vocabulary.

An interpolated model is a mixture: after context h a child is drawn, each with the share of its probability that
is its own, p(w | h) - backoff(h) p(w | h'), or else, with probability backoff(h), the next token is drawn after
the shorter context h'. That is the model's own law, for no word is refused on the way down.
"""

from __future__ import annotations

import numpy as np

from mlx_gpt.counting.table import Table

ROUNDING = 1e-6  # a share below zero by no more than this is a rounded zero


class Sampler:
    """Draws from a table; see `Table` for states."""

    def __init__(self, table: Table) -> None:
        """Sums the shares of all rows; raises ValueError for a table that is no mixture, such as Katz's."""
        self.table = table
        self.sums = [np.cumsum(table.unigram, dtype=np.float64)]  # (R,) of each order, over all rows
        self.sums += [np.empty(rows) for rows in table.rows[1:]]
        for k, row, contexts, suffixes in table.with_suffixes():
            level, lower = table.levels[k - 1], table.levels[k - 2]
            assert lower.backoffs is not None
            p = level.probabilities[row : row + len(contexts)]
            own = p - lower.backoffs.take(contexts) * lower.probabilities.take(suffixes).astype(np.float64)
            if len(own) and own.min() < -ROUNDING:
                raise ValueError("not an interpolated model: draw from its distributions instead")
            self.sums[k - 1][row : row + len(own)] = np.maximum(own, 0)
        for sums in self.sums[1:]:
            np.cumsum(sums, out=sums)

    def draw(self, state: np.ndarray, chance: np.random.Generator) -> np.ndarray:
        """The next token (B,) of each sequence of a state (N - 1, B)."""
        table, batch = self.table, state.shape[1]
        tokens = np.full(batch, -1, np.int64)
        left = np.arange(batch)
        for k in range(table.order, 1, -1):
            context = state[k - 2].take(left)
            known = np.flatnonzero(context >= 0)
            backoffs = table.levels[k - 2].backoffs
            assert backoffs is not None
            backoff = backoffs.take(context.take(known))
            where = chance.random(len(known))
            stays = np.flatnonzero(where >= backoff)
            place = known.take(stays)
            begins, stops = table.levels[k - 1].starts.spans(context.take(place))
            full = np.flatnonzero(begins < stops)
            place, begins, stops = place.take(full), begins.take(full), stops.take(full)
            if len(place):
                at = stays.take(full)
                share = (where.take(at) - backoff.take(at)) / np.maximum(1 - backoff.take(at), 1e-30)
                tokens[left.take(place)] = table.levels[k - 1].tokens.take(self._row(k, begins, stops, share))
                left = np.flatnonzero(tokens < 0)
            if not len(left):
                return tokens
        whole = self.sums[0]
        drawn = np.searchsorted(whole, chance.random(len(left)) * whole[-1], side="right")
        tokens[left] = np.minimum(drawn, table.vocab_size - 1)
        return tokens

    def _row(self, k: int, begins: np.ndarray, stops: np.ndarray, share: np.ndarray) -> np.ndarray:
        """The row in [begin, stop) at which the running sum of shares passes `share` of the whole, by bisection."""
        sums = self.sums[k - 1]
        low, high = begins, stops - 1
        base = np.where(begins > 0, sums.take(np.maximum(begins - 1, 0)), 0.0)
        target = base + share * (sums.take(high) - base)
        found = low.copy()
        left = np.flatnonzero(low < high)
        low, high, target = low.take(left), high.take(left), target.take(left)
        while len(left):
            middle = (low + high) >> 1
            above = sums.take(middle) <= target
            low, high = np.where(above, middle + 1, low), np.where(above, high, middle)
            done = low >= high
            found[left[done]] = low[done]
            going = np.flatnonzero(~done)
            left, low, high, target = left.take(going), low.take(going), high.take(going), target.take(going)
        return found

    def sample(self, batch: int, length: int, eot: int, seed: int) -> np.ndarray:
        """(B, T) token ids of sequences that begin a document; after its end each begins another one."""
        chance = np.random.default_rng(seed)
        out = np.empty((batch, length), np.int64)
        state = self.table.advance(np.full((batch, 1), eot))[:, :, 0]
        for t in range(length):
            out[:, t] = self.draw(state, chance)
            state = self.table.advance(out[:, t : t + 1], state)[:, :, 0]
        return out
