"""What a task is: outputs told in words of their own, compared, weighed by place, moved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fluxcompile.runtime.salience import Salience
from fluxcompile.tasks import custom
from fluxcompile.tasks.custom import Array
from fluxcompile.tasks.delays import Delay


@dataclass(frozen=True)
class Task:
    """`decode(outputs, size)` gives one frame's result, `compare(result, dense)` a tally, `figures(tallies)` the rest.

    `figure` names the figure that stands for all. `salience(outputs, size)` is in [0, 1] for each 8 x 8 pixels of the
    net's input, a weight: where it is half, a block may differ twice as much before it is computed anew.
    `shift(result, (dy, dx))` is the result when everything moves by so many pixels, down and to the right. `result` is
    the type of a result; `delays` tells after how many frames each new object was found.
    """

    name: str
    figure: str
    decode: Callable[[Sequence[Array], tuple[int, int]], Any]
    compare: Callable[[Any, Any], Any]
    figures: Callable[[Sequence[Any]], dict[str, Any]]
    salience: Callable[[Sequence[Array], tuple[int, int]], Salience]
    shift: Callable[[Any, tuple[int, int]], Any]
    result: Any = np.ndarray
    delays: Callable[[Sequence[Any], Sequence[Any]], list[Delay]] | None = None

    def agreement(self, results: Sequence[Any], dense: Sequence[Any]) -> dict[str, Any]:
        """The figures of a clip; `per_frame` is `figure` frame by frame, None where there was nothing to compare."""
        return self.told([self.compare(one, two) for one, two in zip(results, dense, strict=True)])

    def told(self, tallies: Sequence[Any]) -> dict[str, Any]:
        """The same from tallies."""
        return {**self.figures(tallies), "per_frame": [self.figures([tally])[self.figure] for tally in tallies]}

    @classmethod
    def custom(cls, *, salience: custom.Weigh, agreement: custom.Agree, shift: custom.Move) -> "Task":
        """A task of one's own; its results are the outputs.

        salience(outputs, size): as above. agreement(outputs, dense): from 0 to 1. shift(outputs, (dy, dx)): as above.
        """
        custom.check_functions(salience=salience, agreement=agreement, shift=shift)
        return cls(
            "custom",
            "agreement",
            decode=custom.kept,
            compare=partial(custom.compare, agreement),
            figures=custom.figures,
            salience=partial(custom.salience, salience),
            shift=partial(custom.shift, shift),
            result=list[np.ndarray],
        )
