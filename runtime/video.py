"""Read a clip, camera or network stream as RGB frames, write H.264.

A frame is a uint8 array [height, width, 3], red first. Sizes are (height, width), as everywhere. PyAV and
OpenCV come with the `video` extra and are imported when first needed.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fluxcompile.errors import FluxError
from fluxcompile.runtime.fit import Image, resize

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Source = str | os.PathLike[str] | int

OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 10.0


class VideoError(FluxError):
    """A clip cannot be opened, read or written."""


class TruncatedVideo(VideoError):
    """A clip ended early; the frames before the break were delivered."""


@dataclass(frozen=True)
class Clip:
    """What a source says about itself; `num_frames` is None for a camera or a network stream."""

    height: int
    width: int
    fps: float
    num_frames: int | None


def probe(source: Source) -> Clip:
    """Return size, rate and length of a source; its first frame is decoded, for the size after rotation."""
    camera = camera_index(source)
    if camera is not None:
        capture = _open_camera(camera)
        try:
            _, first = capture.read()
            return Clip(first.shape[0], first.shape[1], float(capture.get(5)) or 30.0, None)  # 5: CAP_PROP_FPS
        finally:
            capture.release()
    with _open(source) as container:
        stream = container.streams.video[0]
        image = next(_decoded(source, container, stream), None)
        if image is None:
            raise VideoError(f"{source}: no frame can be decoded; the file is empty or damaged")
        return Clip(image.shape[0], image.shape[1], float(stream.average_rate or 30), _num_frames(container, stream))


def frames(
    source: Source, size: tuple[int, int] | None = None, start: int = 0, count: int | None = None
) -> Iterator[Image]:
    """Yield the frames of a file, an rtsp:// or http:// address, or a camera given by its index.

    size: resize to (height, width), proportions not kept (`fit` keeps them).
    start, count: skip frames, stop after so many.

    A file that breaks off raises TruncatedVideo, after every frame that could be decoded.
    """
    if start < 0 or (count is not None and count < 0):
        raise VideoError(f"{source}: start and count must not be negative, got start={start}, count={count}")
    camera = camera_index(source)
    images = _camera_frames(camera) if camera is not None else _file_frames(source)
    stop = None if count is None else start + count
    if stop == start:
        return
    for index, image in enumerate(images):
        if index >= start:
            yield image if size is None else resize(image, *size)
        if index + 1 == stop:
            return


def camera_index(source: Source) -> int | None:
    """Return the index of the camera that a source means, 0 or "0", or None where it is a file or an address."""
    if isinstance(source, int):
        return source
    text = os.fspath(source)
    return int(text) if text.isdecimal() and not Path(text).exists() else None


class Writer:
    """An H.264 mp4 (yuv420p) that takes RGB frames of one size; odd sizes grow by a repeated row or column."""

    def __init__(self, path: str | os.PathLike[str], fps: float, crf: int = 20) -> None:
        import av

        self.path = Path(path)
        self.num_frames = 0
        self._shape: tuple[int, ...] | None = None
        self._rate = Fraction(fps).limit_denominator(1001)
        self._crf = crf
        if fps <= 0:
            raise VideoError(f"{path}: frames per second must be positive, got {fps}")
        try:
            self.path.open("wb").close()  # FFmpeg itself would complain only after the first frames
            self._container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        except OSError as error:
            raise VideoError(f"{path}: cannot be written: {error.strerror or error}") from None

    def write(self, frame: Image) -> None:
        import av

        height, width = frame.shape[:2]
        if self._shape is None:
            self._shape = frame.shape
            self._stream: VideoStream = self._container.add_stream("libx264", rate=self._rate)
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": str(self._crf), "preset": "veryfast"}
        if frame.shape != self._shape:
            raise VideoError(f"{self.path}: frame {self.num_frames} is {frame.shape}, the first was {self._shape}")
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._container.mux(self._stream.encode(picture))
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file; one without a frame is removed."""
        if self._shape is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
        if self._shape is None:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(source: Source) -> "InputContainer":
    import av

    name = os.fspath(source) if not isinstance(source, int) else str(source)
    remote = "://" in name
    if not remote and not Path(name).is_file():
        raise VideoError(f"{name}: no such file" if not Path(name).exists() else f"{name}: not a file")
    try:
        options = {"rtsp_transport": "tcp"} if name.startswith("rtsp") else {}
        container = av.open(name, options=options, timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S) if remote else None)
    except (av.FFmpegError, OSError) as error:
        advice = "is the address right, the server up?" if remote else "it is no video, or its end is missing"
        raise VideoError(f"{name}: cannot be opened: {error.strerror or error}; {advice}") from None
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        container.close()
        raise VideoError(f"{name}: has no video stream, only {kinds}")
    return container


def _num_frames(container: "InputContainer", stream: "VideoStream") -> int | None:
    if stream.frames:
        return int(stream.frames)
    if container.duration and stream.average_rate:  # Matroska and WebM count no frames
        return round(container.duration / 1e6 * float(stream.average_rate))
    return None


def _decoded(source: Source, container: "InputContainer", stream: "VideoStream") -> Iterator[Image]:
    return (upright(frame) for frame in _pictures(source, container, stream))


def _pictures(source: Source, container: "InputContainer", stream: "VideoStream") -> Iterator["VideoFrame"]:
    import av

    stream.thread_type = "AUTO"
    done, broken = 0, None
    try:
        for packet in container.demux(stream):
            for frame in packet.decode():
                yield frame
                done += 1
    except av.FFmpegError as error:
        broken = error
    if broken is None:
        return
    with contextlib.suppress(av.FFmpegError):  # what the decoder's threads still hold is good
        for frame in stream.codec_context.decode(None):
            yield frame
            done += 1
    raise TruncatedVideo(f"{source}: broken after frame {done}: {broken.strerror or broken}")


def quarter_turns(frame: "VideoFrame") -> int:
    """How often a picture must be turned to stand upright, as a phone was held; FFmpeg counts counter-clockwise."""
    return round(frame.rotation / 90) % 4


def upright(frame: "VideoFrame") -> Image:
    """The picture as it is shown."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    turns = quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _file_frames(source: Source) -> Iterator[Image]:
    return (upright(frame) for frame in pictures(source))


def pictures(
    source: Source, options: Callable[["VideoStream"], dict[str, str]] | None = None
) -> Iterator["VideoFrame"]:
    """The decoder's own frames of a file or an address; `options` gives those of the decoder, or refuses the stream."""
    with _open(source) as container:
        stream = container.streams.video[0]
        if options is not None:
            stream.codec_context.options = options(stream)
        done = 0
        for picture in _pictures(source, container, stream):
            yield picture
            done += 1
        promised = int(stream.frames)
        if done == 0:
            raise VideoError(f"{source}: no frame can be decoded; the file is empty or damaged")
        if done < promised - max(2, promised // 50):  # a few may lie before an edit list's start
            raise TruncatedVideo(f"{source}: ends after frame {done} of {promised}; the file is cut off")


def _open_camera(index: int) -> Any:
    import cv2

    capture = cv2.VideoCapture(index)
    if not capture.isOpened():
        capture.release()
        raise VideoError(f"camera {index}: cannot be opened; is it plugged in, and free?")
    return capture


def _camera_frames(index: int) -> Iterator[Image]:
    capture = _open_camera(index)
    try:
        while True:
            good, image = capture.read()
            if not good:
                raise TruncatedVideo(f"camera {index}: stopped delivering frames")
            yield np.ascontiguousarray(image[:, :, ::-1])
    finally:
        capture.release()
