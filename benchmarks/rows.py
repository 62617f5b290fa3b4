"""Pooling, norms, softmax, resampling and pointwise chains, one thread, against torch.

    python benchmarks/rows.py [--variant avx2] [--rounds 7]

Microseconds, and GB/s of what must be read and written at 100 %; a tenth of the rows is drawn at random. torch does all
rows, in the layout that it is given here (NHWC), which its pooling and resampling are slow in. Best of all rounds.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F

from fluxcompile.kernels import cpu
from fluxcompile.kernels.pack import aligned
from fluxcompile.measure.timing import best_s

Cells = np.ndarray[Any, Any]
# name, floats read and written, rows, ours and torch's
Case = tuple[str, int, int, Callable[[Cells], object], Callable[[], object]]


def reals(*shape: int) -> Cells:
    return aligned(np.random.default_rng(0).standard_normal(shape, np.float32))


def nchw(x: Cells) -> torch.Tensor:
    return torch.from_numpy(x).permute(2, 0, 1)[None]


def pool(variant: str, side: int, channels: int, kernel: int, stride: int) -> Case:
    half = kernel // 2
    to = (side + 2 * half - kernel) // stride + 1
    x, out, taps = reals(side, side, channels), reals(to, to, channels), cpu.window_taps((kernel,) * 2, (half,) * 2)
    return (
        f"max pool {kernel}x{kernel} s{stride} {side}x{side}x{channels}", x.size + out.size, to * to,
        lambda cells: cpu.pool2d(variant, "max", taps, x, out, cells, stride=(stride, stride)),
        lambda: F.max_pool2d(nchw(x), kernel, stride, half),
    )  # fmt: skip


def double(variant: str, side: int, channels: int, mode: str) -> Case:
    x, out = reals(side, side, channels), reals(2 * side, 2 * side, channels)
    table = cpu.axis_table(mode.removeprefix("bi"), side, 2 * side)
    return (
        f"{mode} x2 {side}x{side}x{channels}", x.size + out.size, 4 * side * side,
        lambda cells: cpu.resample2d(variant, table, table, x, out, cells),
        lambda: F.interpolate(nchw(x), scale_factor=2, mode=mode),
    )  # fmt: skip


def norm(variant: str, tokens: int, channels: int) -> Case:
    x, out, gamma, beta = reals(1, tokens, channels), reals(1, tokens, channels), reals(channels), reals(channels)
    a, g, b = (torch.from_numpy(v) for v in (x, gamma, beta))
    return (
        f"layer norm {tokens}x{channels}", 2 * x.size, tokens,
        lambda cells: cpu.layer_norm(variant, gamma, beta, 1e-5, x, out, cells),
        lambda: F.layer_norm(a, (channels,), g, b),
    )  # fmt: skip


def softmax(variant: str, tokens: int, channels: int) -> Case:
    x, out = reals(1, tokens, channels), reals(1, tokens, channels)
    a = torch.from_numpy(x)
    return (
        f"softmax {tokens}x{channels}", 2 * x.size, tokens,
        lambda cells: cpu.softmax(variant, 1.0, x, out, cells),
        lambda: F.softmax(a, -1),
    )  # fmt: skip


def add_relu(variant: str, side: int, channels: int) -> Case:
    x, y, out = (reals(side, side, channels) for _ in range(3))
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    terms = [("add", 0.0, 0.0, y), ("relu", 0.0, 0.0, None)]
    return (
        f"add relu {side}x{side}x{channels}", 3 * x.size, side * side,
        lambda cells: cpu.pointwise(variant, terms, x, out, cells),
        lambda: F.relu_(a + b),
    )  # fmt: skip


def silu(variant: str, side: int, channels: int) -> Case:
    x, out = reals(side, side, channels), reals(side, side, channels)
    a = torch.from_numpy(x)
    return (
        f"silu {side}x{side}x{channels}", 2 * x.size, side * side,
        lambda cells: cpu.pointwise(variant, [("silu", 0.0, 0.0, None)], x, out, cells),
        lambda: F.silu(a),
    )  # fmt: skip


def cases(variant: str) -> Iterator[Case]:
    yield pool(variant, 20, 128, 5, 1)
    yield pool(variant, 112, 64, 3, 2)
    yield double(variant, 20, 256, "nearest")
    yield double(variant, 40, 64, "bilinear")
    for tokens, channels in ((197, 384), (3136, 96)):
        yield norm(variant, tokens, channels)
        yield softmax(variant, tokens, channels)
    for side, channels in ((160, 16), (80, 64), (20, 256)):
        yield add_relu(variant, side, channels)
        yield silu(variant, side, channels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=cpu.variants(), default=cpu.best_variant())
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.variant:32s} {'torch':>8s} {'10%':>8s} {'100%':>8s} {'GB/s':>6s}  100% / torch")
    for name, floats, rows, ours, theirs in cases(arguments.variant):
        lists = [
            np.sort(np.random.default_rng(0).choice(rows, count, replace=False)).astype(np.int32)
            for count in (max(1, rows // 10), rows)
        ]
        best = [float("inf")] * 3
        runs = (theirs, *(partial(ours, cells) for cells in lists))
        with torch.inference_mode():
            for _ in range(arguments.rounds):
                best = [min(b, best_s(run, most=60)) for b, run in zip(best, runs, strict=True)]
        times = " ".join(f"{b * 1e6:8.1f}" for b in best)
        print(f"{name:32s} {times} {floats * 4e-9 / best[2]:6.0f}  {best[2] / best[0]:.2f}")


if __name__ == "__main__":
    main()
