"""Many cameras and one server on this machine for as long as one likes: is memory flat, does agreement hold?

    python benchmarks/soak.py [--minutes 30] [--cameras 8] [--fps 5] [--break-every 20] [--model NET.flux --clip CLIP]

Processes and TCP as `fluxcompile serve` and `edge` have them; each camera plays its clip round and round, its frames to
the server and home in turn, and its connection breaks now and then. Every 20th answer is compared with dense inference
of the camera's own picture. Ends with 1 if, after the first half in which everything comes into being, the memory of
either process grew by more than `GROWTH`, beyond what streams take that turn to another codec only then, or if
agreement fell by more than `DRIFT` since the second quarter. Prints JSON.

Without a model: a small net of the zoo with random weights, and a scene in which squares move.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fluxcompile import load
from fluxcompile.net import Net
from fluxcompile.options import VIDEO, parse_policy
from fluxcompile.remote import Uplink, checker, edge_of
from fluxcompile.runtime.channel import listen, tcp
from fluxcompile.runtime.device import ThisMachine
from fluxcompile.runtime.pool import ProcessPool, python_command
from fluxcompile.runtime.serve import Server
from fluxcompile.testbed.clips import Footage, footage

GROWTH = 0.03
CODEC_MB = 1.0
"""Of a stream that turns to H.264: its decoder, and what many of them leave between what is in use."""
DRIFT = 0.01
COMPARED_EVERY = 20
LOOKED_EVERY_S = 2.0
Json = dict[str, Any]


def memory_mb(process: int | str) -> float:
    """Resident memory, by /proc."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def made_footage(net: Net, count: int, seed: int) -> Footage:
    """A textured scene in which three squares move."""
    height, width = (n - m for n, m in zip(net.frame_size, net.margin, strict=True))
    generator = np.random.default_rng(seed)
    cells = generator.integers(0, 220, (-(-height // 16), -(-width // 16), 3))
    scene = cells.repeat(16, 0).repeat(16, 1)[:height, :width].astype(np.uint8)
    pictures = []
    for index in range(count):
        picture = scene.copy()
        for k in range(3):
            top = (17 * k + 2 * index) % (height - 24)
            left = (41 * k + (3 + k) * index) % (width - 24)
            picture[top : top + 24, left : left + 24] = 40 * k + 120
        pictures.append(picture)
    return Footage(f"made {seed}", 30.0, pictures, net, net.task())


class Soak:
    def __init__(self, net: Net, clips: list[Footage], arguments: argparse.Namespace) -> None:
        self.net, self.clips, self.arguments = net, clips, arguments
        self.policy = parse_policy(arguments.policy) if arguments.policy else VIDEO
        self.memory: list[tuple[float, float, float]] = []
        self.compared: list[tuple[float, Any]] = []
        self.answers: dict[str, int] = {"edge": 0, "cloud": 0, "fallback": 0}
        self.reconnects = 0
        self.until = 0.0

    async def run(self, program: Path) -> None:
        pool = ProcessPool(python_command("fluxcompile.serve_worker", str(program), "1"))
        server = Server(self.net.digest, [pool], token="soak", check=checker(self.net))
        listener, port = await listen(server.talk)
        self.until = time.monotonic() + 60 * self.arguments.minutes
        cameras = [asyncio.ensure_future(self.camera(index, port)) for index in range(self.arguments.cameras)]
        try:
            while time.monotonic() < self.until and not any(camera.done() for camera in cameras):
                await asyncio.sleep(LOOKED_EVERY_S)
                if pool.pid is not None:
                    self.memory.append((time.monotonic(), memory_mb(pool.pid), memory_mb("self")))
        finally:
            await asyncio.gather(*cameras)
            listener.close()
            await server.drain()

    async def camera(self, index: int, port: int) -> None:
        clip, dice, machine = self.clips[index % len(self.clips)], random.Random(index), ThisMachine()
        edge = edge_of(self.net, machine, Uplink(tcp("127.0.0.1", port), "soak", str(index)), policy=self.policy)
        assert edge.proxy is not None
        link, count = edge.proxy.link, 0
        try:
            while time.monotonic() < self.until:
                number = count % len(clip.pictures)
                edge.places = ("cloud",) if count // 50 % 2 == 0 else ("edge", "cloud")
                breaking = dice.random() < 1 / (self.arguments.break_every * self.arguments.fps)
                if breaking and link._channel is not None:
                    await link._channel.close()
                began = time.monotonic()
                answer = await edge(clip.pictures[number])
                self.answers["fallback" if answer.fallback else answer.place] += 1
                if count % COMPARED_EVERY == 0:
                    truth = await asyncio.to_thread(clip.truth, number)
                    self.compared.append((began, clip.task.compare(answer.result, truth)))
                count += 1
                await asyncio.sleep(max(0.0, began + 1 / self.arguments.fps - time.monotonic()))
        finally:
            self.reconnects += link.reconnects
            await edge.close()
            machine.close()

    def told(self) -> Json:
        task = self.clips[0].task
        quarter = len(self.compared) // 4
        first, last = (
            task.figures([tally for _, tally in part])[task.figure]
            for part in (self.compared[quarter : 2 * quarter], self.compared[-quarter:])
        )
        quiet = self.memory[len(self.memory) // 2 :]
        third = max(1, len(quiet) // 3)
        growth_mb, flat = dict[str, float](), True
        for at, name in ((1, "server"), (2, "cameras")):
            before, after = (float(np.mean([row[at] for row in part])) for part in (quiet[:third], quiet[-third:]))
            growth_mb[name] = after - before
            flat &= after <= (1 + GROWTH) * before + CODEC_MB * self.arguments.cameras
        steady = first is None or last >= first - DRIFT
        return {
            "minutes": self.arguments.minutes, "cameras": self.arguments.cameras, "answers": self.answers,
            "reconnects": self.reconnects, "memory_mb": {"server": quiet[-1][1], "cameras": quiet[-1][2]},
            "memory_growth_mb": growth_mb, "figure": task.figure, "second_quarter": first, "last_quarter": last,
            "passed": flat and steady,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--fps", type=float, default=5)
    parser.add_argument("--break-every", type=float, default=20, help="seconds between a camera's broken connections")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--clip", type=Path, nargs="*", default=[])
    parser.add_argument("--policy", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = arguments.model or Path(folder) / "net.flux"
        if arguments.model is None:
            from fluxcompile.sources import net_of

            net_of("zoo:unet-mini", [(1, 3, 128, 160)], "unit").save(program)
        net = load(program)
        clips = [footage(p, net, net.task(), 120, margin=net.margin, crop=False) for p in arguments.clip]
        soak = Soak(net, clips or [made_footage(net, 60, seed) for seed in range(3)], arguments)
        asyncio.run(soak.run(program))
    told = soak.told()
    print(json.dumps(told, indent=2))
    sys.exit(0 if told["passed"] else 1)


if __name__ == "__main__":
    main()
