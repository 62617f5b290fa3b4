"""Plays clips through a lowered graph in ONNX Runtime and through our reference executor, side by side.

A feed is what a frame gives to the graph's inputs, by name; caches go from one frame to the next by themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fluxcompile.errors import OptionError
from fluxcompile.geometry import parse_layout
from fluxcompile.options import Policy
from fluxcompile.program import Input, Program
from fluxcompile.runtime.execute import TYPES, Executor, constants

Array = npt.NDArray[Any]
Feed = dict[str, Array]
FRAMES = 12
"""Of a clip that proves something: still, changed, moved and cut."""
COARSE = 8
"""Pixels over which made-up pictures are smooth."""


class Golden:
    """A lowered graph with functions in ONNX Runtime, and its caches."""

    def __init__(self, model: bytes | str | Path, caches: Sequence[tuple[str, str]], outputs: Sequence[str]) -> None:
        import onnxruntime

        asked = onnxruntime.SessionOptions()
        asked.log_severity_level = 3  # initialisers of layers that constant folding removes
        # the functions are inlined as they stand: further fusion costs minutes and proves nothing
        asked.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        source = model if isinstance(model, bytes) else str(model)
        self._session = onnxruntime.InferenceSession(source, asked, providers=["CPUExecutionProvider"])
        self._pairs, self._outputs = caches, outputs
        self._names = [o.name for o in self._session.get_outputs()]
        shapes = {i.name: i.shape for i in self._session.get_inputs()}
        self.caches: Feed = {name: np.zeros(shapes[name], np.float32) for name, _ in caches}

    def __call__(self, feed: Mapping[str, Array]) -> list[Array]:
        """The outputs of a frame; `caches` are then the next frame's."""
        found = dict(zip(self._names, self._session.run(self._names, {**feed, **self.caches}), strict=True))
        self.caches = {cache: found[value] for cache, value in self._pairs}
        return [found[name] for name in self._outputs]


class Reference:
    """The program's blocked graph in plain torch, fed as the lowered graph is."""

    def __init__(self, program: Program, radius: int | None) -> None:
        self._graph = program.graphs["blocked"]
        self._run = Executor(self._graph, constants(program))
        self._radius = torch.tensor(-1 if radius is None else radius)
        caches = [i for i in self._graph.inputs if i.role == "cache"]
        self.caches = {i.name: torch.zeros(i.shape, dtype=TYPES[i.dtype]) for i in caches}

    def __call__(self, feed: Mapping[str, Array]) -> list[Array]:
        values = {i.name: self._value(i, feed) for i in self._graph.inputs if i.role != "cache"}
        outputs, self.caches = self._run({**values, **self.caches})
        return [o.numpy() for o in outputs]

    def _value(self, spec: Input, feed: Mapping[str, Array]) -> torch.Tensor:
        if spec.role == "radius":
            return self._radius
        return torch.from_numpy(feed[spec.name]).to(TYPES[spec.dtype]).reshape(spec.shape)


def apart(got: Array, want: Array) -> float:
    """The largest difference over the largest value; infinite where one is not finite and the other is."""
    if got.shape != want.shape:
        return float("inf")
    finite = np.isfinite(want)
    if not np.array_equal(finite, np.isfinite(got)) or not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return float("inf")
    got, want = (x[finite].astype(np.float64) for x in (got, want))
    if not want.size:
        return 0.0
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-6))


# --- clips ---


def settings(program: Program, policy: Policy, fresh: bool) -> Feed:
    """What a frame's feed holds besides frames and motion."""
    exact = policy.exact
    found = {"threshold": 0.0 if exact else policy.threshold, "gate": 0.0 if exact else policy.gate}
    feed: Feed = {}
    for spec in program.graphs["blocked"].inputs:
        if spec.role == "fresh":
            feed[spec.name] = np.array([fresh], np.int32)
        elif spec.role in found:
            feed[spec.name] = np.array([found[spec.role]], np.float32)
    return feed


def made_clip(program: Program, policy: Policy, count: int = FRAMES, seed: int = 0) -> Iterator[Feed]:
    """Pictures that stand still, change in places, pan with their motion known or told wrong, and are cut.

    Values are multiples of 1 / 255, as a camera's are, so that a clip is small on disk.
    """
    random = np.random.default_rng(seed)
    specs = program.graphs["blocked"].inputs
    frames: Feed = {}
    for at in range(count):
        fresh = at in (0, 7)
        if fresh:
            frames = {i.name: _picture(random, i) for i in specs if i.role == "input"}
        motion = {i.name: np.zeros(i.shape, np.int32) for i in specs if i.role == "motion"}
        frames = {name: frame.copy() for name, frame in frames.items()}
        for spec in (i for i in specs if i.role == "input" and i.layout):
            _event(at, random, spec, frames, motion)
        yield {**frames, **motion, **settings(program, policy, fresh)}


