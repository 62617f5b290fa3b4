"""Streams over clips as a table, as Markdown and as a plot; all from their JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from fluxcompile.measure.figures import COLOURS, INK, joined, milliseconds, percent, pyplot, save, threads
from fluxcompile.options import Policy

Json = Mapping[str, Any]
BOXES = {"f1_50": "F1", "f1_75": "0.75", "map": "mAP", "map_50": "AP 0.5", "map_75": "AP 0.75"}
FIGURES = {
    "detect": {**BOXES, "boxes": "boxes"},
    "instances": {**BOXES, "boxes": "masks"},
    "keypoints": {"f1_50": "F1", "map": "mAP", "pck": "PCK", "oks": "OKS", "boxes": "persons"},
    "heatmaps": {"pck": "PCK", "distance": "pixels off"},
    "segment": {
        "miou": "mIoU",
        "equal": "equal pixels",
        "foreground_iou": "but class 0",
        "foreground": "pixels but class 0",
    },
    "classify": {"top1": "top 1", "top5": "top 5", "likeness": "likeness"},
    "depth": {"delta_105": "within 5 %", "delta_125": "within 25 %", "abs_rel": "error"},
    "regress": {"likeness": "likeness"},
}
"""What a table shows of each task's figures; of a task of one's own, the one that stands for all."""
NOT_SHOWN = (
    "frames", "hits", "dense frames", "worst", "first", "last", "new (lost)", "mAP", "AP 0.5", "AP 0.75",
    "pixels but class 0",
)  # fmt: skip
"""What only the Markdown has room for."""
MEANINGS = {
    "detect": "F1 of boxes at IoU 0.5 and 0.75: scored 0.4 or more on one side, dense or ours, at 0.25 on the other; "
    "average precision with dense's boxes of 0.4 or more as truth, mAP over IoU 0.5 to 0.95",
    "instances": "F1 and average precision as of boxes, by the IoU of masks",
    "heatmaps": "PCK: the best cell of each keypoint's map within a twentieth of the input's longer side of dense's",
    "keypoints": "F1 and average precision of boxes; PCK at a tenth of the box and OKS, of the persons both sides have",
    "segment": "Mean IoU over classes, beside dense, and the share of pixels of the same class; IoU of what is not "
    "class 0, which is the background where a model has one, and how many pixels of dense that is",
    "classify": "Share of frames with dense's best class, share of its best five, 1 minus total variation distance",
    "depth": "Shares of pixels whose ratio to dense is below 1.05 and 1.25; mean relative error",
    "regress": "1 minus the relative error of the worst output",
}


def clips_table(result: Json) -> Table:
    """A row for each clip, and one for all; what a terminal of 80 columns holds."""
    table = Table(
        title=title(result), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip
    rows = [_cells(result, row) for row in _rows(result)]
    shown = [heading for heading in rows[0] if heading not in NOT_SHOWN] if rows else []
    for heading in shown:
        table.add_column(heading, justify="left" if heading == "clip" else "right", no_wrap=heading != "clip")
    for cells in rows:
        table.add_row(*(cells[heading] for heading in shown), end_section=cells is rows[-2])
    return table


def clips_markdown(results: Sequence[Json]) -> str:
    """A table for each policy."""
    parts = []
    for result in results:
        rows = [_cells(result, row) for row in _rows(result)]
        if not rows:
            continue
        parts.append("\n".join([f"**{title(result)}**", "", *markdown(rows), "", f"{under(result)}.", ""]))
    eight = int8_rows(results[0]) if results else []
    if eight:
        parts.append("\n".join(["**OpenVINO int8, calibrated on the other clips**", "", *markdown(eight), ""]))
    return "\n".join(parts)


def markdown(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The lines of a table, a row for each of `rows`, their keys over it."""
    if not rows:
        return []
    head = [f"| {' | '.join(rows[0])} |", "|---" + "|---:" * (len(rows[0]) - 1) + "|"]
    return [*head, *(f"| {' | '.join(row.values())} |" for row in rows)]


