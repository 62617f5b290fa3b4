"""A net whose streams take `miss`, as a backend for speed does, and cost nothing: what `bench` and `ablate` ask for."""

from typing import Any

import numpy as np
import torch
from torch import nn

from fluxcompile import fluxcompile
from fluxcompile.options import Policy

SIZE = (64, 96)


class FakeStats:
    work_share = 1.0


class FakeStream:
    """Gives the dense outputs and counts what it was told is new; a first frame is dense whatever it is told."""

    cache_bytes = 4096

    def __init__(self, net: "FakeNet") -> None:
        self.net, self.stats, self.fresh = net, FakeStats(), True

    def reset(self) -> None:
        self.fresh = True

    def __call__(self, *frames: Any, miss: np.ndarray) -> Any:
        assert miss.shape == SIZE
        self.stats.work_share = 1.0 if self.fresh else float(miss.mean())
        self.net.seen.append(self.stats.work_share)
        self.fresh = False
        return self.net.inner.dense(*frames)


class FakeNet:
    def __init__(self, without: Any = ()) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()).eval()
        self.inner = fluxcompile(self.module, torch.zeros(1, 3, *SIZE), without=without)
        self.program = self.inner.program
        self.seen: list[float] = []

    def stream(self, policy: Policy, backend: str = "reference", threads: int = 1) -> FakeStream:
        assert (backend, threads) == ("cpu", 1)
        return FakeStream(self)

    def dense(self, *frames: Any) -> Any:
        return self.inner.dense(*frames)

    def explain(self) -> Any:
        return self.inner.explain()
