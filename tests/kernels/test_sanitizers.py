"""The controls of `make sanitize` and `make tsan`: what is wrong on purpose must end the process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.compare import VARIANTS, cpu

PRELOADED = os.environ.get("LD_PRELOAD", "")
address = pytest.mark.skipif("asan" not in PRELOADED, reason="for `make sanitize`")
thread = pytest.mark.skipif("tsan" not in PRELOADED, reason="for `make tsan`")


def without_notice(said: str) -> str:
    """What a process says, less what AddressSanitizer says of any fiber; the shim tells it of each switch."""
    return "".join(line for line in said.splitlines(keepends=True) if "support makecontext/swapcontext" not in line)


def run(call: str, module: str = "_cpu", before: str = "pass") -> tuple[int, str]:
    """Return how a process of the same extension ends and what it says."""
    code = f"from fluxcompile.kernels import {module}; {before}; {module}.{call}"
    where = Path(cpu.__file__).parents[2]  # first on the path of `python -c`
    done = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True)
    return done.returncode, without_notice(done.stderr)


@address
@pytest.mark.parametrize("variant", VARIANTS)
def test_reading_beyond_a_map_is_seen(variant: str) -> None:
    assert run(f"broken_read_beyond({variant!r}, missing=0)") == (0, "")
    status, said = run(f"broken_read_beyond({variant!r}, missing=1)")
    assert status != 0
    assert "heap-buffer-overflow" in said
    assert "cached_softmax" in said


@address
def test_undefined_behavior_is_seen() -> None:
    assert run("broken_overflow(1)") == (0, "")
    status, said = run(f"broken_overflow({2**31 - 1})")
    assert status != 0
    assert "signed integer overflow" in said


@thread
def test_a_race_is_seen() -> None:
    status, said = run("broken_race()")
    assert status != 0
    assert "data race" in said
