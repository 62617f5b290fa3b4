"""Time against activity on an NVIDIA GPU, sparse beside dense: our stream with backend "cuda" and the model by torch.

    python benchmarks/gpu.py MODEL... [--activity 1 10 50 100] [--pattern blobs] [--rounds 30]

Milliseconds a frame from host memory to host memory, the median of rounds in which both take turns; convolutions in
float32 (`--tf32` lets both use TF32). MODEL is what `fluxcompile run` takes.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from fluxcompile.activity import PATTERNS, Camera, draw
from fluxcompile.net import Net
from fluxcompile.runtime.execute import Executor, constants
from fluxcompile.sources import net_of


def timed_ms(run: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


class DensePeer:
    """The captured model on the GPU, as torch runs it: no caches, no masks."""

    def __init__(self, net: Net) -> None:
        self._device = torch.device("cuda", torch.cuda.current_device())
        graph = net.program.graphs["dense"]
        self._names = [i.name for i in graph.inputs]
        self._run = Executor(graph, constants(net.program, self._device), device=self._device)

    def __call__(self, frames: tuple[Any, ...]) -> list[Any]:
        values = {n: torch.from_numpy(f).to(self._device) for n, f in zip(self._names, frames, strict=True)}
        outputs, _ = self._run(values)
        return [x.cpu() if isinstance(x, torch.Tensor) else x for x in outputs]


def measure(net: Net, shares: list[float], pattern: str, rounds: int) -> None:
    camera, dense = Camera(net, "cuda"), DensePeer(net)
    camera.see(draw(pattern, camera.size, 1.0, (0,)))
    dense(camera.frames)
    print(f"{'new':>6s} {'work':>7s} {'sparse ms':>10s} {'dense ms':>10s} {'share':>7s}")
    for share in shares:
        ours, theirs, work = [], [], []
        for i in range(rounds):
            miss = camera.change(draw(pattern, camera.size, share, (i, round(1000 * share))))
            ours.append(timed_ms(lambda miss=miss: camera.see(miss)))
            theirs.append(timed_ms(lambda: dense(camera.frames)))
            work.append(camera.stream.stats.work_share)
        a, b = median(ours), median(theirs)
        print(f"{share:6.1%} {median(work):7.1%} {a:10.2f} {b:10.2f} {a / b:7.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument(
        "--activity", nargs="+", type=float, default=[1, 5, 10, 25, 50, 100], help="percent of the frame"
    )
    parser.add_argument("--pattern", choices=PATTERNS, default="blobs")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tf32", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no NVIDIA GPU here")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = arguments.tf32
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, TF32 {'on' if arguments.tf32 else 'off'}")
    for model in arguments.models:
        net = net_of(model)
        print(f"\n{model}, {net.explain().total_macs / 1e9:.2f} GMACs, {arguments.pattern}")
        shares = [a / 100 for a in arguments.activity]
        measure(net, shares, arguments.pattern, arguments.rounds)


if __name__ == "__main__":
    main()
