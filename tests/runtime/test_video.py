"""Clips are made here, frame by frame, so that every expected number is known."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from fluxcompile.runtime.fit import Placement, fit, resize
from fluxcompile.runtime.video import TruncatedVideo, VideoError, Writer, frames, probe


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return a grey frame whose level tells its index, with a white square that moves."""
    image = np.full((height, width, 3), 20 + 5 * index, np.uint8)
    image[8:24, 2 * index : 2 * index + 16] = 250
    return image


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with Writer(path, fps=25, crf=10) as writer:
        for index in range(20):
            writer.write(picture(index))
    return path


def test_what_was_written_is_read(clip: Path) -> None:
    read = list(frames(clip))
    assert len(read) == 20
    for index, image in enumerate(read):
        assert image.shape == (48, 64, 3)
        assert image.dtype == np.uint8
        assert abs(int(image[40, 40, 0]) - (20 + 5 * index)) <= 3


def test_probe(clip: Path) -> None:
    found = probe(clip)
    assert (found.height, found.width, found.fps, found.num_frames) == (48, 64, 25.0, 20)


@pytest.mark.parametrize(
    ("start", "count", "expected"),
    [(0, 3, [0, 1, 2]), (5, 2, [5, 6]), (18, None, [18, 19]), (30, None, []), (2, 0, [])],
)
def test_start_and_count(clip: Path, start: int, count: int | None, expected: list[int]) -> None:
    levels = [(int(image[40, 40, 0]) - 20) / 5 for image in frames(clip, start=start, count=count)]
    np.testing.assert_allclose(levels, expected, atol=0.6)


def test_size(clip: Path) -> None:
    assert next(frames(clip, size=(24, 40))).shape == (24, 40, 3)


def test_negative_start(clip: Path) -> None:
    with pytest.raises(VideoError, match="must not be negative"):
        next(frames(clip, start=-1))


def test_odd_size_grows_by_one(tmp_path: Path) -> None:
    with Writer(tmp_path / "odd.mp4", fps=30) as writer:
        writer.write(picture(0, 33, 51))
    assert next(frames(tmp_path / "odd.mp4")).shape == (34, 52, 3)


def test_frames_of_two_sizes(tmp_path: Path) -> None:
    with Writer(tmp_path / "two.mp4", fps=30) as writer:
        writer.write(picture(0))
        with pytest.raises(VideoError, match="frame 1 is"):
            writer.write(picture(0, 32, 32))


def test_writer_without_frames_leaves_no_file(tmp_path: Path) -> None:
    Writer(tmp_path / "none.mp4", fps=30).close()
    assert not (tmp_path / "none.mp4").exists()


def test_writer_into_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="cannot be written"):
        Writer(tmp_path / "missing" / "x.mp4", fps=30)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        next(frames(tmp_path / "nothing.mp4"))
    with pytest.raises(VideoError, match="not a file"):
        probe(tmp_path)


def test_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(VideoError, match="cannot be opened"):
        probe(tmp_path / "text.mp4")


def test_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(VideoError, match="has no video stream, only audio"):
        probe(path)


def test_truncated_file_gives_its_frames_first(clip: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    content = clip.read_bytes()
    cut.write_bytes(content[: len(content) * 9 // 10])
    seen = []
    with pytest.raises(TruncatedVideo, match=r"cut\.mp4"):
        seen.extend(frames(cut))  # extend keeps what came before the error
    assert 5 < len(seen) < 20
    assert len(list(frames(cut, count=5))) == 5


def test_missing_camera() -> None:
    with pytest.raises(VideoError, match="camera 99"):
        next(frames("99"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((90, 160), Placement(20, 0, 360, 640, 90, 160)),
        ((160, 90), Placement(0, 207, 400, 225, 160, 90)),
        ((400, 640), Placement(0, 0, 400, 640, 400, 640)),
        ((1, 1000), Placement(199, 0, 1, 640, 1, 1000)),
    ],
)
def test_fit_places_and_maps_back(source: tuple[int, int], expected: Placement) -> None:
    frame = np.full((*source, 3), 200, np.uint8)
    image, placement = fit(frame, 400, 640, fill=7)
    assert image.shape == (400, 640, 3)
    assert placement == expected
    assert (placement.crop(image) == 200).all()
    assert np.count_nonzero(image[..., 0] == 200) == placement.height * placement.width
    corners = [[placement.left, placement.top, placement.left + placement.width, placement.top + placement.height]]
    np.testing.assert_allclose(placement.boxes_to_source(np.array(corners)), [[0, 0, source[1], source[0]]], rtol=1e-5)


def test_boxes_are_clipped_to_the_source() -> None:
    _, placement = fit(np.zeros((90, 160, 3), np.uint8), 400, 640)
    np.testing.assert_array_equal(placement.boxes_to_source(np.array([[-50.0, 0, 900, 400]])), [[0, 0, 160, 90]])
    assert placement.boxes_to_source(np.zeros((0, 4))).shape == (0, 4)
    pose = np.array([[0, 20, 640, 380, 0.5, 3, 320, 200, 0.9, 0, 20, 0.1]])
    np.testing.assert_allclose(
        placement.boxes_to_source(pose), [[0, 0, 160, 90, 0.5, 3, 80, 45, 0.9, 0, 0, 0.1]], rtol=1e-6
    )


def test_resize_keeps_a_plain_image() -> None:
    assert (resize(np.full((10, 10, 3), 9, np.uint8), 3, 17) == 9).all()


def test_rotated_clip_stands_upright(clip: Path, tmp_path: Path) -> None:
    """A phone's display matrix, a quarter turn, is written into the header by hand."""
    content = bytearray(clip.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    one = (1 << 16).to_bytes(4, "big", signed=True)
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    zero, last = bytes(4), (1 << 30).to_bytes(4, "big")
    content[at : at + 36] = zero + one + zero + minus + zero + zero + zero + zero + last
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(content)
    image = next(frames(turned))
    assert image.shape == (64, 48, 3)
    assert (probe(turned).height, probe(turned).width) == (64, 48)
    upright = np.rot90(next(frames(clip)), -1)  # the matrix says: turn clockwise to show
    assert np.abs(image.astype(int) - upright).max() < 40


@pytest.mark.parametrize("name", ["static_lobby_people", "driving_highway"])
def test_real_clip(name: str, shared: Callable[[str], Path]) -> None:
    path = shared(f"data/clips/{name}.mp4")
    found = probe(path)
    images = list(frames(path, count=3))
    assert [image.shape for image in images] == [(found.height, found.width, 3)] * 3
