"""The user's own three functions, checked when a task is made of them and at each use."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import OptionError, TaskError
from fluxcompile.runtime.salience import CELL, Salience

Array = npt.NDArray[Any]
Outputs = Sequence[Array]
Weigh = Callable[[Outputs, tuple[int, int]], Array]
Agree = Callable[[Outputs, Outputs], float]
Move = Callable[[Outputs, tuple[int, int]], Outputs]

ARGUMENTS = {"salience": "outputs, size", "agreement": "outputs, dense", "shift": "outputs, offset"}


def check_functions(**functions: Any) -> None:
    """Each can be called with two arguments; what has no signature is taken at its word."""
    for name, function in functions.items():
        wanted = f"it must be a function of ({ARGUMENTS[name]})"
        if not callable(function):
            raise OptionError(f"Task.custom: {name} is {function!r}; {wanted}")
        try:
            signature = inspect.signature(function)
        except ValueError:
            continue
        try:
            signature.bind(None, None)
        except TypeError as error:
            raise OptionError(f"Task.custom: {name} takes {signature}; {wanted}") from error


def kept(outputs: Outputs, size: tuple[int, int]) -> list[Array]:
    """Copies of the outputs: a stream writes the next frame's into the same memory."""
    return [np.array(x) for x in outputs]


def salience(function: Weigh, outputs: Outputs, size: tuple[int, int]) -> Salience:
    found = np.asarray(function(outputs, size))
    cells = (-(-size[0] // CELL), -(-size[1] // CELL))
    if found.shape != cells or found.dtype.kind not in "buif":
        raise TaskError(
            f"custom: salience gave {found.dtype} {found.shape}; for an input of {size} it must give numbers {cells}, "
            f"one for each {CELL} x {CELL} pixels"
        )
    if not ((found >= 0) & (found <= 1)).all():
        raise TaskError(f"custom: salience gave values from {found.min()} to {found.max()}; they must be from 0 to 1")
    return found.astype(np.float32)


def compare(function: Agree, result: Outputs, dense: Outputs) -> float:
    found = np.asarray(function(result, dense))
    if found.ndim or found.dtype.kind not in "buif" or not 0 <= found <= 1:
        raise TaskError(f"custom: agreement gave {found!r}; it must give one number from 0 to 1")
    return float(found)


def figures(tallies: Sequence[float]) -> dict[str, Any]:
    """The mean over frames."""
    return {"agreement": float(np.mean(tallies)) if len(tallies) else None}


def shift(function: Move, result: Outputs, offset: tuple[int, int]) -> list[Array]:
    moved = function(result, offset)
    found = [np.asarray(x) for x in moved] if isinstance(moved, list | tuple) else None
    if found is None or [x.shape for x in found] != [x.shape for x in result]:
        told = type(moved).__name__ if found is None else [x.shape for x in found]
        raise TaskError(
            f"custom: shift gave {told}; it must give a list of outputs like those it got, {[x.shape for x in result]}"
        )
    return found
