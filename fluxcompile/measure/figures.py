"""Benchmarks and ablations as tables, as Markdown and as plots; all from their JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

Json = Mapping[str, Any]

COLOURS = ("#2f6fb0", "#d9622b", "#3b8f5a", "#8a5aa8", "#b8962e", "#c0467b", "#4aa3a8", "#6b6b6b")
STYLES = {"blobs": ("-", "o"), "scattered": ("--", "s")}
INK, FAINT = "#222222", "#d8d8d8"
ZOOM = 0.2
"""Share of work up to which the second panel shows the curves."""


def milliseconds(value: float | None) -> str:
    """Three digits are enough."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def percent(value: float | None) -> str:
    """0.1234 as 12.3 %, from 100 % on without digits."""
    if value is None:
        return "-"
    return f"{value:.1%}".replace("%", " %") if value < 0.9995 else f"{value:.0%}".replace("%", " %")


def threads(count: int) -> str:
    return f"{count} thread" + "s" * (count != 1)


def bench_table(results: Sequence[Json]) -> Table:
    """A group of rows for each model: its dense peers, its first frame, idle, and each activity."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    table.add_column("what", no_wrap=True)
    for heading in ("ms", "median", "of best", "work", "GFLOP/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        left = [f"[bold]{result['model']}[/bold]"]
        if "error" in result:
            table.add_row(left[0], f"[red]{result['error']}[/red]")
            table.add_section()
            continue
        height, width = result["frame"]
        left += [f"{height} x {width}", f"{result['macs'] / 1e9:.3g} GMACs", threads(result["threads"])]
        left += [f"backend {result['backend']}"]
        rows = list(_bench_rows(result))
        left += [""] * (len(rows) - len(left))
        for name, row in zip(left, rows, strict=False):
            table.add_row(name, *row)
        table.add_section()
    return table


def _bench_rows(result: Json) -> Iterator[tuple[str, ...]]:
    best = result["best_dense_ms"]
    for peer in result["peers"]:
        what = str(peer["name"])
        if peer["ms"] is None:
            yield what, "[dim]left out[/dim]"
            continue
        first = "[green]" if peer["name"] == result["best_dense"] else ""
        share = percent(peer["ms"] / best)
        yield what, f"{first}{milliseconds(peer['ms'])}", milliseconds(peer["ms_median"]), share, "", ""
    for what, key in (("first frame", "first_frame"), ("idle", "idle")):
        work = percent(result["idle_work_share"]) if key == "idle" else ""
        ms, median, share = (result[f"{key}{end}"] for end in ("_ms", "_ms_median", "_of_best_dense"))
        yield what, milliseconds(ms), milliseconds(median), percent(share), work, ""
    for row in result["rows"]:
        speed = "-" if row["gflops_effective"] is None else f"{row['gflops_effective']:.1f}"
        ms, median = milliseconds(row["ms"]), milliseconds(row["ms_median"])
        what = f"{row['activity']:g} % {row['pattern']}"
        yield what, ms, median, percent(row["of_best_dense"]), percent(row["work_share"]), speed


def notes(result: Json) -> list[str]:
    """What a reader of the figures should know: who was left out, and why; memory."""
    if "error" in result:
        return []
    found = [f"{result['model']}: {p['name']} left out: {p['reason']}" for p in result["peers"] if p["reason"]]
    memory, peak = result["cache_bytes"] / 1e6, result["dense_activation_bytes"] / 1e6
    whole = result["dense_activation_sum_bytes"] / 1e6
    found.append(
        f"{result['model']}: caches {memory:.1f} MB; a dense run's maps are {whole:.1f} MB, {peak:.1f} MB at once"
    )
    return found


def machine_line(result: Json) -> str:
    machine = result["machine"]
    gpu = [machine["gpu"]] if machine.get("gpu") else []
    parts = [*gpu, f"{machine['cpu']}, {machine['cores']} cores", f"kernels {machine['kernels'] or 'not built'}"]
    if result.get("peak_gflops"):
        parts.append(f"peak {result['peak_gflops']:.0f} GFLOP/s a core")
    return "; ".join([*parts, f"the least of {result['rounds']} rounds, all in turns"])


def bench_markdown(results: Sequence[Json]) -> str:
    """The table of a README: a row for each model, pattern and number of threads."""
    whole = [result for result in results if "error" not in result]
    if not whole:
        return ""
    activities = sorted({row["activity"] for result in whole for row in result["rows"]})
    patterns = list(dict.fromkeys(row["pattern"] for result in whole for row in result["rows"]))
    counts = {result["threads"] for result in whole}
    head = ["model", *["threads"] * (len(counts) > 1), *["pattern"] * (len(patterns) > 1), "best dense", "idle"]
    head += [f"{activity:g} %" for activity in activities]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for result in whole:
        for pattern in patterns:
            rows = {row["activity"]: row for row in result["rows"] if row["pattern"] == pattern}
            best = "-" if result["best_dense"] is None else milliseconds(result["best_dense_ms"])
            cells = [result["model"], *[str(result["threads"])] * (len(counts) > 1), *[pattern] * (len(patterns) > 1)]
            cells += [f"{best} ms, {result['best_dense']}" if result["best_dense"] else "-"]
            cells += [_cell(result["idle_ms"], result["idle_of_best_dense"])]
            cells += [_cell(rows[a]["ms"], rows[a]["of_best_dense"]) if a in rows else "-" for a in activities]
            lines.append(f"| {' | '.join(cells)} |")
    first = whole[0]
    under = f"ms a frame (share of the best dense time), backend {first['backend']}, "
    under += "" if len(counts) > 1 else f"{threads(first['threads'])}, "
    under += "" if len(patterns) > 1 else f"{patterns[0]}, " if patterns else ""
    return "\n".join([*lines, "", f"{under}float32, batch 1. {machine_line(first)}.", ""])


def _cell(ms: float | None, share: float | None) -> str:
    return "-" if ms is None else f"{milliseconds(ms)} ({percent(share)})"


def joined(results: Sequence[Json]) -> Json:
    """One object for one model on one number of threads, else {"models": [...]}."""
    return results[0] if len(results) == 1 else {"models": list(results)}


def write_bench(results: Sequence[Json], folder: Path) -> list[Path]:
    """Write bench.json, bench.md and the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "bench.json", folder / "bench.md"]
    files[0].write_text(json.dumps(joined(results), indent=2) + "\n")
    files[1].write_text(bench_markdown(results))
    series = [s for result in results if "error" not in result for s in _series(result, results)]
    if series:
        files += save(_bench_figure(series), folder / "bench")
    return files


