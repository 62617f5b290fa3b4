"""`fluxcompile export` and `fluxcompile check`: an engine bundle for a target, and what can be proven of it here."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fluxcompile import options
from fluxcompile.cli.shared import (
    AttentionOption,
    ExampleOption,
    JsonOption,
    ModelArgument,
    PixelsOption,
    TaskOption,
    WithoutOption,
    console,
    opened_net,
    print_json,
)
from fluxcompile.errors import OptionError
from fluxcompile.net import load


def export(
    model: ModelArgument,
    target: Annotated[str, typer.Option(help="jetson-xavier-nx, jetson-orin, rtx-3080 or rtx.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the bundle.")] = Path("out/bundle"),
    policy: Annotated[str, typer.Option(help="exact, or knobs: threshold=0.02,radius=8,gate=0.05.")] = "exact",
    precision: Annotated[str, typer.Option(help="fp32, fp16, or int8, which takes --clip.")] = "fp32",
    clip: Annotated[Path | None, typer.Option(help="Video whose frames become the samples.")] = None,
    after: Annotated[
        Path | None,
        typer.Option(metavar="FLUX", help="MODEL is a cloud's half: the edge's half, which takes the clip first."),
    ] = None,
    frames: Annotated[int, typer.Option(min=2, help="How many frames the samples hold.")] = 12,
    capacity: Annotated[
        float | None,
        typer.Option(help="Also an engine with lists of fixed length, for frames with up to this share that is new."),
    ] = None,
    memory_gib: Annotated[float | None, typer.Option(min=0.1, help="Of the device; the smallest by default.")] = None,
    keep: Annotated[
        str, typer.Option(help="Layers or modules that stay float32 in any precision: model.23,conv2d_4.")
    ] = "",
    attention: AttentionOption = None,
    example: ExampleOption = None,
    without: WithoutOption = None,
    pixels: PixelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write MODEL as a bundle that builds and runs on a target with TensorRT."""
    net = opened_net(model, example, without, pixels, attention=attention)
    with console.status(f"exporting to {target}"):
        manifest = net.export(
            target,
            output,
            policy=options.parse_policy(policy),
            precision=precision,
            clip=clip,
            after=None if after is None else load(after),
            capacity=capacity,
            frames=frames,
            keep=[name.strip() for name in keep.split(",") if name.strip()],
            memory_bytes=None if memory_gib is None else int(memory_gib * 2**30),
        )
    size = sum(f.stat().st_size for f in output.rglob("*") if f.is_file())
    memory = {name: getattr(manifest.memory, name) for name in manifest.memory.__struct_fields__}
    if as_json:
        print_json({"path": str(output), "bytes": size, "target": manifest.target, "memory": memory})
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("bundle", f"{output} ({size / 1e6:.1f} MB)")
    table.add_row("target", f"{manifest.target['device']}, TensorRT {manifest.target['tensorrt']}")
    table.add_row("caches", f"{len(manifest.caches)}, {manifest.memory.state_bytes / 2**20:.0f} MiB on the device")
    table.add_row("memory", f"{manifest.memory.total_bytes / 2**20:.0f} MiB, estimated")
    table.add_row("plugins", ", ".join(manifest.plugins))
    console.print(table)


def check(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="What `export -o` wrote.", show_default=False)],
    clip: Annotated[Path | None, typer.Option(help="Video to compare over; the samples by default.")] = None,
    bindings: Annotated[
        list[str] | None,
        typer.Option(metavar="VERSION=DIR", help="TensorRT's Python bindings; build/bindings/* by default."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="One check alone; may be repeated.")] = None,
    task: TaskOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle without its target: what can be proven here, and whether it was."""
    from fluxcompile.check import check as made

    with console.status(f"checking {bundle}"):
        results = made(bundle, clip=clip, bindings=_bindings(bindings), only=only or (), task=task)
    if as_json:
        print_json({"checks": [r.to_json() for r in results]})
    else:
        table = Table(box=None, pad_edge=False)
        for title in ("", "check", "found"):
            table.add_column(title)
        marks = {True: "[green]passed[/green]", False: "[red]FAILED[/red]", None: "[dim]skipped[/dim]"}
        for r in results:
            table.add_row(marks[r.passed], r.name, escape(r.detail))
        console.print(table)
    if any(r.passed is False for r in results):
        raise typer.Exit(1)


def _bindings(given: list[str] | None) -> dict[str, Path]:
    if given is None:
        return {p.name: p for p in sorted(Path("build/bindings").glob("*")) if (p / "tensorrt_bindings").is_dir()}
    found = {}
    for text in given:
        version, equals, folder = text.partition("=")
        if not equals or not Path(folder).is_dir():
            raise OptionError(f"--bindings is {text!r}; write VERSION=FOLDER, 10.3.0=build/bindings/10.3.0")
        found[version] = Path(folder)
    return found
