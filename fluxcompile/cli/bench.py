"""`fluxcompile bench`: time against activity, or over real clips, beside dense peers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fluxcompile import options
from fluxcompile.cli.shared import (
    MODEL_HELP,
    POLICY_HELP,
    BackendOption,
    ExampleOption,
    JsonOption,
    PatternOption,
    PixelsOption,
    RoundsOption,
    SeedOption,
    TaskOption,
    WithoutOption,
    backend_of,
    console,
    end,
    frame_size,
    need_plots,
    opened_for_frames,
    opened_net,
    patterns_of,
    print_json,
    progress_bar,
    shapes_of,
    short,
    tell_notes,
    words,
)
from fluxcompile.errors import FluxError, OptionError


def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=MODEL_HELP, show_default=False)],
    activity: Annotated[
        str, typer.Option(metavar="A,B", help="Per cent of the 32-pixel blocks of a frame that are new.")
    ] = "1,5,10,25,50,100",
    pattern: PatternOption = "blobs",
    threads: Annotated[str, typer.Option(metavar="A,B", help="Threads; each number is a benchmark of its own.")] = "1",
    backend: BackendOption = "cpu",
    rounds: RoundsOption = 20,
    peers: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Dense runtimes beside it: openvino, onnxruntime, torch.compile, torch; by default all that are "
            "installed. On cuda: torch-cuda.",
        ),
    ] = None,
    seed: SeedOption = 0,
    clips: Annotated[
        str | None, typer.Option(metavar="DIR|A,B", help="Play these clips instead, a folder of them or files.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY",
            help=f"Of --clips: {POLICY_HELP} video when not given. May be repeated.",
        ),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Of --clips: stop each after so many frames.")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Of --clips: OpenVINO in int8 too, calibrated on the other clips.")
    ] = False,
    task: TaskOption = None,
    pixels: PixelsOption = "auto",
    example: ExampleOption = None,
    without: WithoutOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for bench.json, bench.md and the plot.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time MODEL against the share of a frame that is new, beside OpenVINO, ONNX Runtime and torch, in turns.

    With --clips: streams over real clips, their time beside the fastest dense peer's and how well their results agree
    with dense inference. Several policies are tried in one run.
    """
    from fluxcompile.measure.peers import peers_of
    from fluxcompile.sources import named_task

    if clips is not None:
        policies = [options.parse_policy(text) for text in policy or ["video"]]
        counts = [int(count) for count in _numbers("--threads", threads)]
        knobs: dict[str, Any] = {"frames": frames, "task": named_task(task), "int8": int8}
        knobs["backend"] = backend_of(backend)
        if peers is not None or backend == "cuda":
            knobs["peers"] = peers_of("cuda") if peers is None else words(peers)
        _bench_clips(models, clips, policies, counts, knobs, (pixels, example, without), output, as_json)
        return
    if (policy, frames, task) != (None,) * 3 or int8:
        raise OptionError("--policy, --frames, --task and --int8 need clips: fluxcompile bench MODEL --clips DIR")
    from fluxcompile.measure import bench as _bench
    from fluxcompile.measure import figures

    plans = [
        _bench.Plan(
            tuple(_numbers("--activity", activity)),
            patterns_of(pattern),
            int(count),
            backend_of(backend),
            rounds,
            peers=words(peers) or None,
            seed=seed,
        )
        for count in _numbers("--threads", threads)
    ]
    need_plots(output)
    results: list[dict[str, Any]] = []
    written: list[Path] = []
    interrupted = False
    for model in models:
        name = short(model)
        try:
            net, source = _opened(model, example, without)
            for plan in plans:
                with progress_bar() as progress:
                    task = progress.add_task(name)

                    def on_step(what: str, done: int, total: int, progress: Any = progress, task: Any = task) -> None:
                        progress.update(task, description=f"{name}: {what}", completed=done, total=total)  # noqa: B023

                    measured = _bench.measure(name, net, source, plan, on_step=on_step)
                results.append(measured.to_json())
                interrupted = interrupted or measured.interrupted
                if interrupted:
                    break
        except FluxError as error:
            if len(models) == 1:
                raise
            results.append({"model": name, "error": str(error)})
        except KeyboardInterrupt:
            interrupted = True
        if output is not None and results:
            written = figures.write_bench(results, output)
        if interrupted:
            break
    if as_json:
        print_json(dict(figures.joined(results)))
    else:
        console.print(figures.bench_table(results))
        tell_notes([note for result in results for note in figures.notes(result)])
        whole = [result for result in results if "error" not in result]
        if whole:
            console.print(f"[dim]{figures.machine_line(whole[0])}[/dim]", highlight=False)
    end(written, interrupted, failed=any("error" in result for result in results))


def _bench_clips(
    models: list[str],
    text: str,
    policies: list[options.Policy],
    threads: list[int],
    knobs: dict[str, Any],
    how: tuple[str | None, str | None, str | None],
    output: Path | None,
    as_json: bool,
) -> None:
    """What `bench --clips` does; `how` is --pixels, --example, --without."""
    from fluxcompile.measure import clip_figures
    from fluxcompile.measure import clips as _clips
    from fluxcompile.measure.clip_runs import Plan as ClipPlan
    from fluxcompile.measure.figures import joined

    need_plots(output)
    found = _clips.find_clips(text)
    results: list[dict[str, Any]] = []
    written: list[Path] = []
    for model in models:
        net, source, pixels = opened_for_frames(model, *how)
        frame_size(net, model)
        for count in threads:
            plan = ClipPlan(policies, threads=count, **knobs)
            with progress_bar() as progress:
                bar = progress.add_task(short(model))

                def on_step(what: str, done: int, total: int, progress: Any = progress, bar: Any = bar) -> None:
                    progress.update(bar, description=what, completed=done, total=total)

                made = _clips.measure(short(model), net, source, pixels, found, plan, on_step=on_step)
            results += [result.to_json() for result in made]
            if output is not None:
                written = clip_figures.write_clips(results, output)
            if any(result.interrupted for result in made):
                break
        if results[-1]["interrupted"]:
            break
    whole = [result for result in results if result["clips"]]
    if as_json:
        print_json(dict(joined(results)))
    else:
        for result in whole:
            console.print(clip_figures.clips_table(result))
        if whole:
            console.print(f"[dim]{clip_figures.under(whole[0])}[/dim]", highlight=False)
    tell_notes(list(dict.fromkeys(note for result in results for note in result["notes"])))
    end(written, interrupted=results[-1]["interrupted"])


def _opened(model: str, example: str | None, without: str | None) -> tuple[Any, Any]:
    """Return the net of a model, and what its peers get: a module, a path, None for a compiled program."""
    from fluxcompile import sources

    if model.endswith(".flux"):
        return opened_net(model, example, without, None), None
    with console.status(f"compiling {model}"):
        found = sources.find(model)
        return sources.compile_model(model, found, shapes_of(example), None, without=words(without)), found.module


def _numbers(option: str, text: str) -> list[float]:
    try:
        found = [float(word) for word in words(text)]
    except ValueError:
        found = []
    if not found or (option == "--threads" and not all(number >= 1 and number == int(number) for number in found)):
        raise OptionError(f"{option} is {text!r}; write numbers with commas between them")
    return found
