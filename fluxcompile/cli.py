"""The `fluxcompile` command: compile, explain, run, demo, bench, ablate. Torch is imported when a command needs it."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from fluxcompile import options
from fluxcompile.cli_export import check, export
from fluxcompile.cli_measure import ablate, bench, calibrate
from fluxcompile.cli_partition import partition, profile
from fluxcompile.cli_remote import edge, serve
from fluxcompile.cli_shared import (
    MODEL_HELP,
    ExampleOption,
    JsonOption,
    ModelArgument,
    PixelsOption,
    TaskOption,
    WithoutOption,
    app,
    console,
    frame_size,
    opened_net,
    print_json,
    progress_bar,
    words,
)
from fluxcompile.cli_testbed import run_testbed
from fluxcompile.errors import FluxError, OptionError

if TYPE_CHECKING:
    from fluxcompile.play import Playback, Setting
    from fluxcompile.runtime.report import Run
    from fluxcompile.runtime.video import Image, Placement

EXTRAS = {
    "networkx": "compile",
    "torch": "compile",
    "onnx": "onnx",
    "av": "video",
    "cv2": "video",
    "timm": "zoo",
    "torchvision": "zoo",
    "ultralytics": "ultralytics",
    "jinja2": "report",
    "matplotlib": "bench",
    "nncf": "int8",
    "onnxruntime": "bench",
    "openvino": "bench",
    "aiohttp": "remote",
    "cryptography": "remote",
    "prometheus_client": "remote",
    "ray": "cluster",
    "tensorrt_rtx": "rtx",
}
"""The extra that brings a package that is not always there."""


@app.command("compile")
def compile_(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the program goes.")] = Path("net.flux"),
    example: ExampleOption = None,
    without: WithoutOption = None,
    pixels: PixelsOption = None,
    attention: Annotated[
        str, typer.Option(help="How global attention is recomputed: exact, incremental or active.")
    ] = "exact",
    as_json: JsonOption = False,
) -> None:
    """Compile MODEL and save the program. With --pixels it takes camera frames, without it tensors."""
    net = opened_net(model, example, without, pixels, attention)
    output.parent.mkdir(parents=True, exist_ok=True)
    net.save(output)
    explained = net.explain().to_json()
    if as_json:
        print_json(
            {"path": str(output), "bytes": _bytes(output), "input_shapes": net.input_shapes} | _summary(explained)
        )
        return
    shapes = ", ".join("x".join(map(str, shape)) for shape in net.input_shapes)
    table = _plain_table()
    table.add_row("program", f"{output} ({_bytes(output) / 1e6:.1f} MB)")
    table.add_row("input", shapes)
    table.add_row("layers", str(len(explained["layers"])))
    table.add_row("MACs a dense frame", f"{explained['total_macs']:,}")
    table.add_row("in layers that can reuse", f"{explained['blocked_mac_share']:.1%}")
    console.print(table)


@app.command()
def explain(
    model: ModelArgument,
    example: ExampleOption = None,
    without: WithoutOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show the steps of the CPU's plan instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show each layer of MODEL: its domain, its form, its cost, and why it stays dense."""
    net = opened_net(model, example, without, None)
    explained = net.explain()
    if plan and net.program.plan is None:
        raise OptionError(f"{model}: has no plan for the CPU; its kernels take float32 and uint8 images")
    if plan:
        steps = net.program.plan.text()
        print_json({"steps": steps.splitlines()}) if as_json else typer.echo(steps)
    elif as_json:
        print_json(explained.to_json())
    else:
        typer.echo(str(explained))