def _series(result: Json, results: Sequence[Json]) -> Iterator[dict[str, Any]]:
    """The curves of one result: (share of work, share of time), idle first."""
    several_threads = len({r["threads"] for r in results if "error" not in r}) > 1
    names = list(dict.fromkeys(r["model"] for r in results if "error" not in r))
    for pattern in dict.fromkeys(row["pattern"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["pattern"] == pattern]
        points = [(row["work_share"], row["of_best_dense"]) for row in rows]
        points.append((result["idle_work_share"], result["idle_of_best_dense"]))
        points = sorted(p for p in points if None not in p)
        if not points:
            continue
        yield {
            "model": result["model"],
            "pattern": pattern,
            "points": points,
            "colour": COLOURS[names.index(result["model"]) % len(COLOURS)],
            "style": STYLES[pattern],
            "pale": result["threads"] > 1 and several_threads,
        }


def _bench_figure(series: Sequence[Mapping[str, Any]]) -> Any:
    """Share of time against share of work, the whole and its corner; on the diagonal time follows work."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 5.2), layout="constrained")
    figure.suptitle("Time follows work where a curve keeps to the diagonal", color=INK, fontsize=13)
    diagonal: dict[str, Any] = {"color": "#8a8a8a", "linewidth": 1.2, "linestyle": (0, (4, 3))}
    for axis, limit, title in zip(axes, (1.0, ZOOM), ("every activity", "the corner"), strict=True):
        axis.plot([0, limit], [0, limit], zorder=1, **diagonal)
        highest = limit
        for s in series:
            xs, ys = zip(*s["points"], strict=True)
            line, marker = s["style"]
            axis.plot(
                xs, ys, line, marker=marker, markersize=4.5, linewidth=1.6, color=s["colour"],
                alpha=0.5 if s["pale"] else 1.0, zorder=2,
            )  # fmt: skip
            highest = max(highest, float(np.interp(limit, xs, ys)), *(y for x, y in s["points"] if x <= limit), 0)
        axis.set(xlim=(-0.015 * limit, 1.03 * limit), ylim=(0, 1.06 * highest))
        axis.set_title(title, fontsize=10, color=INK)
        axis.set_xlabel("work, of a dense frame")
        axis.xaxis.set_major_locator(plt.matplotlib.ticker.MultipleLocator(limit / 4 if limit < 1 else 0.2))
        axis.yaxis.set_major_locator(plt.matplotlib.ticker.MaxNLocator(8, steps=[1, 2, 5, 10]))
        for one in (axis.xaxis, axis.yaxis):
            one.set_major_formatter(plt.matplotlib.ticker.PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes[0].set_ylabel("time, of the best dense peer")
    figure.legend(handles=_keys(series, diagonal), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _keys(series: Sequence[Mapping[str, Any]], diagonal: Mapping[str, Any]) -> list[Any]:
    """The legend: a colour for each model, a line for each pattern where there are two, the diagonal."""
    line: Any = pyplot().matplotlib.lines.Line2D
    keys = [line([], [], color=c, linewidth=2.5, label=m) for m, c in {s["model"]: s["colour"] for s in series}.items()]
    patterns = list(dict.fromkeys(s["pattern"] for s in series))
    if len(patterns) > 1:
        keys += [line([], [], color=INK, linestyle=STYLES[p][0], marker=STYLES[p][1], label=p) for p in patterns]
    if any(s["pale"] for s in series):
        keys.append(line([], [], color=INK, linewidth=2.5, alpha=0.5, label="more threads"))
    return [*keys, line([], [], label="time = work", **diagonal)]


def ablate_table(result: Json) -> Table:
    table = Table(
        title=f"{result['model']}: each pass left out in turn, {result['activity']:g} % {result['pattern']}",
        title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True,
        caption="× beside the full compile; caches in MB; s to compile; error of exact outputs",
        caption_justify="left",
    )  # fmt: skip
    table.add_column("left out", no_wrap=True)
    for heading in ("ms", "×", "idle ms", "×", "work", "caches", "s", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result["rows"]:
        if row["reason"]:
            table.add_row(row["pass"], "[red]failed[/red]")
            continue
        table.add_row(
            row["pass"], milliseconds(row["ms"]), f"{row['ratio']:.2f}", milliseconds(row["idle_ms"]),
            f"{row['idle_ratio']:.2f}", percent(row["work_share"]), f"{row['cache_bytes'] / 1e6:.1f}",
            f"{row['compile_s']:.1f}", f"{row['max_relative_error']:.0e}" if row["max_relative_error"] else "0",
        )  # fmt: skip
    return table


def write_ablation(result: Json, folder: Path) -> list[Path]:
    """Write ablate.json and the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ablate.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return [path, *save(_ablation_figure(result), folder / "ablate")] if len(result["rows"]) > 1 else [path]


def _ablation_figure(result: Json) -> Any:
    """A pair of bars for each pass: the time without it over the time with it, at work and idle."""
    plt = pyplot()
    rows = list(reversed(result["rows"]))
    figure, axis = plt.subplots(figsize=(8.4, 1.3 + 0.42 * len(rows)), layout="constrained")
    width = 0.36
    most = max([1.0, *(max(row["ratio"], row["idle_ratio"]) for row in rows if not row["reason"])])
    for at, row in enumerate(rows):
        if row["reason"]:
            axis.annotate("failed", (0.02, at), va="center", fontsize=9, color="#b03030")
            continue
        for shift, key, colour in ((width / 2, "ratio", COLOURS[0]), (-width / 2, "idle_ratio", "#b9cfe4")):
            axis.barh(at + shift, row[key], width, color=colour, zorder=2)
            beside = 1.0 if 1 - 0.09 * most < row[key] < 1 else row[key]  # a number must not lie across the line
            axis.annotate(
                f"{row[key]:.2f}", (beside, at + shift), xytext=(3, 0), textcoords="offset points",
                va="center", fontsize=8, color=INK,
            )  # fmt: skip
    axis.axvline(1, color=INK, linewidth=1, zorder=3)
    axis.set_yticks(range(len(rows)), [row["pass"] for row in rows])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlim(0, 1.1 * most)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("time without the pass, over the time with it")
    figure.suptitle(f"{result['model']}: what each pass is worth", color=INK, fontsize=13)
    patch = plt.matplotlib.patches.Patch
    busy = f"{result['activity']:g} % {result['pattern']}"
    handles = [patch(color=COLOURS[0], label=busy), patch(color="#b9cfe4", label="idle")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.lines
    import matplotlib.patches
    import matplotlib.pyplot as plt
    import matplotlib.ticker

    plt.rcParams.update(
        {
            "font.size": 10,
            "axes.edgecolor": "#888888",
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": FAINT,
            "grid.linewidth": 0.6,
            "xtick.color": INK,
            "ytick.color": INK,
            "svg.hashsalt": "fluxcompile",
        }
    )
    return plt


def save(figure: Any, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    figure.savefig(paths[0], dpi=160)
    figure.savefig(paths[1], metadata={"Date": None})
    pyplot().close(figure)
    return paths
