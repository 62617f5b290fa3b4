"""The testbed's rows as a table, as Markdown and as plots, with the paper's figures beside ours."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from fluxcompile.measure.clip_figures import markdown
from fluxcompile.measure.figures import COLOURS, milliseconds, percent, pyplot, save
from fluxcompile.testbed.run import ABLATED

Row = dict[str, Any]
LEFT = ("model", "system")


def cells(row: Row) -> dict[str, str]:
    """A row as a reader wants it, by its headings."""
    paper = row.get("paper")
    return {
        "model": row["model"],
        "Mbit/s": str(row["mbps"]),
        "system": row["system"],
        "cameras": str(row["cameras"]),
        "ms": milliseconds(row["latency_ms"]),
        "95 %": milliseconds(row["latency_p95_ms"]),
        "late": percent(row["late"]),
        row["figure"]: "-" if row["agreement"] is None else f"{row['agreement']:.3f}",
        "hits": percent(row["hit_ratio"]),
        "kB a frame": f"{row['bytes_per_frame'] / 1000:.1f}",
        "MB/s": f"{row['mb_per_s']:.3f}",
        "mJ": f"{row['energy_mj']:.0f}",
        "by cloud": percent(row["cloud_share"]),
        "cloud busy": percent(row["cloud_busy"]),
        "paper: accuracy, hits, MB/s": f"{paper['accuracy']}, {paper['hits']}, {paper['mb_per_s']:g}" if paper else "",
    }


def tables(rows: Sequence[Row]) -> list[Table]:
    """One for each model."""
    found = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in cells(mine[0]):
            table.add_column(heading, justify="left" if heading in LEFT else "right", no_wrap=True)
        last = None
        for row in mine:
            if last not in (None, group := (row["mbps"], row["cameras"])):
                table.add_section()
            table.add_row(*cells(row).values())
            last = group
        found.append(table)
    return found


def write(rows: Sequence[Row], folder: Path) -> list[Path]:
    """testbed.json, the tables as Markdown, the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / "testbed"
    stem.with_suffix(".json").write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    parts = [
        "\n".join(markdown([cells(row) for row in rows if row["model"] == model]))
        for model in dict.fromkeys(row["model"] for row in rows)
    ]
    stem.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    return [stem.with_suffix(".json"), stem.with_suffix(".md"), *save(_figure(rows), stem)]


def _figure(rows: Sequence[Row]) -> Any:
    """Latency of each system by bandwidth, and by cameras where there were several; parts left out are not drawn."""
    plt = pyplot()
    rows = [row for row in rows if row["system"] not in ABLATED] or rows
    panels = list(_panels(rows))
    names = list(dict.fromkeys(row["system"] for row in rows))
    colours = {name: (*COLOURS, "#a0522d", "#556b2f")[number % 10] for number, name in enumerate(names)}
    figure, axes = plt.subplots(1, len(panels), figsize=(6.0 * len(panels), 4.2), squeeze=False, layout="constrained")
    for axis, (title, by, mine) in zip(axes[0], panels, strict=True):
        for system in dict.fromkeys(row["system"] for row in mine):
            points = sorted((row[by], row["latency_ms"]) for row in mine if row["system"] == system)
            ours = system == "ours"
            style = {"lw": 2.6, "ls": "-", "zorder": 3} if ours else {"lw": 1.3, "ls": "--"}
            axis.plot(*zip(*points, strict=True), marker="o", ms=4, color=colours[system], label=system,
                      **style)  # fmt: skip
        ticks = sorted({row[by] for row in mine})
        axis.set(xscale="log", yscale="log", ylabel="mean latency, ms")
        axis.set_xlabel("mean bandwidth, Mbit/s" if by == "mbps" else "cameras on one server")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.xaxis.set_minor_locator(plt.matplotlib.ticker.NullLocator())
        for formats in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            formats(plt.matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_locator(plt.matplotlib.ticker.LogLocator(subs=(2, 5)))
        axis.set_title(title, loc="left", fontsize=11)
        axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _panels(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Row]]]:
    """Title, what varies, rows."""
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        fewest = min(row["cameras"] for row in mine)
        alone = [row for row in mine if row["cameras"] == fewest]
        if len({row["mbps"] for row in alone}) > 1 or len(mine) == len(alone):
            yield f"{model}, {fewest} camera{'s' * (fewest > 1)}", "mbps", alone
        if len(mine) > len(alone):
            mbps = mine[0]["mbps"]
            yield f"{model}, {mbps} Mbit/s each", "cameras", [row for row in mine if row["mbps"] == mbps]
