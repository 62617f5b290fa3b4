"""Maps of classes, and what all maps share: a result that knows its scale, and moves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import TaskError
from fluxcompile.tasks.precision import share

Array = npt.NDArray[Any]
UNKNOWN = -1
"""The class of a place that a shift brought into view."""


@dataclass(frozen=True, eq=False)
class Maps:
    """values: [h, w] or [k, h, w] for each output that has a place, over a net's input of `size`; [n] for others."""

    values: list[Array]
    size: tuple[int, int]


def decode_maps(outputs: Sequence[Array], size: tuple[int, int]) -> Maps:
    """The best class of each pixel of each output."""
    if not all(x.ndim == 4 and x.shape[0] == 1 for x in outputs):
        raise TaskError(f"segment: the outputs are {[x.shape for x in outputs]}; they must be [1, classes, h, w]")
    return Maps([np.asarray(x[0].argmax(0), np.uint8 if x.shape[1] <= 256 else np.int32) for x in outputs], size)


def compare_maps(result: Maps, dense: Maps) -> Array:
    """How many pixels have each class there and each class here, for each output, where both are known."""
    classes = 1 + max(int(x.max(initial=0)) for x in (*result.values, *dense.values))
    pairs = []
    for one, two in zip(result.values, dense.values, strict=True):
        known = (one != UNKNOWN) & (two != UNKNOWN)
        both = two[known].astype(np.int64) * classes + one[known]
        pairs.append(np.bincount(both, minlength=classes**2).reshape(classes, classes))
    return np.stack(pairs)


def map_figures(tallies: Sequence[Array]) -> dict[str, Any]:
    """The share of equal pixels; mean IoU over the classes that either side has, of all outputs.

    foreground_iou: of pixels that either side gives a class other than 0, the share in which both give the same;
    foreground: how many dense has. Where the classes are a few pixels, mean IoU is of noise, this is of what is there.
    """
    classes = max((tally.shape[-1] for tally in tallies), default=1)
    sums = np.zeros((len(tallies[0]) if len(tallies) else 1, classes, classes))
    for tally in tallies:
        sums[:, : tally.shape[1], : tally.shape[2]] += tally
    both = np.diagonal(sums, axis1=1, axis2=2)
    either = sums.sum(1) + sums.sum(2) - both
    there = either > 0
    return {
        "miou": float((both[there] / either[there]).mean()) if there.any() else None,
        "equal": share(float(both.sum()), float(sums.sum())),
        "foreground_iou": share(float(both[:, 1:].sum()), float(sums.sum() - sums[:, 0, 0].sum())),
        "foreground": int(sums[:, 1:].sum()),
    }


def shift_maps(result: Maps, offset: tuple[int, int]) -> Maps:
    """Class maps moved by (dy, dx) pixels, to the nearest cell; what comes into view is UNKNOWN."""
    signed = [x.astype(np.int16 if x.dtype == np.uint8 else x.dtype) for x in result.values]
    return replace(result, values=[moved(x, offset, result.size, UNKNOWN) for x in signed])


def moved(values: Array, offset: tuple[int, int], size: tuple[int, int], fill: Any) -> Array:
    """A map [..., h, w] over an input of `size`, moved by (dy, dx) of its pixels, to the nearest cell."""
    found = np.full_like(values, fill)
    to, of = [], []
    for by, cells, pixels in zip(offset, values.shape[-2:], size, strict=True):
        step = round(by * cells / pixels)
        to.append(slice(max(step, 0), max(cells + step, 0)))
        of.append(slice(max(-step, 0), max(cells - step, 0)))
    found[..., to[0], to[1]] = values[..., of[0], of[1]]
    return found