@app.command()
def run(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="A video file, rtsp:// address or camera index.")],
    model: Annotated[str, typer.Option("-m", "--model", metavar="MODEL", help=MODEL_HELP, show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Annotated mp4.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML page about the run.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    start: Annotated[int, typer.Option(min=0, help="Skip so many frames first.")] = 0,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY",
            help="exact (the default), careful, video, bold, or knobs, video,residual=3. May be repeated.",
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
        playback = _play(net, fitted, settings, total or frames, writer=writer, **asked)
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


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("out/demo"),
    frames: Annotated[int, typer.Option(min=1, help="Stop after so many frames; the clip has 120.")] = 60,
    as_json: JsonOption = False,
) -> None:
    """Find faces in a real clip with real weights: dense, exact and approximate side by side."""
    from fluxcompile import demo as _demo

    console.print("[dim]CenterFace on the clip carphone: fetching, compiling, playing[/dim]", highlight=False)
    made, written = _demo.play_demo(output, frames, _play)
    tell(made, written, as_json)
    if made.interrupted:
        raise typer.Exit(130)


@app.command()
def zoo(
    names: Annotated[list[str] | None, typer.Argument(help="Models: a zoo entry, torchvision/NAME, timm/NAME.")] = None,
    packages: Annotated[
        str, typer.Option("--from", metavar="A,B", help="Whose models, where none are named: zoo, torchvision, timm.")
    ] = "zoo",
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep each row in FILE, and go on from what stands there.")
    ] = None,
    backend: Annotated[str, typer.Option(help="What runs the streams: reference or cpu.")] = "reference",
    as_json: JsonOption = False,
) -> None:
    """Compile architectures with random weights and hold exact streams against dense inference over a moving clip."""
    from fluxcompile.measure.sweep import Row, names_from, summary, sweep

    wanted = names or names_from(words(packages))
    with progress_bar() as progress:
        task = progress.add_task("models", total=len(wanted))

        def on_row(row: Row) -> None:
            progress.update(task, advance=1, description=row.name)

        rows = sweep(wanted, backend=backend, resume=resume, on_row=on_row)
    told = summary(rows)
    if as_json:
        print_json(told)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    for heading in ("blocked MACs", "max error", "work"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why not all")
    for row in rows:
        error = "-" if row.max_relative_error is None else f"{row.max_relative_error:.1e}"
        share, work = (f"{row.blocked_mac_share:.1%}", f"{row.work_share:.1%}") if row.captured else ("-", "-")
        table.add_row(row.name, share, error, work, row.reason or "; ".join(row.dense))
    console.print(table)
    console.print(
        f"{told['captured']} of {len(rows)} captured, {told['blocked_95']} with 95 % of the work or more in blocked "
        f"form, {told['exact']} equal to dense within 1e-4 of the output's range",
        highlight=False,
    )


for command in (bench, ablate, calibrate, partition, profile, serve, edge, export, check):
    app.command()(command)
app.command("testbed")(run_testbed)


def main() -> None:
    """Run the command; our own errors are one message and exit code 2, a traceback only under FLUX_LOG=debug."""
    debug = False
    try:
        level = options.log_level()
        debug = level <= logging.DEBUG
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("fluxcompile").setLevel(level)
        app()
    except FluxError as error:
        _fail(str(error), debug)
    except OSError as error:  # a folder that cannot be made, a disk that is full
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), debug)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        _fail(f"this needs {package}: pip install 'fluxcompile[{EXTRAS[package]}]'", debug)


def tell(made: "Run", written: list[Path], as_json: bool) -> None:
    """Print what a run found, and where its files are."""
    if as_json:
        rows = [
            {
                "setting": setting.name,
                "knobs": setting.knobs,
                "work_share": setting.mean_share,
                "agreement": setting.agreement,
                "max_error": setting.max_error,
                "ms_per_frame": setting.ms_per_frame,
                "frames": len(setting.work_share),
                "work_share_per_frame": setting.work_share,
            }
            for setting in made.settings
        ]
        print_json(
            {
                "model": made.model,
                "clip": made.clip,
                "agreement": made.agreement_name,
                "settings": rows,
                "notes": made.notes,
                "interrupted": made.interrupted,
                "files": [str(path) for path in written],
            }
        )
        return
    table = Table(title=made.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting")
    for heading in ("work", made.agreement_name, "max error", "ms/frame", "frames"):
        table.add_column(heading, justify="right", no_wrap=True)
    for setting in made.settings:
        table.add_row(
            f"{setting.name}\n[dim]{setting.knobs}[/dim]" if setting.knobs else setting.name,
            f"{setting.mean_share:.1%}",
            "-" if setting.agreement is None else f"{setting.agreement:.3f}",
            "-" if setting.max_error is None else f"{setting.max_error:.1e}" if setting.max_error else "0",
            "-" if setting.ms_per_frame is None else f"{setting.ms_per_frame:.1f}",
            str(len(setting.work_share)),
        )
    console.print(table)
    for note in made.notes:
        console.print(f"[yellow]note:[/yellow] {note}", highlight=False)
    if made.interrupted:
        console.print("[yellow]stopped early;[/yellow] what was done is kept")
    for path in written:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


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
    from fluxcompile.runtime.video import fit, frames

    for image in frames(clip, start=start, count=count):
        yield fit(image, *size, margin=margin)


def _play(net: Any, fitted: Any, settings: "list[Setting]", total: int | None, **options: Any) -> "Playback":
    """Play with a progress bar that shows the share of work so far."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from fluxcompile.play import play

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shares]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("frames", total=total, shares="")

        def on_frame(playback: "Playback") -> None:
            shares = "  ".join(f"{track.name} {track.work_share[-1]:.0%}" for track in playback.tracks)
            progress.update(task, completed=playback.num_frames, shares=shares)

        return play(net, fitted, settings, on_frame=on_frame, **options)


def _summary(explained: dict[str, Any]) -> dict[str, Any]:
    shares = {key: explained[key] for key in ("total_macs", "blocked_mac_share")}
    return {"layers": len(explained["layers"])} | shares


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _plain_table() -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    return table


def _fail(message: str, debug: bool) -> None:
    if debug:
        console.print_exception()
    console.print("[bold red]error:[/bold red] ", end="")
    console.print(message, highlight=False, markup=False, soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
