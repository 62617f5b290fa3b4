"""Attention kernels over all tokens and in windows, one thread, against torch's scaled_dot_product_attention.

    python benchmarks/attention.py [--variant avx2] [--rounds 9]

Microseconds; active rows are drawn at random, torch does them all. Of attention over all tokens also how long all rows
take to be corrected by a share of the keys. Ours and torch take turns within each round; each figure is the best round.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F

from fluxcompile.kernels import _cpu, cpu
from fluxcompile.kernels.pack import aligned
from fluxcompile.measure.timing import best_s

# (side of a square map, side of a window, heads, dim, with bias); one line of tokens if the window is 0
LAYERS = [
    (197, 0, 6, 64, False),
    (400, 0, 2, 64, False),
    (1600, 0, 4, 32, False),
    (56, 7, 3, 32, True),
    (56, 7, 3, 32, False),
    (32, 8, 4, 32, True),
]
SHARES = (0.01, 0.1, 0.5, 1.0)
CORRECTED = (0.01, 0.1, 0.25)


def measure(layer: tuple[int, int, int, int, bool], variant: str, rounds: int) -> dict[str, float]:
    """Seconds by share, and of torch."""
    side, window, heads, dim, biased = layer
    random = np.random.default_rng(0)
    height, span = (side, window * window) if window else (1, side)
    groups, rows, channels = height * side // span, height * side, heads * dim
    q, k, v = (aligned(random.standard_normal((height, side, channels), np.float32)) for _ in range(3))
    out = aligned(np.zeros_like(v))
    y, x = np.mgrid[:height, :side]
    group, member = (
        (y // window * (side // window) + x // window, y % window * window + x % window) if window else (y, x)
    )
    keys = np.lexsort((member.ravel(), group.ravel())).reshape(groups, span).astype(np.int32)
    options: dict[str, Any] = {"group_of": group.ravel().astype(np.int32), "member_of": member.ravel().astype(np.int32)}
    bias = random.standard_normal((1, heads, span, span), np.float32) if biased else None

    def ours(cells: np.ndarray[Any, Any]) -> Callable[[], object]:
        chosen = options if window else {}
        return lambda: cpu.attention(variant, heads, dim**-0.5, q, k, v, keys, out, cells, bias=bias, **chosen)

    runs: dict[str, Callable[[], object]] = {}
    for share in SHARES:
        cells = np.sort(random.choice(rows, max(1, round(share * rows)), replace=False)).astype(np.int32)
        runs[f"{share:.0%}"] = ours(cells)
    for share in () if window else CORRECTED:
        changed = np.sort(random.choice(rows, max(1, round(share * rows)), replace=False)).astype(np.int32)[None]
        runs[f"keys {share:.0%}"] = corrected(variant, heads, q, k, v, changed)
    tq, tk, tv = (
        torch.from_numpy(np.ascontiguousarray(m.reshape(rows, heads, dim)[keys].transpose(0, 2, 1, 3)))
        for m in (q, k, v)
    )
    mask = None if bias is None else torch.from_numpy(bias).expand(groups, heads, span, span)
    runs["torch"] = lambda: F.scaled_dot_product_attention(tq, tk, tv, mask)
    best = dict.fromkeys(runs, float("inf"))
    with torch.inference_mode():
        for _ in range(rounds):
            for name, run in runs.items():
                best[name] = min(best[name], best_s(run))
    return best


def corrected(variant: str, heads: int, q: Any, k: Any, v: Any, changed: Any) -> Callable[[], object]:
    """All rows corrected by keys that count as changed though they are as they were, so that it can be repeated."""
    rows, scale = q.shape[1], (q.shape[2] // heads) ** -0.5
    cells, old, mean = np.arange(rows, dtype=np.int32), (aligned(k), aligned(v)), aligned(np.zeros_like(v))
    sums, poor = np.zeros((1, rows, 3 * heads), np.float32), np.zeros(rows, np.uint8)
    cpu.attention(variant, heads, scale, q, k, v, cells[None], mean, cells, sums=sums)
    return lambda: cpu.correct_attention(variant, heads, scale, q, k, v, *old, changed, mean, sums, cells, poor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=cpu.variants(), default=cpu.best_variant())
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = [*(f"{share:.0%}" for share in SHARES), *(f"keys {share:.0%}" for share in CORRECTED)]
    print(f"{arguments.variant}; microseconds, in brackets the share of torch's; GFLOP/s at 100% and at peak")
    print(f"{'layer':34s} {'torch':>7s}", *(f"{c:>13s}" for c in columns), "GFLOP/s")
    for layer in LAYERS:
        best = measure(layer, arguments.variant, arguments.rounds)
        side, window, heads, dim, biased = layer
        name = f"{side}x{side} in {window}x{window}" if window else f"{side} tokens"
        pairs = (side * window) ** 2 if window else side * side
        cells = [f"{best[c] * 1e6:.0f} ({best[c] / best['torch']:.0%})" if c in best else "" for c in columns]
        print(
            f"{name + f', {heads} x {dim}' + (', bias' if biased else ''):34s} {best['torch'] * 1e6:7.0f}",
            *(f"{c:>13s}" for c in cells),
            f"{4e-9 * pairs * heads * dim / best['100%']:.0f} of {_cpu.peak_gflops(arguments.variant, 0.02):.0f}",
        )


if __name__ == "__main__":
    main()
