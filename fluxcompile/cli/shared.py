"""What the commands share: the application, options, models opened, tables and bars."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fluxcompile import options
from fluxcompile.errors import OptionError

app = typer.Typer(
    name="fluxcompile",
    help="Compile a vision model into a program for video that recomputes only what changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
console = Console(stderr=True)  # tables and progress; stdout is for --json and for text that is piped on
MODEL_HELP = "A .flux, .onnx, .pt2 or Ultralytics .pt file, zoo:NAME, or package.module:callable."
POLICY_HELP = "exact, careful, video or bold, or knobs, or both: video,residual=3."
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
ExampleOption = Annotated[
    str | None,
    typer.Option(metavar="SHAPE", help="Shape of the input, 1x3x640x640; several with commas. Files know theirs."),
]
WithoutOption = Annotated[str | None, typer.Option(metavar="A,B", help="Passes to leave out, by name.")]
AttentionOption = Annotated[
    str | None, typer.Option(help="How global attention is recomputed: exact (the default), incremental or active.")
]
PixelsOption = Annotated[
    str | None,
    typer.Option(metavar="HOW", help="How camera pixels become input: unit (0 to 1), imagenet, raw (0 to 255), auto."),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="TASK",
        help="What outputs mean: detect, instances, keypoints, heatmaps, segment, classify, depth, regress, or "
        "package.module:task of your own; guessed from their shapes.",
    ),
]
PatternOption = Annotated[str, typer.Option(metavar="A,B", help="Where it is new: blobs, scattered or both.")]
BackendOption = Annotated[str, typer.Option(help="What runs our program: cpu, reference, or cuda.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="How often each is timed; all take turns in each round.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Another number draws other frames, masks and orders.")]


def progress_bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def short(model: str) -> str:
    """What a model is called in tables."""
    return model.removeprefix("zoo:") if ":" in model else Path(model).stem


def words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def opened_net(model: str, example: str | None, without: str | None, pixels: str | None, **options: Any) -> Any:
    """Return the net that MODEL stands for; options that were not given are not passed on."""
    from fluxcompile import sources

    if pixels is not None and pixels not in (*sources.PIXELS, "auto"):
        raise OptionError(f"--pixels is {pixels!r}; use one of {', '.join(sources.PIXELS)}, auto")
    with console.status(f"compiling {model}"):
        given = {name: value for name, value in {"without": words(without), **options}.items() if value}
        return sources.net_of(model, shapes_of(example), pixels, **given)


def opened_for_frames(
    model: str, pixels: str | None, example: str | None, without: str | None
) -> tuple[Any, Any, options.Frames | None]:
    """Return a net that takes camera frames, what its peers get, and how pixels become the model's input."""
    from fluxcompile import sources

    if model.endswith(".flux"):
        return opened_net(model, example, without, None), None, None
    if pixels not in (*sources.PIXELS, "auto"):
        raise OptionError(f"--pixels is {pixels!r}; use one of {', '.join(sources.PIXELS)}, auto")
    with console.status(f"compiling {model}"):
        found = sources.find(model)
        name = found.pixels if pixels == "auto" else pixels
        net = sources.compile_model(model, found, shapes_of(example), name, without=words(without))
    return net, found.module, sources.PIXELS[name]


def shapes_of(text: str | None) -> list[tuple[int, ...]] | None:
    if text is None:
        return None
    try:
        shapes = [tuple(int(side) for side in shape.lower().split("x")) for shape in text.split(",")]
    except ValueError:
        shapes = []
    if not shapes or any(side < 1 for shape in shapes for side in shape):
        raise OptionError(f"--example is {text!r}; write a shape as 1x3x640x640, several with commas")
    return shapes


def frame_size(net: Any, model: str) -> tuple[int, int]:
    """Return height and width of the frames that a net takes."""
    match [tuple(shape) for shape in net.input_shapes]:
        case [(height, width, 3)]:
            return int(height), int(width)
        case [(1, 3, _, _)]:
            raise OptionError(f"{model}: was compiled to take tensors; for video, compile it again with --pixels unit")
        case shapes:
            raise OptionError(f"{model}: takes {shapes}; video plays through nets with one RGB image as input")


def print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def end(written: list[Path], interrupted: bool, failed: bool = False) -> None:
    for path in written:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    if interrupted:
        console.print("[yellow]stopped early;[/yellow] what was done is kept")
    if interrupted or failed:
        raise typer.Exit(130 if interrupted else 1)


def tell_notes(notes: list[str]) -> None:
    for note in notes:
        console.print(f"[yellow]note:[/yellow] {note}", highlight=False)


def need_plots(output: Path | None) -> None:
    """What draws plots, where some are asked for: missing, it should be missed now and not when all is measured."""
    if output is not None:
        import matplotlib  # noqa: F401


def patterns_of(text: str) -> tuple[str, ...]:
    from fluxcompile.measure.activity import PATTERNS

    return PATTERNS if "both" in words(text) else tuple(dict.fromkeys(words(text)))


def backend_of(name: str) -> str:
    from fluxcompile.measure.activity import BACKENDS

    if name not in BACKENDS:
        raise OptionError(f"--backend is {name!r}; use {' or '.join(BACKENDS)}")
    if name == "cuda":
        from fluxcompile.kernels.cuda import cuda_device

        cuda_device()  # or whoever measures hears of it only after a while
    return name
