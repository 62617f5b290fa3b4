"""Activity: which pixels of a frame are new, and a stream of ours that is shown them.

Blocks of 32 x 32 frame pixels are new or not:

    blobs      a few connected shapes, as objects in front of a fixed camera
    scattered  as many blocks anywhere, the worst case for tiles and for the memory
"""

import heapq
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import OptionError
from fluxcompile.geometry import parse_layout
from fluxcompile.options import Policy
from fluxcompile.program import Input, Program

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

BLOCK = 32
"""Frame pixels a side of what is new as a whole."""

PATTERNS = ("blobs", "scattered")
BACKENDS = ("cpu", "cuda", "reference")
UNBOUND = Policy(exact=False, radius=0)
"""Time against activity: what is new is recomputed, and spreads no further than the blocks that hold it."""

NUMPY = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "b8": "bool",
}


def draw(pattern: str, size: tuple[int, int], share: float, seed: Sequence[int]) -> Mask:
    """The pixels that are new: `share` of the blocks of a frame, rounded, at least one; none if the share is 0."""
    h, w = size
    grid = -(-h // BLOCK), -(-w // BLOCK)
    blocks = np.zeros(grid, np.bool_)
    count = min(blocks.size, max(1, math.floor(share * blocks.size + 0.5))) if share else 0
    random = np.random.default_rng([*seed])
    if count == blocks.size:
        blocks[:] = True
    elif pattern == "blobs":
        _grow(blocks, count, random)
    else:
        blocks.flat[random.choice(blocks.size, count, replace=False)] = True
    return blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:h, :w]


def _grow(blocks: Mask, count: int, random: np.random.Generator) -> None:
    """Set `count` blocks: one to four rough discs, each connected, that grow in turn."""
    blobs = min(4, count, 1 + round(math.sqrt(count) / 3))
    edges: list[list[tuple[float, int, int]]] = []
    for at in random.choice(blocks.size, blobs, replace=False):
        y, x = divmod(int(at), blocks.shape[1])
        edges.append([(0.0, y, x)])
    centres = [edge[0][1:] for edge in edges]
    while count:
        for edge, (centre_y, centre_x) in zip(edges, centres, strict=True):
            while edge:
                _, y, x = heapq.heappop(edge)
                if not blocks[y, x]:
                    break
            else:
                continue
            blocks[y, x] = True
            count -= 1
            for to_y, to_x in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= to_y < blocks.shape[0] and 0 <= to_x < blocks.shape[1] and not blocks[to_y, to_x]:
                    far = math.hypot(to_y - centre_y, to_x - centre_x) + float(random.uniform(0, 1.5))
                    heapq.heappush(edge, (far, to_y, to_x))
            if not count:
                return


class Stream(Protocol):
    """What is asked of a stream here; `miss` is the pixels that are new, and the caller vouches for it."""

    @property
    def stats(self) -> Any: ...
    def reset(self) -> None: ...
    def __call__(self, *frames: Any, **knobs: Any) -> Any: ...


class Net(Protocol):
    """What is asked of a compiled net here."""

    @property
    def program(self) -> Program: ...
    def stream(self, policy: Policy | None = None, *, backend: str | None = None, threads: int = 1) -> Any: ...
    def explain(self) -> Any: ...


class Camera:
    """A stream, and the frames it is shown: noise in which chosen pixels are drawn anew."""

    def __init__(self, net: Net, backend: str = "cpu", threads: int = 1, policy: Policy = UNBOUND, seed: int = 0):
        self._random = np.random.default_rng(seed)
        inputs = [i for i in net.program.graphs["blocked"].inputs if i.role == "input"]
        self._placed = next((k for k, i in enumerate(inputs) if i.layout and parse_layout(i.layout).map_dims), None)
        if self._placed is None:
            raise OptionError("none of the net's inputs is an image, so no part of a frame can be new")
        dims = parse_layout(inputs[self._placed].layout).map_dims
        assert dims is not None
        self._dims = dims
        self.frames = tuple(self._noise(i) for i in inputs)
        self._noises = tuple(self._noise(inputs[self._placed]) for _ in range(3))
        self._drawn = 0
        shape = self.frames[self._placed].shape
        self.size = (shape[dims[0]], shape[dims[1]])
        self.stream: Stream = net.stream(policy, backend=backend, threads=threads)

    def change(self, miss: Mask) -> Mask:
        """Draw the pixels of the frame that are new, and touch no others."""
        assert self._placed is not None
        frame = np.moveaxis(self.frames[self._placed], self._dims, (0, 1))
        self._drawn = (self._drawn + 1) % len(self._noises)
        noise = np.moveaxis(self._noises[self._drawn], self._dims, (0, 1))
        np.copyto(frame, noise, where=miss.reshape(*miss.shape, *[1] * (frame.ndim - 2)))
        return miss

    def see(self, miss: Mask) -> Any:
        """The outputs for the frame as it is."""
        return self.stream(*self.frames, miss=miss)

    def _noise(self, spec: Input) -> Array:
        if spec.dtype not in NUMPY:
            raise OptionError(f"input {spec.name}: cannot make frames of {spec.dtype}; compile the net for f32 or u8")
        return self._values(tuple(spec.shape), np.dtype(NUMPY[spec.dtype]))

    def _values(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        if dtype.kind == "f":
            return self._random.random(shape, np.float32).astype(dtype, copy=False)
        return self._random.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)
