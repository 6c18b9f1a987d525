"""A table of cells, each holding count, mean and co-moments of its rows; tables merge exactly.

A cell is the unit that is left out when coefficients are fitted and, for groups, the unit of independence.
Moments are centred and combined by Chan's formulas, so that nothing is lost when means are large: the variance of
10,000 numbers about 1e8 keeps ten digits, of Σz² − (Σz)²/n not even the first is right.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import combinations_with_replacement, permutations
from zlib import crc32

import numpy as np

from kullback.arrays import Float64

Cells = slice | np.ndarray | Sequence[int]
"""Which cells of a table."""


@dataclass(frozen=True)
class Moments:
    """Per cell, with d = z − mean: count (cells,), mean (cells, p), Σ d⊗d (cells, p, p), Σ d⊗d⊗d (cells, p, p, p)."""

    # The third moments are what grows: p = 3 of k1 and k3 are 27 numbers a cell, 0.2 MB in 1,024 cells; p = 4 of two
    # controls 0.5 MB, and 2 MB more in 4,096 prompts. Eight controls would be 41 MB in both, twenty 436 MB.

    count: Float64
    mean: Float64
    comoment: Float64
    third: Float64

    @classmethod
    def empty(cls, cells: int, columns: int) -> Moments:
        """A table of empty cells."""
        return cls(*(_table(cells, columns, order) for order in range(4)))

    @classmethod
    def of(cls, cell: np.ndarray, rows: Float64, cells: int) -> Moments:
        """The moments of rows (n, columns), row i in cell[i]."""
        with np.errstate(over="ignore", invalid="ignore"):
            return cls._of(cell, rows, cells)

    @classmethod
    def _of(cls, cell: np.ndarray, rows: Float64, cells: int) -> Moments:
        count = np.bincount(cell, minlength=cells).astype(np.float64)
        mean = _sums(cell, rows, cells) / np.maximum(count, 1.0)[:, None]
        if count.max(initial=0.0) <= 1.0:  # of one row nothing deviates: half the time of a small batch
            return cls(count, mean, *(_table(cells, rows.shape[1], order) for order in (2, 3)))
        d = rows - mean[cell]
        return cls(count, mean, *(_products(cell, d, cells, order) for order in (2, 3)))

    def __add__(self, other: Moments) -> Moments:
        """Cell by cell, the moments of the rows of both tables (Chan et al.; Pébay for the third order)."""
        with np.errstate(over="ignore", invalid="ignore"):  # a cube beyond 1e308; the conclusion says so in words
            return self._plus(other)

    def _plus(self, other: Moments) -> Moments:
        count = self.count + other.count
        share = other.count / np.maximum(count, 1.0)
        step = other.mean - self.mean
        both = self.count * share
        pair = step[:, :, None] * step[:, None, :]
        mixed = (1 - share)[:, None, None] * other.comoment - share[:, None, None] * self.comoment
        return Moments(
            count,
            self.mean + share[:, None] * step,
            self.comoment + other.comoment + both[:, None, None] * pair,
            self.third
            + other.third
            + _symmetric(mixed, step)
            + (both * (1 - 2 * share))[:, None, None, None] * pair[:, :, :, None] * step[:, None, None, :],
        )

    def along(self, direction: Float64) -> tuple[Float64, Float64, Float64]:
        """Σx, Σx² and Σx³ over the rows of each cell, x = direction·z, one direction (cells, p) for each."""
        v, mean = direction, np.sum(direction * self.mean, axis=1)
        # Cell after cell: the order of these sums, and so their last digit, goes by the layout.
        second = np.einsum("cij,ci,cj->c", np.ascontiguousarray(self.comoment), v, v)
        third = np.einsum("cijk,ci,cj,ck->c", np.ascontiguousarray(self.third), v, v, v)
        return (
            self.count * mean,
            second + self.count * mean**2,
            third + 3 * mean * second + self.count * mean**3,
        )

    def __getitem__(self, cells: Cells) -> Moments:
        """Some of the cells, or all in another order."""
        return Moments(*(a[cells] for a in self._arrays))

    def placed(self, cells: Cells, values: Moments) -> Moments:
        """The same table with some cells (each at most once) holding other values."""
        arrays = [np.copy(a) for a in self._arrays]
        for array, new in zip(arrays, values._arrays, strict=True):
            array[cells] = new
        return Moments(*arrays)

    def plus_at(self, cells: Cells, other: Moments) -> Moments:
        """The same table with the rows of other cells in some of its own (each at most once)."""
        return self.placed(cells, self[cells] + other)

    def rolled(self, places: int) -> Moments:
        """Cell i moved to cell (i + places) modulo the number of cells."""
        return Moments(*(np.roll(a, places, axis=0) for a in self._arrays))

    @property
    def _arrays(self) -> tuple[Float64, ...]:
        return self.count, self.mean, self.comoment, self.third

    def nonempty(self) -> Moments:
        """The cells that hold rows."""
        return self[self.count > 0]

    def total(self) -> Moments:
        """One cell with all rows."""
        # Halves, not a running sum: rounding grows with the logarithm of the cells, and every cell is treated alike.
        table = self
        while len(table.count) > 1:
            even, odd = _halves(table)
            table = even + odd
        return table

    def leave_one_out(self) -> Moments:
        """For every cell, the moments of all other cells, without subtracting: by a tree of merges.

        Subtracting a heavy cell from the total would cancel away what the others hold: beside 999 ordinary rows,
        one a million times as large leaves 6 digits of their covariance, one of 1e8 none; the tree keeps all 15.
        What lies outside a pair is asked of the table of pairs, and the other one of the pair is added: 2n merges.
        """
        if len(self.count) == 1:
            return Moments.empty(1, self.mean.shape[1])
        even, odd = _halves(self)
        above = (even + odd).leave_one_out()
        outside_even, outside_odd = above + odd, above + even
        out = Moments.empty(2 * len(even.count), self.mean.shape[1])
        out = out.placed(slice(0, None, 2), outside_even).placed(slice(1, None, 2), outside_odd)
        return out[: len(self.count)]


def _table(cells: int, columns: int, order: int) -> Float64:
    """Zeros, (cells, columns, …), of which the cells are neighbours in memory.

    Sums of two tables run along them, in a third of the time that runs of three columns take.
    """
    return np.zeros((columns,) * order + (cells,)).transpose(order, *range(order))


def _symmetric(pair: Float64, one: Float64) -> Float64:
    """Σ over the three places of `one` in pair⊗one, for a symmetric pair."""
    return (
        pair[:, :, :, None] * one[:, None, None, :]
        + pair[:, :, None, :] * one[:, None, :, None]
        + pair[:, None, :, :] * one[:, :, None, None]
    )


def _products(cell: np.ndarray, d: Float64, cells: int, order: int) -> Float64:
    """Σ d⊗…⊗d of each cell: each product once, and then at all places that hold it."""
    columns = d.shape[1]
    found = _table(cells, columns, order)
    for chosen in combinations_with_replacement(range(columns), order):
        product = reduce(np.multiply, (d[:, place] for place in chosen))
        total = np.bincount(cell, product, minlength=cells)
        for places in set(permutations(chosen)):
            found.transpose()[places[::-1]] = total
    return found


def _sums(cell: np.ndarray, rows: Float64, cells: int) -> Float64:
    columns = [np.bincount(cell, column, minlength=cells).astype(np.float64) for column in rows.T]
    return np.stack(columns, axis=1)


def _halves(table: Moments) -> tuple[Moments, Moments]:
    cells = len(table.count)
    if not cells % 2:
        return table[0::2], table[1::2]
    even = Moments.empty(cells + cells % 2, table.mean.shape[1]).placed(slice(0, cells), table)
    return even[0::2], even[1::2]


@dataclass(frozen=True, eq=False)
class Keys:
    """Which cell each row belongs to.

    Attributes:
        names: of the cells: the distinct keys in the order in which they come first, or numbers where they are shared.
        cell: of each row, (n,).
        limit: keys beyond which cells are shared.
        hashed: whether they are.
    """

    names: tuple[Hashable, ...]
    cell: np.ndarray
    limit: int
    hashed: bool

    @classmethod
    def of(cls, keys: Sequence[Hashable] | np.ndarray, limit: int) -> Keys:
        """The cells of rows, by their keys."""
        distinct, number = numbered(keys)
        if len(distinct) <= limit:
            return cls(distinct, number, limit, hashed=False)
        # Straight into the shared cells: a cell a key would hold p³ numbers for each of 250,000 prompts.
        return cls(tuple(range(limit)), _hashed(distinct, limit)[number], limit, hashed=True)


def numbered(keys: Sequence[Hashable] | np.ndarray) -> tuple[tuple[Hashable, ...], np.ndarray]:
    """Distinct keys in the order in which they come first, and which of them each is."""
    if isinstance(keys, np.ndarray) and keys.dtype != object:
        values, first, number = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return tuple(values[order].tolist()), place[number]
    if len(keys) and list(keys).count(keys[0]) == len(keys):
        return (keys[0],), np.zeros(len(keys), dtype=np.intp)
    place_of: dict[Hashable, int] = {}
    found = (place_of.setdefault(key, len(place_of)) for key in keys)
    number = np.fromiter(found, dtype=np.intp, count=len(keys))
    return tuple(place_of), number


@dataclass(frozen=True)
class KeyedMoments:
    """Moments by key, in bounded memory: beyond `limit` keys, keys share `limit` cells by hash."""

    keys: tuple[Hashable, ...]
    cells: Moments
    limit: int
    hashed: bool = False

    @classmethod
    def of(cls, keys: Sequence[Hashable] | np.ndarray, rows: Float64, limit: int) -> KeyedMoments:
        """The moments of rows (n, columns), one cell for each distinct key."""
        return cls.at(Keys.of(keys, limit), rows)

    @classmethod
    def at(cls, keys: Keys, rows: Float64) -> KeyedMoments:
        """The same of rows whose cells are known."""
        return cls(keys.names, Moments.of(keys.cell, rows, len(keys.names)), keys.limit, hashed=keys.hashed)

    def __add__(self, other: KeyedMoments) -> KeyedMoments:
        """The moments of the rows of both, key by key."""
        if self.hashed or other.hashed:
            return self._hash()._with(other) if self.hashed else other._with(self)
        names = tuple(dict.fromkeys(self.keys + other.keys))
        place = {name: i for i, name in enumerate(names)}
        table = Moments.empty(len(names), self.cells.mean.shape[1]).placed(slice(0, len(self.keys)), self.cells)
        at = [place[name] for name in other.keys]
        return KeyedMoments(names, table.plus_at(at, other.cells), self.limit)._bounded()

    def _with(self, other: KeyedMoments) -> KeyedMoments:
        """Of shared cells: with more rows."""
        if other.hashed:
            return KeyedMoments(self.keys, self.cells + other.cells, self.limit, hashed=True)
        cell = _hashed(other.keys, self.limit)
        table = self.cells
        # Keys that share a cell are added in rounds, each cell at most once a round.
        order = np.argsort(cell, kind="stable")
        ordered = cell[order]
        rank = np.empty(len(cell), dtype=np.intp)
        rank[order] = np.arange(len(cell)) - np.searchsorted(ordered, ordered)
        for turn in range(int(rank.max(initial=-1)) + 1):
            chosen = np.flatnonzero(rank == turn)
            table = table.plus_at(cell[chosen], other.cells[chosen])
        return KeyedMoments(self.keys, table, self.limit, hashed=True)

    def _bounded(self) -> KeyedMoments:
        return self._hash() if len(self.keys) > self.limit and not self.hashed else self

    def _hash(self) -> KeyedMoments:
        if self.hashed:
            return self
        nothing = Moments.empty(self.limit, self.cells.mean.shape[1])
        return KeyedMoments(tuple(range(self.limit)), nothing, self.limit, hashed=True)._with(self)


@lru_cache(maxsize=8)
def _hashed(keys: tuple[Hashable, ...], limit: int) -> np.ndarray:
    """The shared cell of each key; remembered, for the recipes of one pass have the same keys."""
    # crc32, since Python's own hash of text differs from process to process, and parts of one batch would then
    # put one prompt into different cells. Two prompts that share a cell count as one cluster, so that
    # clusters stay independent and only their number falls: 4,097 names such as "p7" fill 3,024 of 4,096 cells.
    return np.fromiter((crc32(repr(key).encode()) % limit for key in keys), dtype=np.intp, count=len(keys))
