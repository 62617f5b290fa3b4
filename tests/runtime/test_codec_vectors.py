"""Clips made here whose content moves by a known amount; what their decoder says must be that."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from fluxcompile.errors import InputError
from fluxcompile.runtime.codec_vectors import CodecVectors, compose, frames_with_vectors
from fluxcompile.runtime.fit import Placement, resize
from fluxcompile.runtime.motion import Reference, align
from fluxcompile.runtime.video import VideoError

HEIGHT, WIDTH, STEP = 192, 256, (2, 4)
SIMPLE = {"preset": "veryfast", "tune": "zerolatency", "crf": "18"}


def world() -> np.ndarray[Any, np.dtype[np.uint8]]:
    rng = np.random.default_rng(0)
    return resize(rng.integers(0, 256, (60, 80, 3), np.uint8), 480, 640)


def write(path: Path, codec: str, options: dict[str, str], count: int = 8) -> Path:
    """A camera that pans by STEP: pixel p of a frame holds what p + STEP held in the frame before."""
    picture = world()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = WIDTH, HEIGHT, "yuv420p", options
        for i in range(count):
            y, x = STEP[0] * i, STEP[1] * i
            frame = np.ascontiguousarray(picture[y : y + HEIGHT, x : x + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def share(field: Any, vector: tuple[int, int]) -> float:
    return float((field == np.array(vector).reshape(2, 1, 1)).all(0).mean())


@pytest.mark.parametrize(("codec", "options"), [("libx264", SIMPLE), ("mpeg4", {})])
def test_a_pan_is_told(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    found = list(frames_with_vectors(write(tmp_path / "clip.mkv", codec, options)))
    assert len(found) == 8
    assert found[0][1] is None  # predicted from nothing
    for image, vectors in found[1:]:
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert vectors is not None
        field = vectors.field()
        assert field.dtype == np.int32
        assert field.shape == (2, 12, 16)
        assert share(field, STEP) > 0.8
        assert share(-field, STEP) == share(field[::-1], STEP) == 0  # the controls: sign and order


def test_frames_predicted_from_both_sides_are_brought_to_one_step(tmp_path: Path) -> None:
    options = {"preset": "medium", "bf": "3", "b-adapt": "0", "x264-params": "b-pyramid=none:ref=1:scenecut=0"}
    found = list(frames_with_vectors(write(tmp_path / "clip.mkv", "libx264", options, 13)))
    told = [share(v.field(), STEP) for _, v in found if v is not None]
    assert len(told) == 12
    assert np.median(told) > 0.6


def test_a_fitted_frame_has_its_vectors_where_it_lies(tmp_path: Path) -> None:
    _, vectors = list(islice(frames_with_vectors(write(tmp_path / "clip.mkv", "libx264", SIMPLE)), 3))[2]
    assert vectors is not None
    placement = Placement(32, 0, 96, 128, HEIGHT, WIDTH)
    field = vectors.field(placement, (160, 128))
    assert field.shape == (2, 10, 8)
    assert share(field[:, 2:8], (1, 2)) > 0.8
    assert not field[:, :2].any()
    assert not field[:, 8:].any()


def test_a_turned_clip_has_turned_vectors(tmp_path: Path) -> None:
    """The field moves the turned reference as it should, by the aligner's own comparison."""
    path = write(tmp_path / "clip.mp4", "libx264", SIMPLE)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # the display matrix, as tests/runtime/test_video.py writes it
    one, minus = ((sign << 16).to_bytes(4, "big", signed=True) for sign in (1, -1))
    content[at : at + 36] = bytes(4) + one + bytes(4) + minus + bytes(16) + (1 << 30).to_bytes(4, "big")
    path.write_bytes(content)
    (before, _), (now, vectors) = list(islice(frames_with_vectors(path), 3))[1:]
    assert now.shape == (WIDTH, HEIGHT, 3)
    assert vectors is not None
    assert (vectors.height, vectors.width) == (WIDTH, HEIGHT)
    field = vectors.field()
    assert share(field, (STEP[1], -STEP[0])) > 0.8
    found = align(now, Reference(before), hint=field, refine=False)
    assert found.shift == (STEP[1], -STEP[0])
    assert found.matched.blocks > 0.8


