"""`fluxcompile profile`: how long a model takes on this device."""

from pathlib import Path
from typing import Annotated

import typer

from fluxcompile import options
from fluxcompile.cli.shared import (
    POLICY_HELP,
    ExampleOption,
    JsonOption,
    ModelArgument,
    PixelsOption,
    TaskOption,
    WithoutOption,
    console,
    end,
    opened_for_frames,
    print_json,
    progress_bar,
    short,
    words,
)


def profile(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the profile goes.")] = Path("profile.json"),
    clip: Annotated[
        str | None, typer.Option(metavar="A,B", help="Play these clips; otherwise frames of chosen activity.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help=f"{POLICY_HELP} Of a clip video when not given; else no change spreads."),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Of each clip: stop after so many.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often all is played; the fastest of each frame counts.")] = 4,
    threads: Annotated[int, typer.Option(min=1, help="Of the kernels.")] = 1,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call it; the processor's name when not given.")
    ] = None,
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
    from fluxcompile.measure.machine import machine
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
