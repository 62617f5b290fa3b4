"""`fluxcompile ablate`: what each pass, or each part of a policy, is worth."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fluxcompile import options
from fluxcompile.cli.shared import (
    POLICY_HELP,
    BackendOption,
    ExampleOption,
    JsonOption,
    ModelArgument,
    PatternOption,
    PixelsOption,
    RoundsOption,
    SeedOption,
    TaskOption,
    backend_of,
    console,
    end,
    need_plots,
    opened_for_frames,
    patterns_of,
    print_json,
    progress_bar,
    shapes_of,
    short,
    tell_notes,
)
from fluxcompile.errors import OptionError


def ablate(
    model: ModelArgument,
    passes: Annotated[
        bool, typer.Option("--passes", help="Leave out each optional pass of the compiler in turn.")
    ] = False,
    clips: Annotated[
        str | None, typer.Option(metavar="DIR|A,B", help="Take each part of the policy away in turn on these clips.")
    ] = None,
    policy: Annotated[str, typer.Option(metavar="POLICY", help=f"Of --clips: {POLICY_HELP}")] = "video",
    frames: Annotated[int | None, typer.Option(min=1, help="Of --clips: stop each after so many frames.")] = None,
    task: TaskOption = None,
    pixels: PixelsOption = "auto",
    activity: Annotated[float, typer.Option(help="Per cent of the 32-pixel blocks of a frame that are new.")] = 10,
    pattern: PatternOption = "blobs",
    threads: Annotated[int, typer.Option(min=1, help="Of the kernels.")] = 1,
    backend: BackendOption = "cpu",
    rounds: RoundsOption = 10,
    seed: SeedOption = 0,
    example: ExampleOption = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for ablate.json and the plot.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Leave out each pass of the compiler in turn, or each part of a policy; tell what that costs."""
    from fluxcompile import sources
    from fluxcompile.measure import ablate as _ablate
    from fluxcompile.measure import figures
    from fluxcompile.measure.bench import Plan

    if clips is not None:
        whole, meaning = options.parse_policy(policy), sources.named_task(task)
        _ablate_policy(
            model, clips, whole, (pixels, example), frames, meaning, backend_of(backend), threads, output, as_json
        )
        return
    if not passes:
        raise OptionError("say what to leave out: fluxcompile ablate MODEL --passes, or --clips DIR")
    if model.endswith(".flux"):
        raise OptionError(f"{model}: is compiled already, its passes have run; ablate the model it was made of")
    (one,) = patterns_of(pattern)[:1]
    plan = Plan((activity,), (one,), threads, backend_of(backend), rounds, seed=seed)
    need_plots(output)
    from fluxcompile import pass_names

    found = sources.find(model)
    shapes, names = shapes_of(example), pass_names()
    with progress_bar() as progress:
        task = progress.add_task(short(model), total=1 + len(names))

        def on_row(what: str, done: int) -> None:
            progress.update(task, description=f"{short(model)} without {what}" if what else "", completed=done)

        def compiler(without: Any) -> Any:
            return sources.compile_model(model, found, shapes, None, without=without)

        result = _ablate.ablate(short(model), compiler, names, plan, on_row=on_row)
    plain = result.to_json()
    written = figures.write_ablation(plain, output) if output is not None else []
    if as_json:
        print_json(plain)
    else:
        console.print(figures.ablate_table(plain))
        tell_notes([f"without {row['pass']}: {row['reason']}" for row in plain["rows"] if row["reason"]])
        console.print(f"[dim]{figures.machine_line(plain)}[/dim]", highlight=False)
    end(written, result.interrupted)


def _ablate_policy(
    model: str,
    text: str,
    whole: options.Policy,
    how: tuple[str | None, str | None],
    frames: int | None,
    task: Any,
    backend: str,
    threads: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """What `ablate --clips` does; `how` is --pixels, --example."""
    from fluxcompile.measure import clips as _clips
    from fluxcompile.measure import policy_figures
    from fluxcompile.measure.ablate_policy import rows_of, variants
    from fluxcompile.measure.clip_runs import Plan

    need_plots(output)
    found = _clips.find_clips(text)
    parts = variants(whole)
    net, source, seen = opened_for_frames(model, how[0], how[1], None)
    plan = Plan(tuple(parts.values()), frames=frames, threads=threads, backend=backend, task=task)
    with progress_bar() as progress:
        bar = progress.add_task(short(model))
        results = _clips.measure(
            short(model), net, source, seen, found, plan,
            on_step=lambda what, done, total: progress.update(bar, description=what, completed=done, total=total),
        )  # fmt: skip
    told = [result.to_json() for result in results]
    plain = {k: told[0][k] for k in ("model", "machine", "threads", "backend", "task", "figure", "notes")}
    plain["rows"] = rows_of(list(parts), told)
    written = policy_figures.write(plain, output, "ablate") if output is not None else []
    if as_json:
        print_json(plain)
    else:
        console.print(policy_figures.parts_table(plain))
        tell_notes(plain["notes"])
    end(written, any(result.interrupted for result in results))
