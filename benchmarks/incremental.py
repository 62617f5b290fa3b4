"""Attention computed anew or corrected, over clips: streams take turns frame by frame, beside an exact one.

    python benchmarks/incremental.py MODEL CLIP... [--frames 60] [--residual 3]

For each setting: share of the work, milliseconds a frame (median and mean) and the mean error of the first output over
the spread of the exact one. MODEL is what `fluxcompile run` takes; random weights tell times, not much of agreement.
"""

import argparse
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt

from fluxcompile import Policy
from fluxcompile.measure.peers import arrays
from fluxcompile.runtime.fit import fit
from fluxcompile.runtime.video import frames
from fluxcompile.sources import net_of

RADII = (0, 16, 32, 64, None)
GATES = (0.2, 0.05, 0.02)


@dataclass
class Run:
    """A stream, and what it did."""

    name: str
    stream: Any
    work: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def see(self, image: Any) -> npt.NDArray[Any]:
        began = time.perf_counter()
        outputs = self.stream(image)
        self.ms.append(1000 * (time.perf_counter() - began))
        self.work.append(self.stream.stats.work_share)
        return np.asarray(arrays(outputs)[0])

    def row(self) -> str:
        figures = f"{mean(self.work):6.1%} {median(self.ms):8.2f} {mean(self.ms):8.2f} {mean(self.errors):8.4f}"
        return f"{self.name:32s} {figures}"


def runs_of(nets: dict[str, Any], residual: float) -> list[Run]:
    def run(attention: str, policy: Policy) -> Run:
        knobs = "exact" if policy.exact else f"radius {policy.radius}, gate {policy.gate}"
        return Run(f"{attention}: {knobs}", nets[attention].stream(policy, backend="cpu"))

    def near(radius: int | None, gate: float = 0.0) -> Policy:
        return Policy(exact=False, residual=residual, radius=radius, gate=gate)

    return [
        *(run(attention, Policy()) for attention in nets),
        *(run("exact", near(radius)) for radius in RADII),
        *(run("incremental", near(0, gate)) for gate in GATES),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--residual", type=float, default=3.0)
    arguments = parser.parse_args()
    nets = {a: net_of(arguments.model, pixels="auto", attention=a) for a in ("exact", "incremental")}
    height, width, _ = nets["exact"].input_shapes[0]
    runs = runs_of(nets, arguments.residual)
    for clip in arguments.clips:
        for run in runs:
            run.stream.reset()
        for image in frames(clip, count=arguments.frames):
            shown = fit(image, height, width)[0]
            want: npt.NDArray[Any] | None = None
            for run in runs:
                out = run.see(shown)
                want = out.copy() if want is None else want
                spread = float(np.abs(want - want.mean()).mean())
                run.errors.append(float(np.abs(out - want).mean()) / max(spread, 1e-12))
    print(
        f"{arguments.model}, {len(arguments.clips)} clips of {arguments.frames} frames, residual {arguments.residual}"
    )
    print(f"{'attention: setting':32s} {'work':>6s} {'median':>8s} {'mean':>8s} {'error':>8s}")
    for run in runs:
        print(run.row())


if __name__ == "__main__":
    main()
