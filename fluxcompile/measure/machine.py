"""The machine that something is measured on: what it is, its best, torch's threads; and what every result tells."""

import contextlib
import importlib
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SPINNING_S = 0.01
"""Threads of OpenMP go on spinning for so long when their work is done."""


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Torch on so many threads, and back to what it was."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Peak:
    """The most multiply-adds a core does, in GFLOP/s; None while the kernels are not built."""

    def __init__(self) -> None:
        self.gflops: float | None = None
        try:
            self._kernels: Any = importlib.import_module("fluxcompile.kernels._cpu")
        except ImportError:
            self._kernels = None

    def measure(self) -> None:
        """A hundredth of a second; the best of all counts."""
        if self._kernels:
            self.gflops = max(self.gflops or 0.0, self._kernels.peak_gflops(self._kernels.variants()[0], 0.01))


def _gpu() -> str | None:
    """The GPU that torch has chosen, if any; torch is not loaded for it."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_available() else None


def machine() -> dict[str, Any]:
    """The processor, the cores this process may use, the variant of our kernels that runs on it, and the GPU."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    try:
        variant = importlib.import_module("fluxcompile.kernels.cpu").best_variant()
    except ImportError:
        variant = None
    return {
        "cpu": found.group(1) if found else platform.processor() or platform.machine(),
        "cores": cores,
        "kernels": variant,
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


@dataclass(kw_only=True)
class Measured:
    """What was measured: of which model, on what, and whether it was stopped early."""

    model: str
    machine: dict[str, Any] = field(default_factory=machine)
    threads: int
    backend: str
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
