"""The motion aligner on clips, one thread, beside OpenCV's phase correlation and DIS optical flow.

    python benchmarks/motion.py CLIP... [--frames 36] [--width 640] [--rounds 5]

Each frame against the frame before. ms: median over the frames, each the best of all rounds, from the frame as it came
(for OpenCV too: grey is made within). matched: shares of 16 x 16 blocks whose luma differs by at most 4 of 255 levels
on average, at zero motion, at one shift, at a vector a block, all compared by the same numpy code in the frame's own
light. Phase correlation is rounded to pixels; it gives nothing per block. Flow is the mean of each block, rounded:
DIS was not made for this, it is here for its time and for a field found in another way.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fluxcompile.runtime.motion import BLOCK, MATCHED, Alignment, Reference, align
from fluxcompile.runtime.video import frames, probe

Array = np.ndarray[Any, Any]


def grey(frame: Array) -> Array:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def matched(now: Array, then: Array, vectors: Array) -> float:
    """The share of blocks that match once every block came from where its vector says; outside nothing moves."""
    h, w = now.shape
    at = np.indices((h, w), np.int32)
    source = at + vectors.repeat(BLOCK, 1).repeat(BLOCK, 2)[:, :h, :w]
    inside = (source[0] >= 0) & (source[0] < h) & (source[1] >= 0) & (source[1] < w)
    y, x = np.where(inside, source, at)
    off = np.abs(now.astype(np.float32) - then[y, x])
    starts = np.arange(0, h, BLOCK), np.arange(0, w, BLOCK)
    sums, counts = (np.add.reduceat(np.add.reduceat(v, starts[0], 0), starts[1], 1) for v in (off, np.ones_like(off)))
    return float((sums <= MATCHED * counts).mean())


def everywhere(shift: tuple[int, int], like: Array) -> Array:
    return np.broadcast_to(np.array(shift, np.int32).reshape(2, 1, 1), like.shape)


def best_ms(rounds: int, call: Callable[[], Any]) -> tuple[float, Any]:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        result = call()
        times.append((time.perf_counter() - began) * 1e3)
    return min(times), result


def phase(frame: Array, then: Array, window: Array) -> tuple[int, int]:
    (dx, dy), _ = cv2.phaseCorrelate(grey(frame).astype(np.float32), then, window)
    return round(dy), round(dx)


def measure(clip: Path, count: int, width: int, rounds: int) -> str:
    info = probe(clip)
    images = list(frames(clip, (round(info.height * width / info.width / 2) * 2, width), count=count))
    reference, last = Reference(images[0]), None
    window = cv2.createHanningWindow(images[0].shape[1::-1], cv2.CV_32F)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    ms: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}
    for before, image in itertools.pairwise(images):
        now, then = grey(image), grey(before)
        copies = [then.astype(np.float32) for _ in range(rounds)]  # phaseCorrelate writes its window into its input

        def ours(image: Array = image, last: Alignment | None = last) -> Alignment:
            return align(image, reference, last)

        took, found = best_ms(rounds, ours)
        ms.setdefault("align", []).append(took)
        took, _ = best_ms(rounds, lambda: reference.update(image))  # noqa: B023
        ms.setdefault("update", []).append(took)
        took, shift = best_ms(rounds, lambda: phase(image, copies.pop(), window))  # noqa: B023
        ms.setdefault("phase", []).append(took)
        took, flow = best_ms(rounds, lambda: dis.calc(grey(image), then, None))  # noqa: B023
        ms.setdefault("flow", []).append(took)
        blocks = found.vectors
        field = cv2.resize(flow, blocks.shape[:0:-1], interpolation=cv2.INTER_AREA).transpose(2, 0, 1)[::-1]
        for name, vectors in (
            ("zero", np.zeros_like(blocks)),
            ("shift", everywhere(found.shift, blocks)),
            ("blocks", blocks),
            ("phase", everywhere(shift, blocks)),
            ("flow", np.rint(field).astype(np.int32)),
        ):
            shares.setdefault(name, []).append(matched(now, then, vectors))
        last = found
    return f"| {clip.stem} | " + " | ".join(
        [f"{np.median(ms[k]):.2f}" for k in ("align", "update", "phase", "flow")]
        + [f"{np.mean(shares[k]):.2f}" for k in ("zero", "shift", "blocks", "phase", "flow")]
    ) + " |"  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=36)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    print("| clip | align ms | update ms | phase ms | DIS ms | zero | shift | blocks | phase | DIS |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for clip in given.clips:
        print(measure(clip, given.frames, given.width, given.rounds), flush=True)


if __name__ == "__main__":
    main()
