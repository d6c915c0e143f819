"""Sign flips and permutations of rows under which errors are as likely as they are: drawn, or all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import factorial, prod

import numpy as np

from ...errors import DataError


@dataclass(frozen=True)
class Scheme:
    """What may be done with errors e (n,): ``sign * e[index]``.

    Attributes
    ----------
    flips : rows whose signs change together, a set each
    within : rows that may change places with each other, a set each
    between : sets of blocks of rows, of one size, that may change places as wholes, rows in their order
    """

    n: int
    flips: tuple[np.ndarray, ...] = ()
    within: tuple[np.ndarray, ...] = ()
    between: tuple[tuple[np.ndarray, ...], ...] = ()

    @classmethod
    def of(cls, n: int, flip: np.ndarray | None, within: np.ndarray | None, between: np.ndarray | None) -> Scheme:
        """From codes (n,) of rows.

        Raises
        ------
        DataError
            Where nothing can be rearranged.
        """
        blocks = _sets(between)
        sizes = np.array([len(block) for block in blocks], int)
        alike = tuple(tuple(blocks[i] for i in np.flatnonzero(sizes == size)) for size in np.unique(sizes))
        inside = tuple(rows for rows in _sets(within) if len(rows) > 1)
        found = cls(n, _sets(flip), inside, tuple(some for some in alike if len(some) > 1))
        if found.count < 2:
            raise DataError(
                "flip, within, between: give the groups of rows whose signs may change together (flip), whose rows may "
                "change places (within), or that may change places as wholes with others of their size (between); "
                "found none"
            )
        return found

    @property
    def count(self) -> int:
        """How many rearrangements there are."""
        return 2 ** len(self.flips) * prod(map(factorial, self._sizes))

    @property
    def _sizes(self) -> list[int]:
        return [len(blocks) for blocks in self.between] + [len(rows) for rows in self.within]

    def all(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every rearrangement, that of nothing first: index and sign (n,)."""
        signs = list(product((1.0, -1.0), repeat=len(self.flips)))
        for chosen in product(*(permutations(range(size)) for size in self._sizes)):
            index = self._index(chosen)
            for sign in signs:
                yield index, self._sign(sign)

    def draws(self, count: int, seed: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`count` rearrangements, that of nothing first and others at random."""
        yield np.arange(self.n), np.ones(self.n)
        for _ in range(count - 1):
            index = self._index([seed.permutation(size) for size in self._sizes])
            yield index, self._sign(seed.choice([1.0, -1.0], len(self.flips)))

    def _index(self, chosen: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
        index = np.arange(self.n)
        for blocks, order in zip(self.between, chosen, strict=False):
            for block, source in zip(blocks, order, strict=True):
                index[block] = blocks[source]
        inside = np.arange(self.n)
        for rows, order in zip(self.within, chosen[len(self.between) :], strict=True):
            inside[rows] = rows[np.asarray(order)]
        return index[inside]

    def _sign(self, signs: Sequence[float] | np.ndarray) -> np.ndarray:
        out = np.ones(self.n)
        for rows, sign in zip(self.flips, signs, strict=True):
            out[rows] = sign
        return out


def _sets(codes: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Rows of each code, in their order."""
    if codes is None:
        return ()
    order = np.argsort(codes, kind="stable")
    return tuple(np.split(order, np.cumsum(np.bincount(codes))[:-1]))
