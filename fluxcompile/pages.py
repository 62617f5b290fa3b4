"""What a page shows of a playback."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from fluxcompile.play import Net, Playback, Track
from fluxcompile.runtime import report
from fluxcompile.runtime.overlay import CAUSES
from fluxcompile.tasks.boxes import CLEAR, SEEN

_BOXES = f"A box scored {CLEAR:g} or more on one side must be there at {SEEN:g} on the other, on the same frame."
FIGURES = {
    "f1_50": ("F1 of boxes at IoU 0.5", _BOXES),
    "f1_75": ("F1 of boxes at IoU 0.75", _BOXES),
    "miou": ("mean IoU", "Mean IoU is over the classes of pixels that either side has on the same frame."),
    "likeness": (
        "likeness",
        "Likeness is 1 minus the relative error of the worst output against dense inference on the same frame.",
    ),
}
"""How a page names a task's figure, and explains it."""


def settings_of(playback: Playback) -> list[report.Setting]:
    """Return the rows of the report's first table."""
    return [
        report.Setting(
            name=track.name,
            knobs=track.knobs,
            work_share=track.work_share,
            agreement=track.agreement(playback.task),
            max_error=track.max_error if track.tallies else None,
            ms_per_frame=mean(track.ms) if track.ms else None,
            dense_frames=len(track.marks["dense"]),
        )
        for track in playback.tracks
    ]


def timeline_of(track: Track) -> report.Timeline:
    """Return what the page's timeline shows of a setting."""
    return report.Timeline(
        causes={cause: [shares[number] for shares in track.causes] for number, cause in enumerate(CAUSES)},
        ms=track.ms,
        dense_ms=min((track.ms[frame] for frame in track.marks["dense"]), default=None),
        agreement=track.agreements,
        marks=track.marks,
    )


def layers_of(explained: Mapping[str, Any], track: Track, num_frames: int) -> list[report.Layer]:
    """Return the report's layer table: what `explain()` says, and what each layer did under one setting."""
    return [
        report.Layer(
            name=layer["name"],
            op=layer["op"],
            domain=layer["domain"],
            form=layer["form"],
            macs=layer["macs"],
            reason=layer.get("reason") or "",
            share=track.layers[layer["name"]] / num_frames if num_frames and layer["name"] in track.layers else None,
        )
        for layer in explained["layers"]
    ]


def run_of(
    net: Net,
    playback: Playback,
    *,
    title: str,
    model: str,
    clip: str,
    size: tuple[int, int],
    video: Path | None = None,
) -> report.Run:
    """Return what a report shows of a playback; timeline and layers are those of the last setting."""
    explained = net.explain().to_json()
    last = playback.tracks[-1]
    figure = playback.task.figure if playback.task else "agreement"
    name, note = FIGURES.get(figure, (figure, ""))
    small = video is not None and video.exists() and video.stat().st_size <= report.EMBEDDED_VIDEO_BYTES
    return report.Run(
        title=title,
        model=model,
        clip=clip,
        size=size,
        settings=settings_of(playback),
        layers=layers_of(explained, last, playback.num_frames),
        layers_setting=last.name,
        layer_ms=playback.layer_ms,
        timeline=timeline_of(last) if last.causes else None,
        pictures=playback.pictures,
        video=video.read_bytes() if video is not None and small else b"",
        video_name=video.name if video is not None and video.exists() else "",
        total_macs=explained["total_macs"],
        blocked_mac_share=explained["blocked_mac_share"],
        agreement_name=name,
        agreement_note=note,
        notes=playback.notes,
        interrupted=playback.interrupted,
    )