def figures_of(result: Json) -> dict[str, str]:
    """What a table shows of a result's figures: headings by their names."""
    return FIGURES.get(result["task"], {result["figure"]: result["figure"]})


def title(result: Json) -> str:
    return f"{result['model']}, {knobs(result['policy'])}"


def knobs(policy: Json) -> str:
    """A policy in words."""
    return Policy(**policy).words


def under(result: Json) -> str:
    """What a reader of the table should know."""
    best = f"{result['best_dense']}, the fastest dense peer" if result["best_dense"] else "no dense peer"
    late = "; frames until a new object was found, median and worst" if "new_object_delay" in result["all"] else ""
    own = f"{result['figure']} as the task itself defines it"
    told = f"Time beside {best}: speedup of medians, share of means. {MEANINGS.get(result['task'], own)}{late}. "
    told += f"{result['frame'][0]} x {result['frame'][1]}, backend {result['backend']}, "
    return f"{told}{threads(result['threads'])}, {result['machine']['cpu']}"


def write_clips(results: Sequence[Json], folder: Path) -> list[Path]:
    """Write clips.json, clips.md and the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "clips.json", folder / "clips.md"]
    files[0].write_text(json.dumps(joined(results), indent=2) + "\n")
    files[1].write_text(clips_markdown(results))
    drawn = [result for result in results if result["clips"]]
    drawn = [result for result in drawn if result["task"] == drawn[0]["task"]]  # one axis, one figure
    return [*files, *(save(_figure(drawn), folder / "clips") if drawn else [])]


def int8_rows(result: Json) -> list[dict[str, str]]:
    """A row for each clip of the same model in eight bits."""
    return [
        {
            "clip": row["clip"],
            "ms": milliseconds(row["ms"]),
            "of best": percent(row["of_best_dense"]),
            **{heading: digits(row[name]) for name, heading in figures_of(result).items()},
        }
        for row in result.get("int8", ())
    ]


def _rows(result: Json) -> list[Json]:
    return [*result["clips"], *([result["all"]] if result["all"] else [])]


def _cells(result: Json, row: Json) -> dict[str, str]:
    """A row's cells by their headings."""
    cells = {
        "clip": row["clip"],
        "frames": str(row["frames"]),
        "work": percent(row["work_share"]),
        "hits": percent(row["hit_ratio"]),
        "dense frames": str(row["dense_frames"]),
        "ms": milliseconds(row["ms"]),
        "worst": milliseconds(row["ms_worst"]),
        "speedup": "-" if row["speedup"] is None else f"{row['speedup']:.2f}",
        "of best": percent(row["of_best_dense"]),
    }
    cells |= {heading: digits(row[name]) for name, heading in figures_of(result).items()}
    cells |= {"first": digits(row["first_quarter"]), "last": digits(row["last_quarter"])}
    if "new_object_delay" in row:
        late = row["new_object_delay"]
        cells["late"] = f"{late['median']:g}, {late['worst']}" if late["objects"] else "-"
        cells["new (lost)"] = f"{late['objects']} ({late['lost']})"
    return cells


def digits(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _figure(results: Sequence[Json]) -> Any:
    """Two panels, work and agreement, with a bar for each clip and policy."""
    plt = pyplot()
    names = [row["clip"] for row in max((r["clips"] for r in results), key=len)]
    figure, axes = plt.subplots(
        1, 2, figsize=(9.6, 1.6 + (0.22 + 0.2 * len(results)) * len(names)), layout="constrained", sharey=True
    )
    models = list(dict.fromkeys(result["model"] for result in results))
    figure.suptitle(f"{', '.join(models)}: work and agreement, clip by clip", color=INK, fontsize=13)
    wide = 0.8 / len(results)
    told = results[0]["figure"]
    heading = figures_of(results[0])[told]
    lowest = 1.0
    for number, result in enumerate(results):
        colour = COLOURS[number % len(COLOURS)]
        label = title(result) if len(models) > 1 else knobs(result["policy"])
        for at, row in enumerate(result["clips"]):
            y = at + wide * (number - (len(results) - 1) / 2)
            axes[0].barh(y, row["work_share"], 0.9 * wide, color=colour, label="" if at else label)
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
