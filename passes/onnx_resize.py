"""ONNX Resize and Upsample.

Resize is separable: along each axis an index (nearest) or a matrix (linear, cubic) with one row an output cell. We
build that from the ONNX definition, then ask torch what its own modes do with the same axis. Where one agrees the
result is `interpolate`; where none does, the index or the matrix itself goes into the graph.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fluxcompile.passes.onnx_layout import take
from fluxcompile.passes.onnx_values import Operator, axes_of, constant, ints, refuse

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Axis:
    """One axis of a Resize; the region of interest is used by tf_crop_and_resize alone."""

    size: int
    out: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)

    def coordinates(self, transform: str) -> Floats:
        """Where each output cell lies on the input, in float32 and in the order of steps that runtimes use."""
        x, one, half = np.arange(self.out, dtype=np.float32), np.float32(1), np.float32(0.5)
        scale, last = np.float32(self.scale), np.float32(self.size - 1)
        steps = np.float32(max(self.out - 1, 1))
        match transform:
            case "half_pixel":
                return (x + half) / scale - half
            case "half_pixel_symmetric":
                exact = np.float32(self.size) * scale
                shift = np.float32(self.size) / 2 * (one - np.float32(self.out) / exact)
                return np.float32(shift) + (x + half) / scale - half
            case "pytorch_half_pixel":
                return (x + half) / scale - half if self.out > 1 else np.zeros(1, np.float32)
            case "align_corners":
                return x * last / steps
            case "asymmetric":
                return x / scale
            case "tf_half_pixel_for_nn":
                return (x + half) / scale
            case "tf_crop_and_resize":
                start, end = (np.float32(edge) for edge in self.roi)
                if self.out == 1:
                    return np.full(1, half * (start + end) * last, np.float32)
                return start * last + x * (end - start) * last / steps
        raise refuse(
            f"coordinate_transformation_mode={transform}", "re-export with half_pixel, align_corners or asymmetric"
        )


def nearest_index(axis: Axis, coordinates: Floats, rounding: str) -> Tensor:
    roundings: dict[str, Callable[[Floats], Floats]] = {
        "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
        "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    if rounding not in roundings:
        raise refuse(f"nearest_mode={rounding}", f"use one of {', '.join(roundings)}")
    return torch.from_numpy(np.clip(roundings[rounding](coordinates), 0, axis.size - 1).astype(np.int64))


def _tent(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    tent: NDArray[np.float64] = np.maximum(1 - np.abs(distance), 0.0)
    return tent


def _cubic(distance: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def weights(
    axis: Axis, coordinates: Floats, mode: str, cubic_a: float, antialias: bool, exclude_outside: bool
) -> Tensor:
    """The [out, size] matrix of a linear or cubic resize."""
    at = coordinates.astype(np.float64)
    if mode == "linear" and not antialias:
        at = np.clip(at, 0, axis.size - 1)
    shrink = min(axis.scale, 1.0) if antialias else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) / shrink)
    places = np.floor(at)[:, None].astype(np.int64) + np.arange(1 - reach, reach + 1)
    distance = (places - at[:, None]) * shrink
    taps = _tent(distance) if mode == "linear" else _cubic(distance, cubic_a)
    if exclude_outside:
        taps = np.where((places < 0) | (places >= axis.size), 0.0, taps)
    taps = taps / taps.sum(1, keepdims=True)
    matrix = np.zeros((axis.out, axis.size))
    np.add.at(matrix, (np.arange(axis.out)[:, None], np.clip(places, 0, axis.size - 1)), taps)
    return torch.from_numpy(matrix).float()


def _torch_does(
    axis: Axis, probe: Tensor, wanted: Tensor, size_or_scale: dict[str, object], mode: str, **how: bool
) -> bool:
    """Whether interpolate gives `wanted` on `probe`, an axis laid along the rows of a [1, c, size, 1] map."""
    flat = "nearest" in mode
    got = F.interpolate(probe[None, :, :, None], mode=mode, **size_or_scale, **how)[0, :, :, 0].T  # type: ignore[arg-type]
    if got.shape != wanted.shape:
        return False
    slack = 0.0 if flat else 4 * torch.finfo(torch.float32).eps * max(axis.size, axis.out, 8)
    return bool((got - wanted).abs().max() <= slack)


def _interpolate(x: Tensor, spatial: list[Axis], wanted: list[Tensor], mode: str, antialias: bool) -> Tensor | None:
    """Torch's own resize of the axes after the channels, or None where it has none that agrees."""
    rank = len(spatial)
    whole = all(axis.scale == int(axis.scale) and axis.out == axis.size * axis.scale for axis in spatial)
    modes = {
        "nearest": ("nearest", "nearest-exact"),
        "linear": (("linear", "bilinear", "trilinear")[rank - 1],),
        "cubic": ("bicubic",) if rank == 2 else (),
    }[mode]
    if antialias and rank != 2:
        return None
    ways: list[dict[str, bool]] = [{}] if mode == "nearest" else [{"align_corners": False}, {"align_corners": True}]
    ways = [way | {"antialias": True} for way in ways] if antialias else ways
    for name in modes:
        for way in ways:
            if all(_same(axis, rows, name, way, whole) for axis, rows in zip(spatial, wanted, strict=True)):
                if whole:
                    return F.interpolate(x, scale_factor=[float(axis.scale) for axis in spatial], mode=name, **way)
                return F.interpolate(x, size=[axis.out for axis in spatial], mode=name, **way)
    return None


