"""The CPU extension, built once if it is missing and a compiler is here; else every test here is skipped."""

import fcntl
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def pytest_configure() -> None:
    """Build before collection; the lock keeps two workers from building at once."""
    if not all(map(shutil.which, ("cmake", "c++"))) or importlib.util.find_spec("nanobind") is None:
        return
    (REPO / "build").mkdir(exist_ok=True)
    with open(REPO / "build" / "kernels.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if importlib.util.find_spec("fluxcompile.kernels._cpu") is None:
            command = [sys.executable, "-m", "fluxcompile.kernels.build"]
            done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
            if done.returncode:
                raise pytest.UsageError(f"the CPU extension does not build:\n{done.stdout}\n{done.stderr}")
    importlib.invalidate_caches()
