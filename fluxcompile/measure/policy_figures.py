"""Ablations of policies and calibrations as tables and plots; all from their JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from fluxcompile.measure.clip_figures import digits, knobs, markdown
from fluxcompile.measure.figures import COLOURS, INK, milliseconds, percent, pyplot, save

Json = Mapping[str, Any]


def parts_table(plain: Json) -> Table:
    """A row for each variant of a policy."""
    return _table(f"{plain['model']}: each part in turn, {plain['figure']} against dense", parts_rows(plain))


def parts_rows(plain: Json) -> list[dict[str, str]]:
    return [
        {
            "policy": row["part"],
            "work": percent(row["work_share"]),
            "of whole": "-" if row["work_ratio"] is None else f"{row['work_ratio']:.2f}",
            "ms": milliseconds(row["ms"]),
            plain["figure"]: digits(row["agreement"]),
            "dense": str(row["dense_frames"]),
        }
        for row in plain["rows"]
    ]


def calibration_table(plain: Json) -> Table:
    """What was tried on the half that chooses, the chosen one marked."""
    title = (
        f"{plain['clip']}: {plain['figure']} of {plain['target']:g} or more on the first {plain['frames'][0]} frames"
    )
    return _table(title, calibration_rows(plain))


def calibration_rows(plain: Json) -> list[dict[str, str]]:
    rows = []
    for one in sorted(plain["tried"], key=lambda t: t["work_share"]):
        mark = "chosen" if one["kept"] else "frontier" if one["name"] in plain["frontier"] else ""
        rows.append(
            {
                "tried": one["name"],
                "work": percent(one["work_share"]),
                "ms": milliseconds(one["ms"]),
                plain["figure"]: digits(one["agreement"]),
                "": mark,
            }
        )
    return rows


def held_out(plain: Json) -> str:
    """The chosen policy, and what it did where it was not tuned."""
    told = plain["held_out"]
    if told is None or plain["policy"] is None:
        return "nothing was chosen"
    figures = f"work {percent(told['work_share'])}, {plain['figure']} {digits(told[plain['figure']])}"
    return f"{knobs(plain['policy'])}; on the other {plain['frames'][1]} frames: {figures}"


def write(plain: Json, folder: Path, name: str) -> list[Path]:
    """Write NAME.json, NAME.md and the plot of work and agreement."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.json", folder / f"{name}.md"]
    files[0].write_text(json.dumps(plain, indent=2, default=str) + "\n")
    ablation = "rows" in plain
    rows = parts_rows(plain) if ablation else calibration_rows(plain)
    lines = [*markdown(rows), *([] if ablation else ["", held_out(plain)])]
    files[1].write_text("\n".join(lines) + "\n")
    points = [
        (r["work_share"], r["agreement"], r["part" if ablation else "name"])
        for r in plain["rows" if ablation else "tried"]
    ]
    points = [point for point in points if point[1] is not None]
    kept = [one["name"] for one in plain.get("tried", ()) if one["kept"]] or [
        rows[0]["policy"] if ablation and rows else ""
    ]
    return [*files, *(save(_plot(points, kept, plain), folder / name) if points else [])]


def _table(title: str, rows: Sequence[Mapping[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in rows[0] if rows else ():
        table.add_column(heading, justify="left" if heading in ("policy", "tried", "") else "right")
    for row in rows:
        table.add_row(*row.values())
    return table


def _plot(points: Sequence[tuple[float, float, str]], kept: Sequence[str], plain: Json) -> Any:
    """Work against agreement, a name at each point."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    for work, agreement, name in points:
        chosen = name in kept
        axes.plot(
            100 * work, agreement, "o", color=COLOURS[1 if chosen else 0], markersize=8 if chosen else 5, zorder=3
        )
        axes.annotate(name, (100 * work, agreement), (5, 4), textcoords="offset points", fontsize=8, color=INK)
    if "target" in plain:
        axes.axhline(plain["target"], color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel("work, % of dense")
    axes.set_ylabel(plain["figure"])
    axes.grid(visible=True, alpha=0.3)
    return figure
