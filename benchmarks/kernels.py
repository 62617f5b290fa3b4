"""Convolution kernels on the layer shapes of yolo11n at 640x640, one thread, against this core's peak and torch.

    python benchmarks/kernels.py [--act silu] [--pattern scattered] [--variant avx2] [--rounds 9] [--json out.json]

Every figure is GFLOP/s of the work that was asked for: the rows in the list for ours, the whole map for torch (oneDNN,
the faster of its two layouts). Ours and torch take turns within each round; each figure is the best round. The peak is
measured again beside every layer, so that another load on the machine shows as a low peak, not as a slow kernel.
"""

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F

from fluxcompile.kernels import _cpu, cpu
from fluxcompile.kernels.pack import aligned, pack_conv2d
from fluxcompile.measure.timing import best_s

# (input side, input channels, output channels, kernel, stride, groups)
LAYERS = [
    (640, 3, 16, 3, 2, 1),
    (320, 16, 32, 3, 2, 1),
    (160, 16, 16, 3, 1, 1),
    (160, 32, 32, 3, 1, 1),
    (80, 64, 64, 3, 1, 1),
    (40, 128, 128, 3, 1, 1),
    (20, 256, 256, 3, 1, 1),
    (160, 32, 64, 1, 1, 1),
    (80, 128, 64, 1, 1, 1),
    (40, 256, 128, 1, 1, 1),
    (20, 512, 256, 1, 1, 1),
    (80, 64, 64, 3, 1, 64),
    (20, 256, 256, 3, 1, 256),
]
SHARES = (0.01, 0.1, 0.5, 1.0)


def active_cells(side: int, share: float, pattern: str) -> np.ndarray[Any, Any]:
    """The rows of a share of a square map: discs of a tenth of its side, or single cells."""
    random = np.random.default_rng(0)
    wanted = max(1, round(share * side * side))
    if share == 1:
        return np.arange(wanted, dtype=np.int32)
    if pattern == "scattered":
        return np.sort(random.choice(side * side, wanted, replace=False)).astype(np.int32)
    y, x = np.mgrid[:side, :side]
    mask = np.zeros((side, side), bool)
    while mask.sum() < wanted:
        top, left = random.uniform(0, side, 2)
        mask |= (y - top) ** 2 + (x - left) ** 2 <= max(1.0, side / 10 * min(1.0, (wanted / side**2) ** 0.5 * 3)) ** 2
    return np.flatnonzero(mask)[:wanted].astype(np.int32)


def measure(layer: tuple[int, ...], variant: str, act: str, pattern: str, rounds: int) -> dict[str, Any]:
    """All figures of one layer."""
    side, inputs, outputs, kernel, stride, groups = layer
    random = np.random.default_rng(0)
    x = aligned(random.standard_normal((side, side, inputs), np.float32))
    weight = random.standard_normal((outputs, inputs // groups, kernel, kernel), np.float32) / 30
    bias = random.standard_normal(outputs, np.float32)
    to = -(-side // stride)
    out = aligned(np.zeros((to, to, outputs), np.float32))
    half = (kernel // 2, kernel // 2)
    packed = pack_conv2d(variant, weight, bias, stride=(stride, stride), padding=half, groups=groups)
    finish = {"none": lambda y: y, "relu": F.relu_, "silu": lambda y: F.silu(y, inplace=True)}[act]
    flops = 2 * kernel * kernel * inputs // groups * outputs

    runs: dict[str, tuple[float, Callable[[], object]]] = {}
    for share in SHARES:
        cells = active_cells(to, share, pattern)
        runs[f"{share:.0%}"] = (flops * len(cells), lambda cells=cells: cpu.conv2d(packed, x, out, cells, act=act))
    for name, layout in (("nhwc", torch.channels_last), ("nchw", torch.contiguous_format)):
        conv = torch.nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
        conv.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
        conv = conv.to(memory_format=layout)
        given = torch.from_numpy(x).permute(2, 0, 1)[None].to(memory_format=layout)
        runs[f"torch {name}"] = (flops * to * to, lambda conv=conv, given=given: finish(conv(given)))

    best = dict.fromkeys(runs, float("inf"))
    peak = 0.0
    with torch.inference_mode():
        for _ in range(rounds):
            peak = max(peak, _cpu.peak_gflops(variant, 0.01))
            for name, (_, run) in runs.items():
                best[name] = min(best[name], best_s(run))
    speeds = {name: work / best[name] * 1e-9 for name, (work, _) in runs.items()}
    torch_best = max(speed for name, speed in speeds.items() if name.startswith("torch"))
    return {
        "layer": f"{side}x{side}x{inputs} -> {outputs}, {kernel}x{kernel} s{stride}" + (" dw" if groups > 1 else ""),
        "peak": peak,
        "torch": torch_best,
        **{f"{share:.0%}": speeds[f"{share:.0%}"] for share in SHARES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--act", choices=["none", "relu", "silu"], default="none")
    parser.add_argument("--pattern", choices=["blobs", "scattered"], default="blobs")
    parser.add_argument("--variant", choices=cpu.variants(), default=cpu.best_variant())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = [f"{share:.0%}" for share in SHARES]
    print(f"{arguments.variant}, {arguments.act}, {arguments.pattern}; GFLOP/s, in brackets the share of peak")
    print(f"{'layer':32s} {'peak':>5s} {'torch':>10s}", *(f"{c:>10s}" for c in columns), "100% / torch")
    rows = []
    for layer in LAYERS:
        row = measure(layer, arguments.variant, arguments.act, arguments.pattern, arguments.rounds)
        rows.append(row)
        cells = [f"{row[c]:.0f} ({row[c] / row['peak']:.0%})" for c in ("torch", *columns)]
        print(
            f"{row['layer']:32s} {row['peak']:5.0f}",
            *(f"{c:>10s}" for c in cells),
            f"{row['100%'] / row['torch']:6.2f}",
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            settings = {name: getattr(arguments, name) for name in ("variant", "act", "pattern", "rounds")}
            json.dump({**settings, "rows": rows}, file)


if __name__ == "__main__":
    main()
