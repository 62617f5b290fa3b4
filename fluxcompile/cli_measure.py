"""The commands that measure: bench, ablate, calibrate."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fluxcompile import options
from fluxcompile.cli_shared import (
    MODEL_HELP,
    ExampleOption,
    JsonOption,
    ModelArgument,
    PixelsOption,
    TaskOption,
    WithoutOption,
    console,
    end,
    frame_size,
    need_plots,
    opened_for_frames,
    opened_net,
    print_json,
    progress_bar,
    shapes_of,
    short,
    tell_notes,
    words,
)
from fluxcompile.errors import FluxError, OptionError

PatternOption = Annotated[str, typer.Option(metavar="A,B", help="Where it is new: blobs, scattered or both.")]
BackendOption = Annotated[str, typer.Option(help="What runs our program: cpu, reference, or cuda.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="How often each is timed; all take turns in each round.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Other frames, masks and orders.")]


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
            help="Of openvino, onnxruntime, torch.compile, torch; all that are here. On cuda: torch-cuda.",
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
            help="Of --clips: exact, careful, video, bold, or knobs, video,residual=3. May be repeated.",
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
        knobs: dict[str, Any] = {"frames": frames, "backend": _backend(backend), "task": named_task(task), "int8": int8}
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
            _patterns(pattern),
            int(count),
            _backend(backend),
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


def ablate(
    model: ModelArgument,
    passes: Annotated[
        bool, typer.Option("--passes", help="Leave out each optional pass of the compiler in turn.")
    ] = False,
    clips: Annotated[
        str | None, typer.Option(metavar="DIR|A,B", help="Take each part of the policy away in turn on these clips.")
    ] = None,
    policy: Annotated[
        str, typer.Option(help="Of --clips: exact, careful, video, bold, or knobs, video,residual=3.")
    ] = "video",
    frames: Annotated[int | None, typer.Option(min=1, help="Of --clips: stop each after so many frames.")] = None,
    task: TaskOption = None,
    pixels: PixelsOption = "auto",
    activity: Annotated[float, typer.Option(help="Per cent of the 32-pixel blocks of a frame that are new.")] = 10,
    pattern: PatternOption = "blobs",
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 1,
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
            model, clips, whole, (pixels, example), frames, meaning, _backend(backend), threads, output, as_json
        )
        return
    if not passes:
        raise OptionError("say what to leave out: fluxcompile ablate MODEL --passes, or --clips DIR")
    if model.endswith(".flux"):
        raise OptionError(f"{model}: is compiled already, its passes have run; ablate the model it was made of")
    (one,) = _patterns(pattern)[:1]
    plan = Plan((activity,), (one,), threads, _backend(backend), rounds, seed=seed)
    need_plots(output)
    from fluxcompile import pass_names

    found = sources.find(model)
    shapes, names = shapes_of(example), pass_names()
    with progress_bar() as progress:
        task = progress.add_task(short(model), total=1 + len(names))

        def on_row(what: str, done: int) -> None:
            progress.update(task, description=f"{short(model)} without {what}" if what else "", completed=done)

        def compiler(without: Any) -> Any:
            return sources.compile_model(model, found, shapes, None, without)

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


def calibrate(
    model: ModelArgument,
    clip: Annotated[Path, typer.Argument(help="A clip of the camera; half of it chooses, half of it is the proof.")],
    agreement: Annotated[float, typer.Option(help="What the task's figure must be at least, from 0 to 1.")] = 0.985,
    policy: Annotated[str, typer.Option(help="Where to begin: video, or knobs.")] = "video",
    frames: Annotated[int | None, typer.Option(min=1, help="Of the clip; all.")] = None,
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


def _opened(model: str, example: str | None, without: str | None) -> tuple[Any, Any]:
    """Return the net of a model, and what its peers get: a module, a path, None for a compiled program."""
    from fluxcompile import sources

    if model.endswith(".flux"):
        return opened_net(model, example, without, None), None
    with console.status(f"compiling {model}"):
        found = sources.find(model)
        return sources.compile_model(model, found, shapes_of(example), None, words(without)), found.module


def _numbers(option: str, text: str) -> list[float]:
    try:
        found = [float(word) for word in words(text)]
    except ValueError:
        found = []
    if not found or (option == "--threads" and not all(number >= 1 and number == int(number) for number in found)):
        raise OptionError(f"{option} is {text!r}; write numbers with commas between them")
    return found


def _patterns(text: str) -> tuple[str, ...]:
    from fluxcompile.measure.activity import PATTERNS

    return PATTERNS if "both" in words(text) else tuple(dict.fromkeys(words(text)))


def _backend(name: str) -> str:
    from fluxcompile.measure.activity import BACKENDS

    if name not in BACKENDS:
        raise OptionError(f"--backend is {name!r}; use {' or '.join(BACKENDS)}")
    if name == "cuda":
        from fluxcompile.kernels.cuda import cuda_device

        cuda_device()  # or whoever measures hears of it only after a while
    return name
