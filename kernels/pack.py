"""Weights in the order a kernel reads them: panels of output channels, tap by tap; packed once, at load."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class PackedConv2d:
    """One convolution for one variant: row (y, x) reads cells `(y // up * stride, x // up * stride) + taps`."""

    variant: str
    weights: Floats
    bias: Floats
    taps: Ints
    groups: int
    stride: tuple[int, int]
    up: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class PackedTranspose2d:
    """A transposed convolution: a plain one for each phase (y, x) of the stride, of only the taps that hit."""

    stride: tuple[int, int]
    phases: dict[tuple[int, int], PackedConv2d]


def window_taps(kernel: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> Ints:
    """Return (2, taps): where each tap of a window reads, from the window's origin; padding is that of top and left."""
    y, x = (np.arange(k) * d - p for k, d, p in zip(kernel, dilation, padding, strict=True))
    return np.ascontiguousarray(np.stack(np.meshgrid(y, x, indexing="ij")).reshape(2, -1), dtype=np.int32)


def aligned(values: Floats) -> Floats:
    """Return a copy that begins on a line of the cache: vectors that cross lines are read at half the speed."""
    memory = np.empty(values.nbytes + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    copy = memory[begin : begin + values.nbytes].view(np.float32).reshape(values.shape)
    copy[:] = values
    return copy


def _panels(rows: Floats, groups: int, panel: int) -> Floats:
    """(channels, ...) -> (groups, panels, ..., panel), zero-padded."""
    per_group, rest = rows.shape[0] // groups, rows.shape[1:]
    padded = np.zeros((groups, -(-per_group // panel) * panel, *rest), np.float32)
    padded[:, :per_group] = rows.reshape(groups, per_group, *rest)
    return np.moveaxis(padded.reshape(groups, -1, panel, *rest), 2, -1)


def _pack(
    variant: str, taps_last: Floats, bias: Floats, taps: Ints, groups: int, **steps: tuple[int, int]
) -> PackedConv2d:
    """Pack weights given as (out, in / groups, taps)."""
    from fluxcompile.kernels import _cpu

    width, lanes = _cpu.panel(variant)
    if groups > 1 and groups == taps_last.shape[0] and taps_last.shape[1] == 1:  # depthwise
        weights, bias = _panels(taps_last[:, 0], 1, lanes)[0], _panels(bias, 1, lanes)
        weights = weights.transpose(1, 0, 2)
    else:
        weights, bias = _panels(taps_last.swapaxes(1, 2), groups, width), _panels(bias, groups, width)
    return PackedConv2d(variant, aligned(weights).ravel(), aligned(bias).ravel(), taps, groups, **steps)


def pack_conv2d(
    variant: str,
    weight: Floats,
    bias: Floats | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> PackedConv2d:
    """Pack (out, in / groups, h, w); the far padding is what the output map's size says."""
    out, _, *kernel = weight.shape
    bias = np.zeros(out, np.float32) if bias is None else bias
    taps = window_taps((kernel[0], kernel[1]), padding, dilation)
    return _pack(variant, weight.reshape(*weight.shape[:2], -1), bias, taps, groups, stride=stride)


def pack_conv_transpose2d(
    variant: str,
    weight: Floats,
    bias: Floats | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> PackedTranspose2d:
    """Pack (in, out / groups, h, w); tap k of output y reads input (y + padding - k * dilation) / stride, if whole."""
    inputs, per_group, *kernel = weight.shape
    by_group = weight.reshape(groups, inputs // groups, per_group, -1)
    by_out = by_group.swapaxes(1, 2).reshape(groups * per_group, inputs // groups, -1)
    bias = np.zeros(groups * per_group, np.float32) if bias is None else bias
    phases = {}
    for phase in np.ndindex(*stride):
        axes = [
            [(k, (at + p - k * d) // s) for k in range(size) if (at + p - k * d) % s == 0]
            for size, at, s, p, d in zip(kernel, phase, stride, padding, dilation, strict=True)
        ]
        hits = [(ky * kernel[1] + kx, y, x) for ky, y in axes[0] for kx, x in axes[1]]
        if hits:
            which, *taps = (list(column) for column in zip(*hits, strict=True))
            weights = by_out[:, :, which]
        else:  # a kernel smaller than its stride leaves phases that are bias alone
            taps, weights = [[0], [0]], np.zeros_like(by_out[:, :, :1])
        steps = {"stride": (1, 1), "up": stride}
        phases[phase[0], phase[1]] = _pack(variant, weights, bias, np.array(taps, np.int32), groups, **steps)
    return PackedTranspose2d(stride, phases)
