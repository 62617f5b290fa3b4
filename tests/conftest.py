"""What every test may use: one torch thread a worker, and the clips and models shared beside the checkout."""

import os

# Before torch is first imported: two workers on two cores must not start four threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("FLUX_SHARED", REPO.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Return a function from a path below the shared folder to the file; the test skips where it is not there.

    In a parametrised test: `path = shared(f"data/clips/{name}.mp4")`.
    """

    def find(path: str) -> Path:
        found = SHARED / path
        if not found.exists():
            pytest.skip(f"shared file {path} is not here (FLUX_SHARED names the folder that holds it)")
        return found

    return find


@pytest.fixture(scope="session")
def repo() -> Path:
    """Return the root of the checkout."""
    return REPO
