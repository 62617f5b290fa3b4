"""`fluxcompile run`: a clip played through a model under one policy or several."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxcompile import options
from fluxcompile.cli.playback import play_with_bar, tell
from fluxcompile.cli.shared import (
    MODEL_HELP,
    POLICY_HELP,
    ExampleOption,
    JsonOption,
    PixelsOption,
    TaskOption,
    WithoutOption,
    frame_size,
    opened_net,
)
from fluxcompile.errors import OptionError

if TYPE_CHECKING:
    from fluxcompile.play import Setting
    from fluxcompile.runtime.fit import Image, Placement


def run(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="A video file, rtsp:// address or camera index.")],
    model: Annotated[str, typer.Option("-m", "--model", metavar="MODEL", help=MODEL_HELP, show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Annotated mp4 to write.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML page about the run to write.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    start: Annotated[int, typer.Option(min=0, help="Skip so many frames first.")] = 0,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY",
            help=f"{POLICY_HELP} exact when not given. May be repeated.",
        ),
    ] = None,
    task: TaskOption = None,
    compare: Annotated[bool, typer.Option(help="Also run dense inference, and tell how well they agree.")] = True,
    example: ExampleOption = None,
    without: WithoutOption = None,
    pixels: PixelsOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Play CLIP through MODEL; tell how much was recomputed and how far the outputs are from dense inference.

    Several policies are played side by side.
    """
    from fluxcompile.pages import run_of
    from fluxcompile.runtime.report import write
    from fluxcompile.runtime.video import Writer, probe
    from fluxcompile.sources import named_task

    about = probe(clip)
    net = opened_net(model, example, without, pixels)
    height, width = frame_size(net, model)
    settings = _settings(policy or ["exact"])
    margin = net.margin if any(setting.policy.anchor for setting in settings) else (0, 0)
    meaning = named_task(task)
    total = about.num_frames and min(about.num_frames - start, frames or about.num_frames)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(output, about.fps) if output else None
    try:
        fitted = _fitted(clip, (height, width), margin, start, frames)
        asked = {"compare": compare, "task": meaning, "time_layers": report is not None}
        playback = play_with_bar(net, fitted, settings, total or frames, writer=writer, **asked)
    finally:
        if writer is not None:
            writer.close()
    if not playback.num_frames and not playback.interrupted:
        raise OptionError(f"{clip}: no frame to play; it has {about.num_frames}, --start is {start}")
    made = run_of(
        net,
        playback,
        title=f"{Path(model).name} on {Path(clip).name}",
        model=model,
        clip=Path(clip).name,
        size=(height, width),
        video=output,
    )
    if report is not None and playback.num_frames:
        write(made, report)
    written = [path for path in (output, report) if path is not None and path.exists()]
    tell(made, written, as_json)
    if playback.interrupted:
        raise typer.Exit(130)


def _settings(policies: list[str]) -> "list[Setting]":
    """A setting for each policy, named by the word it begins from."""
    from fluxcompile.play import Setting

    found = []
    for text in policies:
        policy, first = options.parse_policy(text), text.split(",")[0].strip()
        found.append(Setting(first if "=" not in first else "approximate", policy))
    return found


def _fitted(
    clip: str, size: tuple[int, int], margin: tuple[int, int], start: int, count: int | None
) -> "Iterator[tuple[Image, Placement]]":
    from fluxcompile.runtime.fit import fit
    from fluxcompile.runtime.video import frames

    for image in frames(clip, start=start, count=count):
        yield fit(image, *size, margin=margin)
