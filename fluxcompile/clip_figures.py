"""Streams over clips as a table, as Markdown and as a plot; all from their JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from fluxcompile.figures import COLOURS, INK, joined, milliseconds, percent, pyplot, save, threads

Json = Mapping[str, Any]
FIGURES = {
    "detect": {"f1_50": "F1", "f1_75": "F1 at 0.75", "boxes": "boxes"},
    "keypoints": {"f1_50": "F1", "pck": "PCK", "oks": "OKS", "boxes": "persons"},
    "segment": {"miou": "mIoU", "equal": "equal pixels"},
    "regress": {"likeness": "likeness"},
}
"""What a table shows of each task's figures."""
MEANINGS = {
    "detect": "F1 of boxes at IoU 0.5: scored 0.4 or more on one side, there at 0.25 or more on the other",
    "keypoints": "F1 of boxes at IoU 0.5; PCK at a tenth of the box and OKS, of the persons both sides have",
    "segment": "mean IoU over classes, and the share of pixels of the same class",
    "regress": "1 minus the relative error of the worst output",
}


def clips_table(result: Json) -> Table:
    """A row for each clip, and one for all."""
    table = Table(title=title(result), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for at, heading in enumerate(_headings(result)):
        table.add_column(heading, justify="right" if at else "left", no_wrap=True)
    for row in result["clips"]:
        table.add_row(*_cells(result, row))
    if result["all"]:
        table.add_section()
        table.add_row(*_cells(result, result["all"]))
    return table


def clips_markdown(results: Sequence[Json]) -> str:
    """A table for each policy."""
    parts = []
    for result in results:
        rows = [*result["clips"], *([result["all"]] if result["all"] else [])]
        if not rows:
            continue
        headings = _headings(result)
        lines = [f"**{title(result)}**", "", f"| {' | '.join(headings)} |"]
        lines += ["|---" + "|---:" * (len(headings) - 1) + "|"]
        lines += [f"| {' | '.join(_cells(result, row))} |" for row in rows]
        parts.append("\n".join([*lines, "", f"{under(result)}.", ""]))
    return "\n".join(parts)


def title(result: Json) -> str:
    return f"{result['model']}, {knobs(result['policy'])}"


def knobs(policy: Json) -> str:
    """A policy in words."""
    if policy["exact"]:
        return "exact"
    words = ["radius unbounded" if policy["radius"] is None else f"radius {policy['radius']} px"]
    words += [f"{name} {policy[name]:g}" for name in ("threshold", "gate") if policy[name]]
    return ", ".join([f"residual {policy['residual']:g}", *words])


def under(result: Json) -> str:
    """What a reader of the table should know."""
    best = f"{result['best_dense']}, the fastest dense peer" if result["best_dense"] else "no dense peer"
    told = f"Time beside {best}; speedup of medians, share of means; {MEANINGS[result['task']]}; in brackets the first "
    told += f"and the last quarter. {result['frame'][0]} x {result['frame'][1]}, backend {result['backend']}, "
    return f"{told}{threads(result['threads'])}, {result['machine']['cpu']}"


def write_clips(results: Sequence[Json], folder: Path) -> list[Path]:
    """Write clips.json, clips.md and the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "clips.json", folder / "clips.md"]
    files[0].write_text(json.dumps(joined(results), indent=2) + "\n")
    files[1].write_text(clips_markdown(results))
    drawn = [result for result in results if result["clips"]]
    return [*files, *(save(_figure(drawn), folder / "clips") if drawn else [])]


def _headings(result: Json) -> list[str]:
    told = list(FIGURES.get(result["task"], {}).values())
    delay = ["new objects: frames late"] if result["task"] in ("detect", "keypoints") else []
    head = ["clip", "frames", "work", "hits", "dense frames", "ms", "worst", "speedup", "of best"]
    return [*head, told[0] if told else "-", *told[1:], *delay]


def _cells(result: Json, row: Json) -> list[str]:
    speedup = "-" if row["speedup"] is None else f"{row['speedup']:.2f}×"
    cells = [row["clip"], str(row["frames"]), percent(row["work_share"]), percent(row["hit_ratio"])]
    cells += [str(row["dense_frames"]), milliseconds(row["ms"]), milliseconds(row["ms_worst"]), speedup]
    cells += [percent(row["of_best_dense"])]
    for at, name in enumerate(FIGURES[result["task"]]):
        quarters = f" ({_digits(row['first_quarter'])}, {_digits(row['last_quarter'])})" if at == 0 else ""
        cells.append(_digits(row[name]) + quarters)
    if "new_object_delay" in row:
        late = row["new_object_delay"]
        lost = f", {late['lost']} lost" if late["lost"] else ""
        cells.append(
            f"{late['median']:g}, worst {late['worst']} of {late['objects']}{lost}" if late["objects"] else "-"
        )
    return cells


def _digits(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _figure(results: Sequence[Json]) -> Any:
    """Two panels, work and agreement, with a bar for each clip and policy."""
    plt = pyplot()
    names = [row["clip"] for row in max((r["clips"] for r in results), key=len)]
    figure, axes = plt.subplots(
        1, 2, figsize=(9.6, 1.6 + (0.22 + 0.2 * len(results)) * len(names)), layout="constrained", sharey=True
    )
    figure.suptitle(f"{results[0]['model']}: work and agreement, clip by clip", color=INK, fontsize=13)
    wide = 0.8 / len(results)
    told = results[0]["figure"]
    heading = FIGURES[results[0]["task"]][told]
    lowest = 1.0
    for number, result in enumerate(results):
        colour = COLOURS[number % len(COLOURS)]
        for at, row in enumerate(result["clips"]):
            y = at + wide * (number - (len(results) - 1) / 2)
            axes[0].barh(
                y, row["work_share"], 0.9 * wide, color=colour, label=knobs(result["policy"]) if not at else ""
            )
            if row[told] is not None:
                axes[1].plot(row[told], y, "o", color=colour, markersize=5, clip_on=False, zorder=3)
                lowest = min(lowest, row[told])
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    axes[0].set(xlim=(0, 1), xlabel="work, of a dense frame")
    axes[0].xaxis.set_major_formatter(plt.matplotlib.ticker.PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes[1].set(xlim=(min(0.9, lowest - 0.02), 1), xlabel=f"{heading} against dense")
    axes[0].grid(axis="y", visible=False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