def _picture(random: np.random.Generator, spec: Input) -> Array:
    """Smooth over some pixels, as photographs are; noise alone drives a net where sums cancel."""
    dims = parse_layout(spec.layout).map_dims if spec.layout else None
    coarse = [-(-n // COARSE) + 1 if dims and d in dims else n for d, n in enumerate(spec.shape)]
    field = random.random(coarse)
    for d in dims or ():
        at = np.arange(spec.shape[d]) / COARSE
        low, part = at.astype(np.int64), at % 1
        part = part.reshape([-1 if i == d else 1 for i in range(field.ndim)])
        field = field.take(low, d) * (1 - part) + field.take(low + 1, d) * part
    levels = np.rint(255 * field).astype(np.float32)
    return levels if spec.dtype == "u8" else levels / np.float32(255)


def _event(at: int, random: np.random.Generator, spec: Input, frames: Feed, motion: Feed) -> None:
    """What happens in a frame: nothing in every fourth, a pan in every fifth, else a patch that changes."""
    dims = parse_layout(spec.layout).map_dims
    if dims is None or at % 4 == 2:
        return
    frame = frames[spec.name]
    if at % 5 == 3:
        by = 16 if at % 2 else 8
        frames[spec.name] = np.roll(frame, (-by, -by), dims)
        for field in motion.values():
            field[:] = by
    elif at % 5 == 4:  # vectors that are wrong, which costs work and nothing else
        for field in motion.values():
            field[:] = random.integers(-8, 9, field.shape)
    sizes = [max(1, spec.shape[d] // 6) for d in dims]
    window: list[slice] = [slice(None)] * frame.ndim
    for d, size in zip(dims, sizes, strict=True):
        first = int(random.integers(0, spec.shape[d] - size + 1))
        window[d] = slice(first, first + size)
    frames[spec.name][tuple(window)] = _picture(random, spec)[tuple(window)]


def real_clip(
    program: Program, policy: Policy, clip: str | Path, count: int = FRAMES, after: Program | None = None
) -> Iterator[Feed]:
    """Frames of a video, fitted to the input, with the motion that alignment finds from one to the next.

    after: the edge's half of a cut net, which makes the cloud's maps of the frames.
    """
    from fluxcompile.runtime.fit import fit
    from fluxcompile.runtime.motion import Reference as Aligned
    from fluxcompile.runtime.motion import align
    from fluxcompile.runtime.video import frames

    front = None if after is None else _Front(after, program)
    spec = _image(after or program, clip)
    planar = spec.shape[-1] != 3
    size = (spec.shape[-2], spec.shape[-1]) if planar else (spec.shape[-3], spec.shape[-2])
    reference: Aligned | None = None
    for at, picture in enumerate(frames(str(clip), count=count)):
        image, _ = fit(picture, *size)
        vectors = None if reference is None else align(image, reference).vectors
        reference = Aligned(image)
        frame = image.astype(np.float32)
        if planar:
            frame = frame.transpose(2, 0, 1)[None] / np.float32(255)
        feed = {spec.name: np.ascontiguousarray(frame)}
        yield {
            **(feed if front is None else front(feed)),
            **_motion(program, vectors, size),
            **settings(program, policy, at == 0),
        }


def _image(program: Program, clip: str | Path) -> Input:
    """The one input, an image, that a video plays through."""
    images = [i for i in program.graphs["blocked"].inputs if i.role == "input"]
    if len(images) == 1 and 3 in images[0].shape:
        return images[0]
    if program.part is not None and program.part.side == "cloud":
        raise OptionError(f"{clip}: the cloud's half of a net takes no video; export it after the edge's half")
    raise OptionError(f"{clip}: a video plays through nets with one image as input")


class _Front:
    """What the edge's half of a net makes of a frame: the maps that the cloud's half takes."""

    def __init__(self, edge: Program, cloud: Program) -> None:
        parts = [(p.part.side, p.part.whole) if p.part else ("whole", "") for p in (edge, cloud)]
        if [side for side, _ in parts] != ["edge", "cloud"] or len({whole for _, whole in parts}) != 1:
            raise OptionError(
                "after: takes the edge's half of the net whose cloud's half is exported; partition writes both"
            )
        self._run = Executor(edge.graphs["dense"], constants(edge))
        self._specs = edge.graphs["dense"].inputs
        self._names = [i.name for i in cloud.graphs["blocked"].inputs if i.role == "input"]

    def __call__(self, feed: Feed) -> Feed:
        frame = {i.name: torch.from_numpy(feed[i.name]).to(TYPES[i.dtype]) for i in self._specs}
        maps, _ = self._run(frame)
        return {name: value.numpy() for name, value in zip(self._names, maps[: len(self._names)], strict=True)}


def _motion(program: Program, vectors: Array | None, size: tuple[int, int]) -> Feed:
    """The vectors of a frame's blocks as those of a program's, whose cells may be several pixels of the frame."""
    specs = program.graphs["blocked"].inputs
    grids = [parse_layout(i.layout).grid for i in specs if i.role == "input" and i.layout]
    found: Feed = {}
    for spec in (i for i in specs if i.role == "motion"):
        if vectors is None:
            found[spec.name] = np.zeros(spec.shape, np.int32)
            continue
        pixels = np.array([size[0] / grids[0].h, size[1] / grids[0].w])
        rows, columns = (
            (np.minimum((np.arange(n) + 0.5) * p, have - 1)).astype(np.int64)
            for n, p, have in zip(spec.shape[1:], pixels, vectors.shape[1:], strict=True)
        )
        found[spec.name] = np.rint(vectors[:, rows][:, :, columns] / pixels[:, None, None]).astype(np.int32)
    return found
