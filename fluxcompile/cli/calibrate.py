"""`fluxcompile calibrate`: the policy of least work that agrees well enough."""

from pathlib import Path
from typing import Annotated

import typer

from fluxcompile import options
from fluxcompile.cli.shared import (
    ExampleOption,
    JsonOption,
    ModelArgument,
    PixelsOption,
    TaskOption,
    console,
    end,
    need_plots,
    opened_for_frames,
    print_json,
    progress_bar,
)


def calibrate(
    model: ModelArgument,
    clip: Annotated[
        Path, typer.Argument(metavar="CLIP", help="A clip of the camera; half of it chooses, half of it is the proof.")
    ],
    agreement: Annotated[float, typer.Option(help="What the task's figure must be at least, from 0 to 1.")] = 0.985,
    policy: Annotated[str, typer.Option(metavar="POLICY", help="Where to begin: video, or knobs.")] = "video",
    frames: Annotated[int | None, typer.Option(min=1, help="Of the clip; all when not given.")] = None,
    task: TaskOption = None,
    pixels: PixelsOption = "auto",
    example: ExampleOption = None,
    save: Annotated[Path | None, typer.Option(help="Write the program with the policy that was chosen.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for calibrate.json and the plot.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Pick the policy of least work that still agrees with dense inference on a clip; print what was tried."""
    from fluxcompile.measure import policy_figures
    from fluxcompile.sources import named_task

    need_plots(output)
    net, _, _ = opened_for_frames(model, pixels, example, None)
    with progress_bar() as progress:
        bar = progress.add_task(clip.stem)
        found = net.calibrate(
            clip, agreement, start=options.parse_policy(policy), frames=frames, task=named_task(task),
            on_step=lambda what, done, total: progress.update(bar, description=what, completed=done, total=total),
        )  # fmt: skip
    plain = found.to_json()
    written = policy_figures.write(plain, output, "calibrate") if output is not None else []
    if save is not None and found.policy is not None:
        net.save(save)
        written.append(save)
    if as_json:
        print_json(plain)
    else:
        console.print(policy_figures.calibration_table(plain))
        console.print(policy_figures.held_out(plain), highlight=False)
    end(written, found.interrupted)
