"""What every executor shares about a frame: its cost, and the model's own tree of outputs. Needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError
from fluxcompile.program import Input

DTYPES = {"f32": np.float32, "u8": np.uint8}
"""What the CPU kernels take, by the names of programs."""


CAUSES = ("hit", "stale", "salient", "background", "edge", "refreshed", "dense")
"""What a block can be: reused, reused though doubtful, or missed, and why."""


@dataclass(frozen=True)
class FrameStats:
    """What one frame cost. `work_share` is MACs executed over MACs of a dense frame; `miss` the pixels seen anew.

    causes: uint8 per block of 8 x 8 pixels, what `CAUSES` calls it; None where no policy looked at blocks. offset:
    where the frame lies on the net's input; shift, roll: how far it, and then everything, was moved in this frame.
    vectors: motion of blocks of 16 x 16 pixels of the frame, as `Alignment.vectors`.
    """

    frame: int
    work_share: float
    miss: npt.NDArray[np.bool_]
    dense: bool
    layers: dict[str, float]
    causes: npt.NDArray[np.uint8] | None = None
    offset: tuple[int, int] = (0, 0)
    shift: tuple[int, int] = (0, 0)
    roll: tuple[int, int] = (0, 0)
    vectors: npt.NDArray[np.int32] | None = None


@dataclass(eq=False)
class Seen:
    """A frame that is looked at, and then computed: what the net is to see, by input, and what of that is new.

    given: the pixels that are new, where that is known; bounds: how far these may spread. fresh: everything is new.
    motion: where content came from, as the caller told it. tensors: results are given as such. began_s: on the clock.
    """

    arrays: list[Any]
    given: dict[int, npt.NDArray[Any]]
    bounds: dict[int, npt.NDArray[Any] | None] = field(default_factory=dict)
    fresh: bool = False
    motion: npt.NDArray[np.int32] | None = None
    tensors: bool = False
    began_s: float = 0.0

    def start_afresh(self) -> None:
        """Compute everything, whatever was known."""
        self.given, self.bounds, self.fresh, self.motion = {}, {}, True, None


def to_array(value: Any, what: str = "a frame") -> npt.NDArray[Any]:
    """An array of what the caller passed: a torch tensor or anything numpy takes."""
    try:
        array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except (ValueError, TypeError) as e:
        raise InputError(f"{what} of type {type(value).__name__} is no array of numbers ({e})") from e
    if array.dtype.kind not in "biuf":
        raise InputError(f"{what} of type {type(value).__name__} is no array of numbers")
    return array


def require_fit(spec: Input, shape: Sequence[int], dtype: str, wanted: str) -> None:
    """A frame's shape and dtype are those the net was compiled for."""
    if tuple(shape) != tuple(spec.shape):
        raise InputError(f"input {spec.name}: shape {tuple(shape)}, the net was compiled for {tuple(spec.shape)}")
    if dtype != wanted:
        raise InputError(f"input {spec.name}: dtype {dtype}, the net was compiled for {wanted}")


def not_finite(spec: Input, count: int) -> InputError:
    return InputError(f"input {spec.name}: {count} values are NaN or infinite; drop this frame, the stream goes on")


def motion_of(value: Any, inputs: Sequence[Input]) -> npt.NDArray[np.int32] | None:
    """The motion a caller passed, int32 (2, blocks_y, blocks_x); None where nothing is said."""
    if value is None:
        return None
    spec = next((i for i in inputs if i.role == "motion"), None)
    if spec is None:
        raise InputError("this net was compiled without insert_motion_reindex and cannot follow motion")
    array = to_array(value, "motion")
    if array.shape != tuple(spec.shape) or array.dtype.kind not in "iu":
        raise InputError(f"motion: {array.dtype} {array.shape}, expected integers {tuple(spec.shape)}")
    return array.astype(np.int32)


def mask_of(value: Any, size: Sequence[int]) -> npt.NDArray[np.bool_]:
    """The mask of new pixels a caller passed, bool (height, width)."""
    array = to_array(value, "miss")
    if array.shape != tuple(size) or array.dtype != np.bool_:
        raise InputError(f"miss: {array.dtype} {array.shape}, expected bool {tuple(size)}, one for each frame pixel")
    return np.ascontiguousarray(array)


def masks_of(value: Any, sizes: Mapping[int, Sequence[int]], count: int) -> dict[int, npt.NDArray[np.bool_]]:
    """The masks of new pixels by input: one for all images, or a list with one for each input, None to compare it.

    sizes: of those of the `count` inputs that are images.
    """
    if value is None:
        return {}
    if not isinstance(value, list | tuple):
        return {i: mask_of(value, size) for i, size in sizes.items()}
    if len(value) != count:
        raise InputError(f"miss: a list of {len(value)} masks, the net takes {count} inputs; None compares one")
    return {i: mask_of(value[i], size) for i, size in sizes.items() if value[i] is not None}


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


def are_tensors(frames: Sequence[Any]) -> bool:
    """Whether results are given as torch tensors: as the frames came."""
    return any(type(f).__module__.partition(".")[0] == "torch" for f in frames)


def leaves(tree: Any) -> list[npt.NDArray[Any]]:
    """Return the arrays of a tree of tensors, in order; a dict by its own order."""
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, (list, tuple)):
        return [leaf for value in tree for leaf in leaves(value)]
    if tree is None:
        return []
    return [np.asarray(tree.detach().cpu() if hasattr(tree, "detach") else tree)]
