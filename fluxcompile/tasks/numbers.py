"""Numbers of any kind: how far they are off, of what they are."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.tasks.maps import Maps, moved

Array = npt.NDArray[Any]
SAMPLES = 65536
"""Values of an output that are kept, always the same ones: maps of a whole clip would fill the memory."""


def decode_numbers(outputs: Sequence[Array], size: tuple[int, int]) -> Maps:
    """The values of each output, or SAMPLES of them; of a map whole channels, one at least, so that it can be moved."""
    return Maps([_channels(x[0]) if _is_map(x, size) else _sampled(x.reshape(-1)) for x in outputs], size)


def copied(values: Array) -> Array:
    """A copy in which NaN, for which a shift has another use, is infinite."""
    return np.nan_to_num(values, nan=np.inf, posinf=np.inf, neginf=-np.inf)


def compare_numbers(result: Maps, dense: Maps) -> Array:
    """For each output the sum of squared errors and that of squares, where both are known.

    The error is infinite where one side alone is not finite.
    """
    rows = []
    for one, two in zip(result.values, dense.values, strict=True):
        known = ~(np.isnan(one) | np.isnan(two))
        ours, theirs = one[known].astype(np.float64), two[known].astype(np.float64)
        with np.errstate(invalid="ignore"):
            error = np.where(ours == theirs, 0.0, ours - theirs)
        finite = theirs[np.isfinite(theirs)]
        rows.append([np.nan_to_num((error**2).sum(), nan=np.inf, posinf=np.inf), (finite**2).sum()])
    return np.array(rows)


def number_figures(tallies: Sequence[Array]) -> dict[str, Any]:
    """1 minus the relative error (root mean square) of the worst output, not below 0."""
    if not len(tallies):
        return {"likeness": None}
    errors, norms = np.sum(tallies, 0).T
    shares = [e / n if n else float(e > 0) for e, n in zip(errors, norms, strict=True)]
    return {"likeness": max(0.0, 1.0 - float(np.sqrt(max(shares, default=0.0))))}


def shift_numbers(result: Maps, offset: tuple[int, int]) -> Maps:
    """Maps moved by (dy, dx) pixels, to the nearest cell, what comes into view NaN; numbers without a place stay."""
    return replace(
        result,
        values=[
            x if x.ndim < 2 else moved(x.astype(np.result_type(x, np.float32)), offset, result.size, np.nan)
            for x in result.values
        ],
    )


def _is_map(output: Array, size: tuple[int, int]) -> bool:
    """[1, channels, h, w] whose cells are squares of whole pixels of the input."""
    if output.ndim != 4 or output.shape[0] != 1 or 0 in output.shape:
        return False
    (down, y), (across, x) = (divmod(pixels, cells) for pixels, cells in zip(size, output.shape[2:], strict=True))
    return down == across and not x and not y


def _channels(values: Array) -> Array:
    count = max(1, min(len(values), SAMPLES // values[0].size))
    return copied(values[np.linspace(0, len(values) - 1, count).astype(np.int64)])


def _sampled(values: Array) -> Array:
    if len(values) > SAMPLES:
        values = values[np.random.default_rng(0).integers(0, len(values), SAMPLES)]
    return copied(values)
