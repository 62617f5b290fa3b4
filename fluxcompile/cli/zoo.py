"""`fluxcompile zoo`: many architectures, each compiled and held against dense inference."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from fluxcompile.cli.shared import (
    JsonOption,
    console,
    print_json,
    progress_bar,
    words,
)


def zoo(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Models: a zoo entry, torchvision/NAME, timm/NAME.")
    ] = None,
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
