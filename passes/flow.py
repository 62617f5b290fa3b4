"""How places pass through an op: the answer `infer_domains` gives for each node, and all later passes decide by."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.fx import Node

from fluxcompile.geometry import Layout, Window

MOST_CHANNELS = 4
"""Of an image whose channels are the last dimension."""


def channels_last(size: Sequence[int]) -> bool:
    """Whether an input is an image (1, h, w, channels), as TensorFlow has them; else it is (1, channels, h, w)."""
    return len(size) == 4 and size[0] == 1 and size[3] <= MOST_CHANNELS < min(size[1:3])


@dataclass(frozen=True)
class Join:
    """Element-wise dependence in letters, one per dimension, like an einsum.

    An output element depends on the operand elements with the same letters; letters the output lacks are mixed.
    `constants` take part in the arithmetic but never change.
    """

    operands: tuple[tuple[Node, str], ...]
    out: str
    constants: tuple[tuple[Node, str], ...] = ()
    independent: str = ""
    """Output letters along which the op may be cut into pieces: no argument of the op speaks about them."""


@dataclass(frozen=True)
class WindowFlow:
    """Each output cell reads a window of the input's cells. `layout` is the input seen as a map."""

    source: Node
    layout: Layout
    y: Window
    x: Window


@dataclass(frozen=True)
class Remap:
    """Output row r is row rows[r] of the sources' rows laid end to end; -1 for one that never changes."""

    sources: tuple[Node, ...]
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Same:
    """The same rows in another order of dimensions."""

    source: Node


@dataclass(frozen=True)
class Anything:
    """Any change of any source changes everything."""

    sources: tuple[Node, ...]


@dataclass(frozen=True)
class Held:
    """A value kept until it changes: it misses when it is not what its cache was."""

    source: Node


Flow = Join | WindowFlow | Remap | Same | Anything | Held


def read_by(flow: Flow | None) -> set[Node]:
    """The values whose misses a flow passes on."""
    match flow:
        case Join():
            return {n for n, _ in flow.operands}
        case Remap() | Anything():
            return set(flow.sources)
        case WindowFlow() | Same() | Held():
            return {flow.source}
    return set()


@dataclass(frozen=True)
class Domain:
    """What is known of one value: how it lays out places, how misses reach it, and, where lost, why."""

    layout: Layout
    flow: Flow | None = None
    opaque: str = ""
    parts: tuple["Domain", ...] = field(default=())
    """For an op with several results, one domain each."""

    @property
    def kind(self) -> str:
        return "opaque" if self.opaque else self.layout.kind

    def __str__(self) -> str:
        if self.opaque:
            return "opaque"
        if self.layout.is_global:
            return "global"
        return f"{self.kind} {self.layout} of {self.layout.grid}"


def domain(node: Node) -> Domain:
    found = node.meta["domain"]
    assert isinstance(found, Domain)
    return found


def layout(node: Node) -> Layout:
    return domain(node).layout


def has_domain(value: Any) -> bool:
    return isinstance(value, Node) and "domain" in value.meta
