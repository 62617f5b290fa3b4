"""A peer, and how its outputs are held against ours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fluxcompile.measure.peers.model import Array
from fluxcompile.measure.timing import Run

Infer = Callable[[], Any]
"""Runs the model once, on the frames it was opened with."""


@dataclass
class Peer:
    """A library with the model open in it, or the reason why it is not."""

    name: str
    version: str | None = None
    infer: Infer | None = None
    reason: str = ""
    max_relative_error: float | None = None


def peer_run(infer: Infer) -> Run:
    """What takes a peer's turns."""
    return Run(lambda given: infer())


def difference(got: Sequence[Array], want: Sequence[Array]) -> float:
    """The largest difference over the range of the output it is in; of whole numbers, the share that differs."""
    if [x.shape for x in got] != [x.shape for x in want]:
        raise ValueError(f"gives {[x.shape for x in got]}, ours are {[x.shape for x in want]}")
    worst = 0.0
    for one, two in zip(got, want, strict=True):
        if not two.size:
            continue
        if two.dtype.kind != "f":
            worst = max(worst, float((one != two).mean()))
            continue
        spread = float(two.max() - two.min()) or float(np.abs(two).max()) or 1.0
        error = float(np.abs(one.astype(np.float64) - two).max()) / spread
        worst = max(worst, error if error == error else float("inf"))
    return worst


def arrays(tree: Any) -> list[Array]:
    """The arrays of a tree of outputs, in order, as copies."""
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in arrays(value)]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in arrays(value)]
    if tree is None:
        return []
    return [np.array(tree.detach().cpu().numpy() if hasattr(tree, "detach") else tree)]
