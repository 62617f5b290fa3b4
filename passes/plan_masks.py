"""Masks of a plan: the graph's own `flux.miss_*` ops, as steps on bytes (see `lower_plan`).

    %miss_b = flux.miss_window(%miss_a, @reads_32x3, @reads_32x3, size=[32, 32])
 ->
    m2 = window(m1, reads_y=@reads_32x3, reads_x=@reads_32x3, size=[32, 32])

A join becomes readers: rows that are the operand's own (range), rows looked up (table), rows that share what their
letters share (group), or everything when anything did (any), which is also what stands for dependence too fine to say:
a mask may hold more rows than it must. Masks of what moved apart are left out: a plan's maps stand still.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from fluxcompile.geometry import Ints, Layout, near_pixels, own_pixels, parse_layout
from fluxcompile.ir import constant_value, is_constant
from fluxcompile.ops import flux, split_letters
from fluxcompile.passes.rules import LETTERS

if TYPE_CHECKING:
    from fluxcompile.passes.lower_plan import Lowering

aten = torch.ops.aten
Reader = dict[str, Any]
COARSE, LARGEST = 4, 16
"""Pixels a side, at least and at most, of the blocks of which cells are made that are not two by two finer ones."""


class Masks:
    """The masks of a plan by the node that stands for them in the graph."""

    def __init__(self, lowering: "Lowering") -> None:
        self.lowering = lowering
        self.known: dict[Node, int] = {}
        self.near: dict[tuple[object, ...], int] = {}
        self.within: dict[int, int] = {}
        """The mask of cells near changes that a limited mask lies within."""

    def new(self, rows: int) -> int:
        self.lowering.plan.masks.append(rows)
        return len(self.lowering.plan.masks) - 1

    def forget(self, first: int) -> None:
        """Drop the masks from number `first` on."""
        del self.lowering.plan.masks[first:]
        self.known = {k: m for k, m in self.known.items() if m < first}
        self.near = {k: m for k, m in self.near.items() if m < first}
        self.within = {m: n for m, n in self.within.items() if m < first}

    def of(self, node: Node) -> int:
        """The mask a node stands for; its step is added when somebody first asks."""
        if node not in self.known:
            self.known[node] = self._made(node)
        return self.known[node]

    def _made(self, node: Node) -> int:
        args: Any = node.args
        rows = node.meta["val"].shape[0]
        match node.target:
            case flux.gate.default:  # of a value no kernel gates
                return self.of(args[2])
            case aten.logical_or.default:  # with what moved apart
                return self.of(args[0])
            case flux.miss_any.default:
                return self.join(rows, [self._any(m) for m in args[0]])
            case aten.cat.default:
                return self._laid(rows, args[0])
            case flux.miss_remap.default:
                return self._remapped(rows, *args)
            case flux.miss_join.default:
                return self._joined(rows, *args)
            case flux.miss_window.default:
                return self.window(rows, self.of(args[0]), [self._table(a) for a in args[1:3]], args[3])
            case flux.limit.default:
                return self._limited(rows, args)
        assert is_constant(node), f"{node.format_node()}: no rule makes this mask"
        assert not constant_value(self.lowering.module, node).any()
        return self.join(rows, [])  # never misses, but in a fresh frame

    def join(self, rows: int, readers: list[Reader]) -> int:
        out = self.new(rows)
        self.lowering.step("join", out={"mask": out}, readers=readers)
        return out

    def window(self, rows: int, miss: int, reads: Sequence[str], size: Sequence[int], near: int | None = None) -> int:
        out = self.new(rows)
        args: dict[str, Any] = {"in": {"mask": miss}, "reads_y": {"@": reads[0]}, "reads_x": {"@": reads[1]}}
        args |= {"size": list(size)} | ({} if near is None else {"near": {"mask": near}})
        self.lowering.step("window", out={"mask": out}, **args)
        return out

    def _table(self, node: Node) -> str:
        return self.lowering.constant(constant_value(self.lowering.module, node).to(torch.int32), f"{node.target}")

    def _any(self, miss: Node) -> Reader:
        return {"kind": "any", "in": {"mask": self.of(miss)}}

    def _rows_from(self, miss: int, table: "np.ndarray[Any, Any]") -> Reader | None:
        """A reader that looks rows up, as a range where they follow each other; None where none is read."""
        (hits,) = np.nonzero(table >= 0)
        if not hits.size:
            return None
        first, count = int(hits[0]), int(hits.size)
        run = np.arange(count)
        if (hits == first + run).all() and (table[hits] == table[first] + run).all():
            return {
                "kind": "range",
                "in": {"mask": miss},
                "first_in": int(table[first]),
                "first_out": first,
                "count": count,
            }
        name = self.lowering.constant(torch.from_numpy(table.astype(np.int32)), f"lookup_{table.size}")
        return {"kind": "table", "in": {"mask": miss}, "table": {"@": name}}

    def _laid(self, rows: int, misses: list[Node]) -> int:
        """Masks end to end."""
        readers, at = [], 0
        for m in misses:
            count = m.meta["val"].shape[0]
            whole = {"kind": "range", "in": {"mask": self.of(m)}, "first_in": 0, "first_out": at, "count": count}
            readers.append(whole)
            at += count
        return self.join(rows, readers)

    def _remapped(self, rows: int, miss: Node, table: Node) -> int:
        read = constant_value(self.lowering.module, table).numpy()
        sources = list(miss.args[0]) if miss.target is aten.cat.default else [miss]  # type: ignore[arg-type]
        readers, at = [], 0
        for source in sources:
            assert isinstance(source, Node)
            count = source.meta["val"].shape[0]
            own = np.where((read >= at) & (read < at + count), read - at, -1)
            readers.append(self._rows_from(self.of(source), own))
            at += count
        return self.join(rows, [r for r in readers if r])

    def _joined(self, rows: int, misses: list[Node], letters: str, layouts: list[str], out_layout: str) -> int:
        words, out_word = split_letters(letters)
        out = parse_layout(out_layout)
        readers = []
        for miss, word, text in zip(misses, words, layouts, strict=True):
            readers.append(self._reader(miss, word, parse_layout(text), out_word, out))
        return self.join(rows, readers)

    def seen(self, miss: Node, was: Layout, now: Layout) -> int:
        """The mask of the same tensor's rows in another layout: one whose places are coarser."""
        word = LETTERS[: len(was.dims)]
        return self.join(now.rows, [self._reader(miss, word, was, word, now)])

    def _reader(self, miss: Node, word: str, was: Layout, out_word: str, out: Layout) -> Reader:
        everything = self._any(miss)
        if was.rows == 1:
            return everything
        here, there = was.row_index(), out.row_index()
        shared = [
            c for c in word if c in out_word and here.shape[word.index(c)] > 1 and there.shape[out_word.index(c)] > 1
        ]
        if not shared:
            return everything
        key_in, key_out = _keys(here, word, shared, was.rows), _keys(there, out_word, shared, out.rows)
        if key_in is None or key_out is None:
            return everything
        count = int(np.prod([here.shape[word.index(c)] for c in shared]))
        mask = self.of(miss)
        if count == was.rows and np.array_equal(np.sort(key_in), np.arange(count)):
            found = self._rows_from(mask, np.argsort(key_in)[key_out])
            assert found is not None
            return found
        table, keys = (
            self.lowering.constant(torch.from_numpy(k.astype(np.int32)), f"keys_{k.size}") for k in (key_in, key_out)
        )
        return {"kind": "group", "in": {"mask": mask}, "table": {"@": table}, "keys": {"@": keys}, "count": count}

    def _limited(self, rows: int, args: Any) -> int:
        miss, reach, size, frame, scale, origin = args
        near = self._near(reach, *(tuple(a) for a in (size, frame, scale, origin)))
        while miss.target is aten.logical_or.default:  # with what moved apart
            miss = miss.args[0]
        if miss.target is flux.miss_window.default and miss not in self.known:
            source, *reads, seen = miss.args
            inside = self.window(rows, self.of(source), [self._table(r) for r in reads], seen, near)
            self.within[inside] = near
            return inside
        if self.within.get(self.of(miss)) == near:
            return self.of(miss)
        out = self.new(rows)
        self.within[out] = near
        found: dict[str, Any] = {"in": {"mask": self.of(miss)}, "near": {"mask": near}}
        self.lowering.step("limit", out={"mask": out}, **found)
        return out

    def _near(
        self,
        reach: Node,
        size: Sequence[int],
        frame: Sequence[int],
        scale: Sequence[float],
        origin: Sequence[float],
    ) -> int:
        """The cells of a grid that changes may spread to: from the next finer one where its cells lie two by two."""
        edges = [near_pixels(*axis) for axis in zip(size, frame, scale, origin, strict=True)]
        key = tuple(tuple(e.tolist()) for pair in edges for e in pair)
        if key in self.near:
            return self.near[key]
        if reach not in self.known:
            self.known[reach] = self.new(reach.meta["val"].shape[0])
            seen: dict[str, Any] = {"in": {"mask": self.of(reach.args[0])}}  # type: ignore[arg-type]
            self.lowering.step("reach", out={"mask": self.known[reach]}, **seen, width=frame[1])
        tables = [_reads(low, high) for low, high in edges]
        fine, over = self.known[reach], list(frame)
        if all(n > 1 and n % 2 == 0 for n in frame) and tuple(size) != tuple(frame):
            halves = [2 * n for n in size]
            steps = [s / 2 for s in scale]
            finer = [own_pixels(n, p, s, (s - 1) / 2) for n, p, s in zip(halves, frame, steps, strict=True)]
            if all(_nested(a, b) for a, b in zip(finer, edges, strict=True)) and halves != list(frame):
                fine, over = self._near(reach, halves, frame, steps, [(s - 1) / 2 for s in steps]), halves
                tables = [np.arange(2 * n, dtype=np.int32).reshape(n, 2) for n in size]
        if fine == self.known[reach] and all(n % COARSE == 0 for n in frame) and min(scale) >= 2 * COARSE:
            # Cells of uneven size, or that overlap: of blocks of pixels, the ones they touch.
            side = int(np.gcd.reduce([*frame, LARGEST, *(e for pair in edges for axis in pair for e in axis)]))
            side = max(side, COARSE)
            over = [n // side for n in frame]
            fine = self._near(reach, over, frame, [float(side)] * 2, [(side - 1) / 2] * 2)
            tables = [_reads(low // side, -(-high // side)) for low, high in edges]
        names = [self.lowering.constant(torch.from_numpy(t), f"span_{t.shape[0]}x{t.shape[1]}") for t in tables]
        self.near[key] = self.window(int(np.prod(size)), fine, names, over)
        return self.near[key]


def _nested(fine: tuple[Ints, Ints], coarse: tuple[Ints, Ints]) -> bool:
    """Whether each coarse cell is two fine ones."""
    (low, high), (low_2, high_2) = fine, coarse
    return bool((low[::2] == low_2).all() and (high[1::2] == high_2).all() and (high[::2] == low[1::2]).all())


def _keys(index: "np.ndarray[Any, Any]", word: str, shared: list[str], rows: int) -> "np.ndarray[Any, Any] | None":
    """For each row the combination of shared letters it lies in; None where a row lies in several."""
    sizes = [index.shape[word.index(c)] for c in shared]
    strides = np.cumprod([1, *sizes[:0:-1]])[::-1]
    key = np.zeros([1] * len(word), dtype=np.int64)
    for c, size, stride in zip(shared, sizes, strides, strict=True):
        at = [1] * len(word)
        at[word.index(c)] = size
        key = key + (np.arange(size) * stride).reshape(at)
    low, high = np.full(rows, -1, dtype=np.int64), np.full(rows, -1, dtype=np.int64)
    flat, keys = (np.broadcast_to(a, index.shape).reshape(-1) for a in (index, key))
    low[flat[::-1]] = keys[::-1]
    high[flat] = keys
    return low if np.array_equal(low, high) and (low >= 0).all() else None


def _reads(low: Ints, high: Ints) -> "np.ndarray[Any, Any]":
    """The frame pixels of each cell of one axis as a table of reads."""
    reads = low[:, None] + np.arange((high - low).max())
    return np.where(reads < high[:, None], reads, -1).astype(np.int32)
