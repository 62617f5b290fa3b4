"""`fluxcompile partition`: a model cut in two, for an edge device and a cloud."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fluxcompile.cli.shared import (
    ExampleOption,
    JsonOption,
    ModelArgument,
    PixelsOption,
    WithoutOption,
    end,
    opened_net,
    print_json,
    short,
    words,
)
from fluxcompile.errors import OptionError

PROFILE_HELP = "a .json of `fluxcompile profile`, or the paper's xavier-nx, rtx-3080 (/yolo11, /sdpose)."


def partition(
    model: ModelArgument,
    at: Annotated[
        str,
        typer.Option(metavar="WHERE", help="auto, edge, cloud, a cut's number, or layers as explain names them: A,B."),
    ] = "auto",
    edge: Annotated[str | None, typer.Option(metavar="PROFILE", help=f"Of the edge: {PROFILE_HELP}")] = None,
    cloud: Annotated[str | None, typer.Option(metavar="PROFILE", help="Of the cloud, likewise.")] = None,
    mbps: Annotated[float | None, typer.Option(help="Megabits a second between them.")] = None,
    rtt_ms: Annotated[
        float | None, typer.Option(help="Round trip between them in milliseconds; 0 when not given.")
    ] = None,
    active: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of a frame's blocks that is computed anew; 0.2 when not given."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of boundary maps: fp32, fp16 or int8; int8 when not given.")
    ] = None,
    frame_bytes: Annotated[
        float | None, typer.Option(help="Of a frame as its transport sends it; its active blocks raw when not given.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for edge.flux and cloud.flux.")] = None,
    example: ExampleOption = None,
    without: WithoutOption = None,
    pixels: PixelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cut MODEL in two, for an edge device and a cloud, and show what each cut costs."""
    from fluxcompile.runtime.profile import find_profile

    link = {"rtt_ms": rtt_ms, "active": active, "precision": precision, "frame_bytes": frame_bytes}
    known: dict[str, Any] = {k: v for k, v in link.items() if v is not None}
    known |= {k: find_profile(v, short(model)) for k, v in (("edge", edge), ("cloud", cloud)) if v is not None}
    net = opened_net(model, example, without, pixels)
    parts = net.partition(at=_place(at), mbps=mbps, **known)
    written = parts.save(output) if output is not None else []
    if as_json:
        boundary = [{"name": i.name, "shape": i.shape, "layout": i.layout} for i in parts.boundary]
        print_json(parts.explain().to_json() | {"boundary": boundary, "written": [str(path) for path in written]})
        return
    typer.echo(str(parts.explain()))
    end(written, False)


def _place(text: str) -> str | int | list[str]:
    """What `at` says on the command line."""
    if text.isdecimal():
        return int(text)
    names = words(text)
    if not names:
        raise OptionError("--at is empty; use auto, edge, cloud, a number or names of layers")
    return names if len(names) > 1 else names[0]
