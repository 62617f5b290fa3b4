"""What `run` and `demo` share: a bar that shows the work while a clip plays, and what was found."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from fluxcompile.cli.shared import console, print_json

if TYPE_CHECKING:
    from fluxcompile.play import Playback, Setting
    from fluxcompile.runtime.report import Run


def play_with_bar(net: Any, fitted: Any, settings: "list[Setting]", total: int | None, **options: Any) -> "Playback":
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
    count = max((len(setting.work_share) for setting in made.settings), default=0)
    table = Table(
        title=f"{made.title}, {count} frames", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        pad_edge=False,
    )  # fmt: skip
    table.add_column("setting", min_width=28)  # a policy in words, in a narrow terminal too
    for heading in ("work", made.agreement_name, "max error", "ms/frame"):
        table.add_column(heading, justify="right", max_width=12)
    for setting in made.settings:
        table.add_row(
            f"{setting.name}\n[dim]{setting.knobs}[/dim]" if setting.knobs else setting.name,
            f"{setting.mean_share:.1%}",
            "-" if setting.agreement is None else f"{setting.agreement:.3f}",
            "-" if setting.max_error is None else f"{setting.max_error:.1e}" if setting.max_error else "0",
            "-" if setting.ms_per_frame is None else f"{setting.ms_per_frame:.1f}",
        )
    console.print(table)
    for note in made.notes:
        console.print(f"[yellow]note:[/yellow] {note}", highlight=False)
    if made.interrupted:
        console.print("[yellow]stopped early;[/yellow] what was done is kept")
    for path in written:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
