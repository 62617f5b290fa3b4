"""Depth: how far each pixel's distance is off, as a ratio to dense's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import TaskError
from fluxcompile.tasks.maps import Maps
from fluxcompile.tasks.numbers import copied
from fluxcompile.tasks.precision import share

Array = npt.NDArray[Any]
STRICT, USUAL = 1.05, 1.25
"""Ratios within which a pixel is right: the field's holds predictions against the world, where far more is forgiven."""


def decode_depth(outputs: Sequence[Array], size: tuple[int, int]) -> Maps:
    """The one map, [h, w]."""
    if len(outputs) == 1 and outputs[0].ndim in (3, 4) and set(outputs[0].shape[:-2]) == {1}:
        return Maps([copied(outputs[0].reshape(outputs[0].shape[-2:]))], size)
    raise TaskError(f"depth: the outputs are {[x.shape for x in outputs]}; they must be one [1, h, w] or [1, 1, h, w]")


def compare_depth(result: Maps, dense: Maps) -> Array:
    """Pixels within STRICT, USUAL, sum of relative errors, all pixels: where dense is positive and both are known."""
    (ours,), (theirs,) = result.values, dense.values
    known = np.isfinite(theirs) & (theirs > 0) & ~np.isnan(ours)
    one, two = ours[known].astype(np.float64), theirs[known].astype(np.float64)
    within = [((one * most >= two) & (one <= two * most)).sum() for most in (STRICT, USUAL)]
    return np.array([*within, (np.abs(one - two) / two).sum(), len(two)])


def depth_figures(tallies: Sequence[Array]) -> dict[str, Any]:
    """Shares of pixels whose ratio to dense is below 1.05 and 1.25; the mean relative error."""
    strict, usual, error, pixels = np.sum(tallies, 0) if len(tallies) else np.zeros(4)
    return {"delta_105": share(strict, pixels), "delta_125": share(usual, pixels), "abs_rel": share(error, pixels)}
