"""What every executor shares about a frame: its cost, and the model's own tree of outputs. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError
from fluxcompile.program import Input


@dataclass(frozen=True)
class FrameStats:
    """What one frame cost. `work_share` is MACs executed over MACs of a dense frame; `miss` the pixels seen anew."""

    frame: int
    work_share: float
    miss: npt.NDArray[np.bool_]
    dense: bool
    layers: dict[str, float]


def require_count(frames: Sequence[Any], inputs: Sequence[Input]) -> None:
    if len(frames) != len(inputs):
        names = ", ".join(i.name for i in inputs)
        raise InputError(f"the net takes {len(inputs)} inputs ({names}), got {len(frames)}")


def rebuild(template: Any, leaves: Sequence[Any]) -> Any:
    """The model's own tree of outputs."""
    if isinstance(template, dict):
        ((kind, inner),) = template.items()
        if kind == "dict":
            return {k: rebuild(v, leaves) for k, v in inner.items()}
        parts = [rebuild(v, leaves) for v in inner]
        return tuple(parts) if kind == "tuple" else parts
    return None if template is None else leaves[template]
