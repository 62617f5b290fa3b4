"""A net that costs nothing: what the command and the player ask of a compiled net, and no more.

Its output is the frame's mean over 16x16 blocks; a stream recomputes the blocks that changed by more than the
threshold.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fluxcompile.options import Policy

SIDE = 16
LAYERS = [
    {"name": "stem", "op": "aten.conv2d", "domain": "map /16", "form": "blocked", "macs": 900, "reason": ""},
    {"name": "head", "op": "aten.linear", "domain": "global", "form": "dense", "macs": 100, "reason": "has no place"},
]


class FakeStats:
    frame = -1
    work_share = 1.0
    dense = True
    miss = np.ones((0, 0), bool)
    layers: dict[str, float] = {}  # noqa: RUF012
    causes = vectors = None
    offset = shift = roll = (0, 0)


class FakeStream:
    def __init__(self, net: "FakeNet", policy: Policy) -> None:
        self.net, self.policy = net, policy
        self.stats = FakeStats()
        self.seen: np.ndarray | None = None
        self.cache: np.ndarray | None = None

    def reset(self) -> None:
        self.seen = self.cache = None
        self.stats.frame = -1

    def __call__(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        fresh = self.net.dense(frame)["mean"]
        if self.seen is None or self.cache is None:
            miss = np.ones(fresh.shape, bool)
            self.seen, self.cache = frame.astype(int), fresh.copy()
        else:
            change = np.abs(frame.astype(int) - self.seen).max(axis=2)
            miss = change.reshape(fresh.shape[0], SIDE, fresh.shape[1], SIDE).max(axis=(1, 3)) > self.policy.threshold
            self.cache = np.where(miss, fresh, self.cache)
            self.seen = np.where(np.kron(miss, np.ones((SIDE, SIDE), bool))[..., None], frame, self.seen)
        self.stats.frame += 1
        self.stats.dense = self.stats.frame == 0
        self.stats.work_share = float(miss.mean())
        self.stats.miss = np.kron(miss, np.ones((SIDE, SIDE), bool))
        self.stats.layers = {"stem": float(miss.mean())}
        return {"mean": self.cache}


class FakeExplanation:
    def __str__(self) -> str:
        return "stem  map /16  blocked"

    def to_json(self) -> dict[str, Any]:
        return {"total_macs": 1000, "blocked_mac_share": 0.9, "layers": LAYERS}


class FakeNet:
    def __init__(self, height: int = 64, width: int = 96) -> None:
        self.input_shapes: list[tuple[int, ...]] = [(height, width, 3)]

    def dense(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        height, width, _ = frame.shape
        return {"mean": frame.reshape(height // SIDE, SIDE, width // SIDE, SIDE, 3).mean(axis=(1, 3, 4))}

    margin = (32, 32)

    def stream(self, policy: Policy, *, task: Any = None) -> FakeStream:
        return FakeStream(self, policy)

    def explain(self) -> FakeExplanation:
        return FakeExplanation()

    def save(self, path: Path) -> None:
        Path(path).write_bytes(b"program")