def test_vectors_alone_align_a_clip(tmp_path: Path) -> None:
    reference = None
    for image, vectors in frames_with_vectors(write(tmp_path / "clip.mkv", "libx264", SIMPLE)):
        if reference is None:
            reference = Reference(image)
            continue
        assert vectors is not None
        assert align(image, reference, hint=vectors.field(), refine=False).shift == STEP
        assert align(image, reference, hint=-vectors.field(), refine=False).shift == (0, 0)
        reference.update(image)


def test_composed_vectors_lead_to_an_old_reference(tmp_path: Path) -> None:
    images, fields = [], []
    for image, vectors in frames_with_vectors(write(tmp_path / "clip.mkv", "libx264", SIMPLE)):
        images.append(image)
        fields.append(None if vectors is None else vectors.field())
    total = fields[1]
    for field in fields[2:6]:
        total = compose(field, total)
    assert share(total, (5 * STEP[0], 5 * STEP[1])) > 0.7
    found = align(images[5], Reference(images[0]), hint=total, refine=False)
    assert found.shift == (5 * STEP[0], 5 * STEP[1])


def test_composing_reads_where_the_block_was() -> None:
    now, then = np.zeros((2, 1, 4), np.int32), np.zeros((2, 1, 4), np.int32)
    now[1, 0, 2], then[1, 0, 0], then[0, 0, 0] = -30, 5, 1  # block 2 was block 0
    assert compose(now, then)[:, 0].tolist() == [[1, 0, 1, 0], [5, 0, -25, 0]]
    now[1, 0, 2] = 900  # far outside: the last block
    assert compose(now, then)[1, 0].tolist() == [5, 0, 900, 0]
    for bad in (now[:, :, :3], now.astype(np.float32), now[0]):
        with pytest.raises(InputError, match="both must be integers"):
            compose(bad, then)


def test_no_vector_is_zero() -> None:
    cells = np.full((2, 12, 12), np.nan, np.float32)
    cells[:, :4, :4] = [[[3]], [[-7]]]
    cells[:, 4, 4] = 9  # one of 16: what is known counts
    field = CodecVectors(cells, 48, 48).field()
    assert field[:, 0, 0].tolist() == [3, -7]
    assert field[:, 1, 1].tolist() == [9, 9]
    field[:, 0, 0] = field[:, 1, 1] = 0
    assert not field.any()


@pytest.mark.parametrize(("codec", "name"), [("libx265", "hevc"), ("libvpx-vp9", "vp9")])
def test_a_clip_without_vectors_says_so(tmp_path: Path, codec: str, name: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    path = write(tmp_path / "clip.mkv", codec, {"x265-params": "log-level=none"} if name == "hevc" else {}, 2)
    with pytest.raises(VideoError, match=f"clip.mkv: no motion vectors, the decoder of {name}"):
        next(frames_with_vectors(path))


@pytest.mark.parametrize(("name", "least"), [("pan_bear", 0.5), ("driving_highway", 0.85)])
def test_real_clip(shared: Callable[[str], Path], name: str, least: float) -> None:
    """Frames predicted from both sides, scaled down: still most of what a search finds."""
    reference, found = None, []
    for image, vectors in islice(frames_with_vectors(shared(f"data/clips/{name}.mp4")), 20):
        h, w = image.shape[:2]
        height = round(h * 640 / w / 2) * 2
        frame = resize(image, height, 640)
        if reference is not None:
            hint = None if vectors is None else vectors.field(Placement(0, 0, height, 640, h, w))
            found.append(align(frame, reference, hint=hint, refine=False).matched.blocks)
        reference = Reference(frame)
    assert np.mean(found) > least
