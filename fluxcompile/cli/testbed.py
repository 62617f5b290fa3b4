"""`fluxcompile testbed`: every system on every link, or this machine as its own testbed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from fluxcompile.cli.shared import (
    POLICY_HELP,
    JsonOption,
    console,
    end,
    need_plots,
    opened_net,
    print_json,
    tell_notes,
    words,
)
from fluxcompile.errors import OptionError
from fluxcompile.options import parse_policy

EDGE, CLOUD = "xavier-nx", "rtx-3080"
SMALL = "yolo11=zoo:unet-mini"
"""A net for who has none at hand."""


def run_testbed(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NET=MODEL",
            help="yolo11=FILE, sdpose=zoo:sdpose-t: what profiles call the net, and the model. When not given, a small "
            "net of the zoo with random weights.",
        ),
    ] = None,
    clips: Annotated[
        str | None, typer.Option(metavar="A,B", help="Clips, or a folder of them; that of `demo` when not given.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="paper: its devices, on a virtual clock; local: this machine.")
    ] = "paper",
    edge: Annotated[
        str, typer.Option(metavar="PROFILE", help="In place of the paper's edge: a .json of `profile`.")
    ] = EDGE,
    cloud: Annotated[str, typer.Option(metavar="PROFILE", help="Instead of the paper's server, likewise.")] = CLOUD,
    trace: Annotated[
        list[Path] | None, typer.Option(help="CSV of time_s, mbps; may be repeated. Steady links when not given.")
    ] = None,
    mbps: Annotated[str, typer.Option(help="Mean rates of the links in Mbit/s, one for each trace.")] = "130,56,25",
    systems: Annotated[str, typer.Option(help="all, or some of them with / between.")] = "all",
    ablate: Annotated[bool, typer.Option("--ablate", help="Ours with parts left out, too.")] = False,
    cameras: Annotated[str, typer.Option(help="How many share the server.")] = "1",
    frames: Annotated[int, typer.Option(min=2, help="Of each clip measured; as many before them are for tuning.")] = 40,
    rtt_ms: Annotated[float, typer.Option(min=0, help="Round trip of an empty link in milliseconds.")] = 10.0,
    deadline_ms: Annotated[
        float, typer.Option(min=1, help="Milliseconds after which an answer is worth nothing.")
    ] = 100.0,
    crf: Annotated[int | None, typer.Option(min=0, max=51, help="Of H.264, ours and the baseline's.")] = None,
    coarser: Annotated[
        int, typer.Option(min=0, max=51, help="Of H.264, ours: quantiser steps more for what is not salient.")
    ] = 0,
    policy: Annotated[str, typer.Option(metavar="POLICY", help=f"Of ours: {POLICY_HELP}")] = "video",
    rounds: Annotated[int, typer.Option(min=1, help="Of --profile local: plays, of which the quietest counts.")] = 3,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for JSON, Markdown and plots.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ours beside full offload, SPINN, COACH and DeltaCNN over links: latency, agreement, traffic, energy.

    With --profile paper the code that runs for real runs on a virtual clock, on the paper's devices (Table 1) or those
    of --edge and --cloud, and links. With --profile local edge and server are processes of this machine with a shaped
    link between them, and the simulator says beforehand what they will do.
    """
    from fluxcompile.testbed import figures
    from fluxcompile.testbed.network import Trace
    from fluxcompile.testbed.run import ABLATED, SYSTEMS, Experiments, Plan

    need_plots(output)
    rates = [float(word) for word in words(mbps)]
    links = [Trace.constant(rate) for rate in rates] if not trace else _scaled(trace, rates)
    chosen = SYSTEMS if systems == "all" else tuple(word.strip() for word in systems.split("/"))
    if unknown := set(chosen) - set(SYSTEMS):
        raise OptionError(f"--systems: there is no {', '.join(sorted(unknown))}; there are {' / '.join(SYSTEMS)}")
    paths, subjects = _clip_files(clips), [_subject(text, policy) for text in model or [SMALL]]
    if profile == "local":
        _tell_local(subjects, paths, links, (frames, rtt_ms, rounds), output, as_json)
        return
    if profile != "paper":
        raise OptionError(f"--profile is {profile!r}; use paper or local")
    plan = Plan(
        paths, links, chosen, tuple(ABLATED) if ablate else (), [int(n) for n in words(cameras)], frames, rtt_ms, crf,
        coarser, edge, cloud, deadline_ms,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    interrupted = False
    with console.status("") as status:
        try:
            for subject in subjects:
                rows += Experiments(subject, plan, lambda what: status.update(what)).rows()
        except KeyboardInterrupt:
            interrupted = True
    written = figures.write(rows, output) if output is not None and rows else []
    if as_json:
        print_json({"rows": rows})
    else:
        for one in figures.tables(rows):
            console.print(one)
    end(written, interrupted)


def _scaled(traces: list[Path], rates: list[float]) -> list[Any]:
    from fluxcompile.testbed.network import Trace

    if len(traces) != len(rates):
        raise OptionError(f"--mbps has {len(rates)} means for {len(traces)} traces; give one for each")
    return [Trace.read(path).scaled(rate) for path, rate in zip(traces, rates, strict=True)]


def _subject(text: str, policy: str) -> Any:
    """A net by NET=MODEL. A pose net takes crops of persons, which nothing moves."""
    from fluxcompile.testbed.run import Subject

    name, _, source = text.partition("=")
    if not name or not source:
        raise OptionError(f"--model is {text!r}; write yolo11=MODEL or sdpose=MODEL, nets the paper has profiles of")
    net, chosen = opened_net(source, None, None, "auto"), parse_policy(policy)
    if name == "sdpose":
        return Subject(name, net, net.task("heatmaps"), replace(chosen, anchor=False, radius=0), crop=True)
    return Subject(name, net, net.task(), chosen)


def _clip_files(text: str | None) -> list[Path]:
    if text is None:
        from fluxcompile.demo import CLIP, fetch

        return [fetch(CLIP)]
    paths = [path for word in words(text) for path in ([*sorted(Path(word).glob("*.mp4"))] or [Path(word)])]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise OptionError(f"--clips: no such file: {', '.join(missing)}")
    return paths


def _tell_local(
    subjects: list[Any],
    paths: list[Path],
    links: list[Any],
    how: tuple[int, float, int],
    output: Path | None,
    as_json: bool,
) -> None:
    from fluxcompile.testbed.clips import footage
    from fluxcompile.testbed.local import cores, measure

    frames, rtt_ms, rounds = how
    if not cores()[0]:
        tell_notes(["edge and cloud share this machine's cores, which the simulator does not know of"])
    rows = []
    for subject in subjects:
        margin = subject.net.margin if subject.policy.anchor else (0, 0)
        for path in paths:
            clip = footage(path, subject.net, subject.task, 2 * frames, margin=margin, crop=subject.crop)
            for link in links:
                found = measure(subject.net, subject.task, subject.policy, clip, link, rtt_ms, rounds)
                rows += [
                    {"model": subject.name, "clip": path.stem, "mbps": round(link.mean_mbps), **row} for row in found
                ]
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "local.json").write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    if as_json:
        print_json({"rows": rows})
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "clip", "Mbit/s", "places", "measured ms", "predicted ms", "off", "cloud", "predicted"):
        table.add_column(heading, justify="left" if heading in ("model", "clip", "places") else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["model"], row["clip"], str(row["mbps"]), row["places"], f"{row['latency_ms']:.1f}",
            f"{row['predicted_ms']:.1f}", f"{row['off']:+.0%}", f"{row['cloud_share']:.0%}",
            f"{row['predicted_cloud_share']:.0%}",
        )  # fmt: skip
    console.print(table)