def _same(axis: Axis, rows: Tensor, name: str, way: dict[str, bool], whole: bool) -> bool:
    flat = "nearest" in name
    probe = torch.arange(axis.size).float()[None] if flat else torch.eye(axis.size)
    goal = rows.float()[:, None] if flat else rows
    target: dict[str, object] = {"scale_factor": [float(axis.scale), 1.0]} if whole else {"size": [axis.out, 1]}
    if flat or name == "bicubic":
        return _torch_does(axis, probe, goal, target, name, **way)
    return _torch_does(axis, probe, goal, target, "bilinear", **way)


def _along(x: Tensor, dim: int, matrix: Tensor) -> Tensor:
    if dim == x.ndim - 1:
        return F.linear(x, matrix)
    if dim == x.ndim - 2:
        return torch.matmul(matrix, x)
    return torch.movedim(F.linear(torch.movedim(x, dim, -1), matrix), -1, dim)


def _resample(
    x: Tensor,
    axes: list[Axis],
    *,
    mode: str,
    transform: str,
    rounding: str = "floor",
    cubic_a: float = -0.75,
    antialias: bool = False,
    exclude_outside: bool = False,
    extrapolation: float = 0.0,
) -> Tensor:
    if mode not in ("nearest", "linear", "cubic"):
        raise refuse(f"mode={mode}", "use nearest, linear or cubic")
    if mode != "nearest" and not x.dtype.is_floating_point:
        raise refuse(f"mode={mode} on {x.dtype}", "cast to float before the Resize")
    moved = [i for i, axis in enumerate(axes) if axis.out != axis.size or axis.scale != 1.0 or axis.roi != (0.0, 1.0)]
    if not moved:
        return x
    at = {i: axes[i].coordinates(transform) for i in {*moved, *range(2, x.ndim)}}
    rows = {
        i: nearest_index(axes[i], c, rounding)
        if mode == "nearest"
        else weights(axes[i], c, mode, cubic_a, antialias, exclude_outside)
        for i, c in at.items()
    }
    y = None
    if 3 <= x.ndim <= 5 and moved[0] >= 2 and x.dtype.is_floating_point:
        y = _interpolate(x, axes[2:], [rows[i] for i in range(2, x.ndim)], mode, antialias)
    if y is None:
        y = x
        for i in moved:
            y = take(y, i, rows[i]) if mode == "nearest" else _along(y, i, rows[i])
    if transform == "tf_crop_and_resize":
        inside = torch.ones([axis.out for axis in axes], dtype=torch.bool)
        for i in moved:
            valid = torch.from_numpy((at[i] >= 0) & (at[i] <= axes[i].size - 1))
            inside &= valid.reshape([-1 if d == i else 1 for d in range(x.ndim)])
        y = y if bool(inside.all()) else torch.where(inside, y, extrapolation)
    return y


def resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    opset: int,
) -> Tensor:
    if opset < 11:  # Resize-10 has the inputs (x, scales) and no coordinate modes
        assert roi is not None
        return upsample(x, roi, mode=mode)
    dims = list(range(x.ndim)) if axes is None else axes_of(x, axes, "axes of Resize")
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    edges = constant(roi, "roi of Resize").tolist() if crop and roi is not None else []
    edges = edges or [0.0] * len(dims) + [1.0] * len(dims)
    plan = [Axis(size, size, 1.0) for size in x.shape]
    if sizes is not None and constant(sizes, "sizes of Resize").numel():
        targets, factors = ints(sizes, "sizes of Resize"), [1.0] * len(dims)
        if keep_aspect_ratio_policy != "stretch":
            ratios = [np.float32(t) / np.float32(x.shape[d]) for t, d in zip(targets, dims, strict=True)]
            ratio = min(ratios) if keep_aspect_ratio_policy == "not_larger" else max(ratios)
            targets = [int(np.floor(ratio * np.float32(x.shape[d]) + np.float32(0.5))) for d in dims]
            factors = [float(ratio)] * len(dims)
        else:
            factors = [float(np.float32(t) / np.float32(x.shape[d])) for t, d in zip(targets, dims, strict=True)]
    elif scales is not None:
        factors = constant(scales, "scales of Resize").tolist()
        spans = [edges[i + len(dims)] - edges[i] if crop else 1.0 for i in range(len(dims))]
        targets = [
            int(np.float32(f) * np.float32(x.shape[d]) * np.float32(span))
            for f, d, span in zip(factors, dims, spans, strict=True)
        ]
    else:
        raise refuse("Resize with neither scales nor sizes", "the file is inconsistent: re-export it")
    for i, d in enumerate(dims):
        plan[d] = Axis(x.shape[d], targets[i], factors[i], (edges[i], edges[i + len(dims)]))
    return _resample(
        x,
        plan,
        mode=mode,
        transform=coordinate_transformation_mode,
        rounding=nearest_mode,
        cubic_a=cubic_coeff_a,
        antialias=bool(antialias),
        exclude_outside=bool(exclude_outside),
        extrapolation=extrapolation_value,
    )


def upsample(x: Tensor, scales: Tensor | Sequence[float], *, mode: str = "nearest") -> Tensor:
    given = (
        scales
        if isinstance(scales, (list, tuple))
        else constant(torch.as_tensor(scales), "scales of Upsample").tolist()
    )
    factors = [float(factor) for factor in given]
    targets = [int(np.float32(f) * np.float32(size)) for f, size in zip(factors, x.shape, strict=True)]
    plan = [Axis(*axis) for axis in zip(x.shape, targets, factors, strict=True)]
    return _resample(x, plan, mode=mode, transform="asymmetric")


RESIZE: dict[str, Operator] = {"Resize": resize, "Upsample": upsample}
