"""The commands about two machines: partition, profile."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fluxcompile import options
from fluxcompile.cli_shared import (
    ExampleOption,
    JsonOption,
    ModelArgument,
    PixelsOption,
    TaskOption,
    WithoutOption,
    console,
    end,
    opened_for_frames,
    opened_net,
    print_json,
    progress_bar,
    short,
    words,
)
from fluxcompile.errors import OptionError

PROFILE_HELP = "a .json of `fluxcompile profile`, or the paper's xavier-nx, rtx-3080 (/yolo11, /sdpose)."


def partition(
    model: ModelArgument,
    at: Annotated[
        str,
        typer.Option(metavar="WHERE", help="auto, edge, cloud, a cut's number, or layers as explain names them: A,B."),
    ] = "auto",
    edge: Annotated[str | None, typer.Option(metavar="PROFILE", help=f"Of the edge: {PROFILE_HELP}")] = None,
    cloud: Annotated[str | None, typer.Option(metavar="PROFILE", help="Of the cloud, likewise.")] = None,
    mbps: Annotated[float | None, typer.Option(help="Megabits a second between them.")] = None,
    rtt_ms: Annotated[float | None, typer.Option(help="Round trip between them, milliseconds; 0.")] = None,
    active: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of a frame's blocks that is computed anew; 0.2.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Of boundary maps: fp32, fp16 or int8, the default.")] = None,
    frame_bytes: Annotated[
        float | None, typer.Option(help="Of a frame as its transport sends it; its active blocks raw by default.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for edge.flux and cloud.flux.")] = None,
    example: ExampleOption = None,
    without: WithoutOption = None,
    pixels: PixelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cut MODEL in two, for an edge device and a cloud, and show what each cut costs."""
    from fluxcompile.runtime.profile import find_profile

    link = {"rtt_ms": rtt_ms, "active": active, "precision": precision, "frame_bytes": frame_bytes}
    known: dict[str, Any] = {k: v for k, v in link.items() if v is not None}
    known |= {k: find_profile(v, short(model)) for k, v in (("edge", edge), ("cloud", cloud)) if v is not None}
    net = opened_net(model, example, without, pixels)
    parts = net.partition(at=_place(at), mbps=mbps, **known)
    written = parts.save(output) if output is not None else []
    if as_json:
        boundary = [{"name": i.name, "shape": i.shape, "layout": i.layout} for i in parts.boundary]
        print_json(parts.explain().to_json() | {"boundary": boundary, "written": [str(path) for path in written]})
        return
    typer.echo(str(parts.explain()))
    end(written, False)


def _place(text: str) -> str | int | list[str]:
    """What `at` says on the command line."""
    if text.isdecimal():
        return int(text)
    names = words(text)
    if not names:
        raise OptionError("--at is empty; use auto, edge, cloud, a number or names of layers")
    return names if len(names) > 1 else names[0]


def profile(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the profile goes.")] = Path("profile.json"),
    clip: Annotated[
        str | None, typer.Option(metavar="A,B", help="Play these clips; otherwise frames of chosen activity.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY", help="exact, careful, video, bold, or knobs. Of a clip, video; else no change spreads."
        ),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Of each clip: stop after so many.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often all is played; the fastest of each frame counts.")] = 4,
    threads: Annotated[int, typer.Option(min=1, help="Of the kernels.")] = 1,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="What to call it; the processor's name.")] = None,
    peers: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Dense runtimes to time: openvino, onnxruntime, torch.compile, torch."),
    ] = None,
    task: TaskOption = None,
    pixels: PixelsOption = "auto",
    example: ExampleOption = None,
    without: WithoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure MODEL on this device: fit T(n) = a n^2 + b n + c over frames' active blocks, and time each layer.

    Of a clip also what looking, encoding and decoding take. With --peers the fastest dense runtime is noted, by which
    `testbed` times those that compute everything.
    """
    from fluxcompile.measure.bench import machine
    from fluxcompile.measure.profiling import ACTIVITIES, DRAWN, fastest_peer, profile_net
    from fluxcompile.sources import named_task

    wanted = policy or (None if clip is None else "video")
    net, source, frames_of = opened_for_frames(model, pixels, example, without)
    peer = None
    if peers is not None:
        with console.status("timing peers"):
            peer = fastest_peer(net, source, frames_of, words(peers), threads)
    clips = words(clip)
    total = (frames and rounds * frames * len(clips)) if clips else rounds * DRAWN * (1 + len(ACTIVITIES))
    with progress_bar() as progress:
        bar = progress.add_task("frames", total=total)
        found = profile_net(
            net,
            device=device or str(machine()["cpu"]),
            name=short(model),
            clips=clips,
            policy=None if wanted is None else options.parse_policy(wanted),
            task=named_task(task),
            frames=frames,
            rounds=rounds,
            threads=threads,
            peer=peer,
            on_step=lambda done: progress.update(bar, completed=done),
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    found.save(output)
    if as_json:
        summary = "device net source block dense_ms a b c residual_ms left_out_ms beside_ms peer peer_ms"
        print_json({name: getattr(found, name) for name in summary.split()} | {"path": str(output)})
        return
    console.print(
        f"T(n) = {found.a:.3g} n² + {found.b:.3g} n + {found.c:.3g} ms, n blocks of {found.block} x {found.block} "
        f"pixels of {found.blocks:g}; a dense frame {found.dense_ms:.2f} ms\n"
        f"off by {found.residual_ms:.2f} ms (rms of {found.num_frames} frames; left out one at a time "
        f"{found.left_out_ms:.2f} ms)",
        highlight=False,
    )
    if found.beside_ms:
        beside = ", ".join(f"{name} {ms:.2f}" for name, ms in found.beside_ms.items())
        console.print(f"beside it, ms: {beside}", highlight=False)
    if found.peer_ms is not None:
        console.print(f"the fastest dense runtime is {found.peer}, {found.peer_ms:.2f} ms", highlight=False)
    end([output], False)
