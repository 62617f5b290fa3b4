"""`fluxcompile compile`: the program of a model, saved."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fluxcompile.cli.shared import (
    AttentionOption,
    ExampleOption,
    JsonOption,
    ModelArgument,
    PixelsOption,
    WithoutOption,
    console,
    opened_net,
    print_json,
    words,
)


def compile_(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the program goes.")] = Path("net.flux"),
    example: ExampleOption = None,
    without: WithoutOption = None,
    pixels: PixelsOption = None,
    attention: AttentionOption = None,
    outputs: Annotated[
        str | None, typer.Option(metavar="A,B", help="Of an .onnx file: the values to end at, not its outputs.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compile MODEL and save the program. With --pixels it takes camera frames, without it tensors."""
    net = opened_net(model, example, without, pixels, attention=attention, outputs=words(outputs))
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
