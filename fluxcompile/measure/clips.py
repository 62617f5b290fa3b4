"""Streams over whole clips: their time beside the fastest dense peer's, their results beside those of dense inference.

`fluxcompile bench MODEL --clips` is this. A clip is decoded and fitted before anything is timed; what a stream does
with a frame, from bytes to outputs, is timed whole. The peer takes its turns between the frames of a stream, on the
same frames; making them its floats is not counted against it. Where frames move on the net's input (`anchor`), results
are held against dense inference at the same place, since moving a frame alters dense results by itself; beside it, as
`at_camera`, against dense inference of the frame where the camera has it, in the middle.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from fluxcompile.errors import OptionError
from fluxcompile.measure.clip_runs import Bench, Plan, Track
from fluxcompile.measure.machine import Measured, torch_threads
from fluxcompile.measure.peers.int8 import Calibration
from fluxcompile.options import Frames
from fluxcompile.runtime.video import VideoError

SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}


@dataclass(kw_only=True)
class Result(Measured):
    """One policy over all clips; `figure` names the one of the task's figures that stands for them."""

    frame: tuple[int, int]
    macs: int
    policy: dict[str, Any]
    task: str = ""
    figure: str = ""
    best_dense: str | None = None
    peers: list[dict[str, Any]] = field(default_factory=list)
    clips: list[dict[str, Any]] = field(default_factory=list)
    int8: list[dict[str, Any]] = field(default_factory=list)
    all: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def find_clips(text: str) -> list[Path]:
    """The clips of a folder, or those that are named, with commas between them."""
    found: list[Path] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        path = Path(word)
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside or not path.exists():
            raise OptionError(f"--clips {word}: {'holds no clip' if path.exists() else 'no such file or folder'}")
        found += inside
    if not found:
        raise OptionError("--clips names no clip; give a folder, or files with commas between them")
    return found


def measure(
    name: str,
    net: Any,
    source: Any,
    pixels: Frames | None,
    clips: Sequence[Path],
    plan: Plan,
    *,
    on_step: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Result]:
    """A result for each policy; Ctrl-C ends it early, with what was done.

    net: takes camera frames. source: what the peers get, a module, a path, or None for the net's own dense graph;
    pixels: how camera frames become its input.
    """
    (shape,) = net.input_shapes
    size = (int(shape[0]), int(shape[1]))
    about: dict[str, Any] = {"model": name, "threads": plan.threads, "backend": plan.backend, "frame": size}
    about["macs"] = net.explain().to_json()["total_macs"]
    results = [Result(**about, policy=policy.to_json()) for policy in plan.policies]
    bench = Bench(net, source, pixels, size, plan, on_step)
    totals = [Track() for _ in results]
    calibration = Calibration(clips, size, plan.frames) if plan.int8 else None
    with torch_threads(plan.threads):
        try:
            for clip in clips:
                tracks: list[Track] = []
                try:
                    for track in bench.clip(clip, calibration):
                        tracks.append(track)
                except VideoError as error:
                    if len(clips) == 1:
                        raise
                    bench.notes.append(str(error))
                finally:
                    for result, total, track in zip(results, totals, tracks, strict=False):
                        _fill(result, bench, clip.stem, total, track)
        except KeyboardInterrupt:
            for result in results:
                result.interrupted = True
    for result in results:
        result.notes, result.int8 = bench.notes, bench.int8_rows
        if bench.peer is not None:
            result.best_dense, result.peers = bench.peer.name, bench.peers
    return results


def _fill(result: Result, bench: Bench, clip: str, total: Track, track: Track) -> None:
    """A clip's row, the agreement of its first and last quarter, and the row of all clips so far."""
    task = bench.task
    if not track.ms or task is None:
        return
    total.add(track)
    result.task, result.figure = task.name, task.figure
    quarter = max(1, len(track.ms) // 4)
    quarters = {"first_quarter": track.tallies[:quarter], "last_quarter": track.tallies[-quarter:]}
    row = track.row(clip, task)
    row |= {name: task.figures(tallies)[task.figure] for name, tallies in quarters.items()}
    result.clips.append(row)
    result.all = total.row("all", task)
    del result.all["per_frame"]
    for name in quarters:
        known = [row[name] for row in result.clips if row[name] is not None]
        result.all[name] = mean(known) if known else None
