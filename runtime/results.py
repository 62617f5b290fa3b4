"""The outputs of a plan's frames: arrays that the next frame writes only what changed into."""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ALONE = 2
"""References to an object in one place, as `sys.getrefcount` counts them."""


class Results:
    """The outputs of a frame. Each has two arrays that take turns, for the caller mostly still holds the last frame's.

    An array the caller kept longer is left to them, and another begun in its place.
    """

    def __init__(self) -> None:
        self.env: dict[str, Any] = {}
        """What regions made, by name, as torch tensors."""
        self.loose: dict[int, Any] = {}
        """Outputs that lie in no buffer: {"%": name in `env`}, a constant or a plain value."""
        self._steps: dict[int, int] = {}
        self._dtypes: dict[int, Any] = {}
        self._arrays: dict[int, Array] = {}
        """What the last frame was written to."""
        self._others: dict[int, Array] = {}
        """What was written to before it."""
        self._held: dict[int, int] = {}
        """References to each of the arrays while the caller has none."""

    def add(self, index: int, step: int, shape: tuple[int, ...], dtype: Any) -> None:
        self._steps[index], self._dtypes[index] = step, dtype
        self._arrays[index] = np.zeros(shape, dtype=np.float32)

    def make_ready(self, plan: Any) -> None:
        """Before a frame: every output has an array that nobody holds to go on from."""
        for index, step in self._steps.items():
            if index not in self._held:
                plan.bind(step, self._arrays[index])
            elif sys.getrefcount(self._arrays[index]) <= self._held[index]:
                continue
            else:
                behind = index in self._others and sys.getrefcount(self._others[index]) == ALONE
                last = self._arrays[index]
                self._arrays[index] = self._others[index] if behind else last.copy()
                self._others[index] = last
                plan.bind(step, self._arrays[index], behind)
            self._held[index] = sys.getrefcount(self._arrays[index])

    def leaves(self, tensors: bool) -> list[Any]:
        found: dict[int, Any] = {
            index: _shown(array.astype(self._dtypes[index], copy=False), tensors)
            for index, array in self._arrays.items()
        }
        found |= {index: self._loose(value, tensors) for index, value in self.loose.items()}
        return [found[index] for index in range(len(found))]

    def _loose(self, value: Any, tensors: bool) -> Any:
        if isinstance(value, np.ndarray):
            return _shown(value, tensors)
        if isinstance(value, dict):
            made = self.env[value["%"]]
            return made.clone() if tensors else made.numpy().copy()
        return value


def _shown(array: Array, tensors: bool) -> Any:
    """What the caller gets: a copy as a tensor, or a view that cannot be written."""
    if tensors:
        import torch

        return torch.from_numpy(array.copy())
    view = array.view()
    view.flags.writeable = False
    return view
