"""`fluxcompile demo`: a real face detector on a real clip."""

from pathlib import Path
from typing import Annotated

import typer

from fluxcompile.cli.playback import play_with_bar, tell
from fluxcompile.cli.shared import (
    JsonOption,
    console,
)


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("out/demo"),
    frames: Annotated[int, typer.Option(min=1, help="Stop after so many frames; the clip has 120.")] = 60,
    as_json: JsonOption = False,
) -> None:
    """Find faces in a real clip with real weights: dense, exact and approximate side by side."""
    from fluxcompile import demo as _demo

    console.print("[dim]CenterFace on the clip carphone: fetching, compiling, playing[/dim]", highlight=False)
    made, written = _demo.play_demo(output, frames, play_with_bar)
    tell(made, written, as_json)
    if made.interrupted:
        raise typer.Exit(130)
