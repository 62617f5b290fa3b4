"""The `fluxcompile` command: compile, explain, run, demo, bench, ablate. Torch is imported when a command needs it."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from fluxcompile import options
from fluxcompile.errors import FluxError, OptionError

if TYPE_CHECKING:
    from fluxcompile.play import Playback, Setting
    from fluxcompile.runtime.report import Run
    from fluxcompile.runtime.video import Image, Placement

EXTRAS = {
    "torch": "compile",
    "onnx": "onnx",
    "av": "video",
    "cv2": "video",
    "timm": "zoo",
    "torchvision": "zoo",
    "ultralytics": "ultralytics",
    "jinja2": "report",
    "matplotlib": "bench",
    "nncf": "int8",
    "onnxruntime": "bench",
    "openvino": "bench",
}
"""The extra that brings a package that is not always there."""

app = typer.Typer(
    name="fluxcompile",
    help="Compile a vision model into a program for video that recomputes only what changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
console = Console(stderr=True)  # tables and progress; stdout is for --json and for text that is piped on

MODEL_HELP = "A .flux, .onnx, .pt2 or Ultralytics .pt file, zoo:NAME, or package.module:callable."
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
ExampleOption = Annotated[
    str | None,
    typer.Option(metavar="SHAPE", help="Shape of the input, 1x3x640x640; several with commas. Files know theirs."),
]
WithoutOption = Annotated[str | None, typer.Option(metavar="A,B", help="Passes to leave out, by name.")]
PixelsOption = Annotated[
    str | None,
    typer.Option(metavar="HOW", help="How camera pixels become input: unit (0 to 1), imagenet, raw (0 to 255), auto."),
]
PatternOption = Annotated[str, typer.Option(metavar="A,B", help="Where it is new: blobs, scattered or both.")]
TaskOption = Annotated[
    str | None,
    typer.Option(help="Of clips: detect, instances, keypoints, segment, classify, depth, regress; or guessed."),
]
BackendOption = Annotated[str, typer.Option(help="What runs our program: cpu or reference.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="How often each is timed; all take turns in each round.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Other frames, masks and orders.")]


@app.command("compile")
def compile_(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the program goes.")] = Path("net.flux"),
    example: ExampleOption = None,
    without: WithoutOption = None,
    pixels: PixelsOption = None,
    attention: Annotated[
        str, typer.Option(help="How global attention is recomputed: exact, incremental or active.")
    ] = "exact",
    as_json: JsonOption = False,
) -> None:
    """Compile MODEL and save the program. With --pixels it takes camera frames, without it tensors."""
    net = _net(model, example, without, pixels, attention)
    output.parent.mkdir(parents=True, exist_ok=True)
    net.save(output)
    explained = net.explain().to_json()
    if as_json:
        _print_json(
            {"path": str(output), "bytes": _bytes(output), "input_shapes": net.input_shapes} | _summary(explained)
        )
        return
    shapes = ", ".join("x".join(map(str, shape)) for shape in net.input_shapes)
    table = _plain_table()
    table.add_row("program", f"{output} ({_bytes(output) / 1e6:.1f} MB)")
    table.add_row("input", shapes)
    table.add_row("layers", str(len(explained["layers"])))
    table.add_row("MACs a dense frame", f"{explained['total_macs']:,}")
    table.add_row("in layers that can reuse", f"{explained['blocked_mac_share']:.1%}")
    console.print(table)


@app.command()
def explain(
    model: ModelArgument,
    example: ExampleOption = None,
    without: WithoutOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show the steps of the CPU's plan instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show each layer of MODEL: its domain, its form, its cost, and why it stays dense."""
    net = _net(model, example, without, None)
    explained = net.explain()
    if plan and net.program.plan is None:
        raise OptionError(f"{model}: has no plan for the CPU; its kernels take float32 and uint8 images")
    if plan:
        steps = net.program.plan.text()
        _print_json({"steps": steps.splitlines()}) if as_json else typer.echo(steps)
    elif as_json:
        _print_json(explained.to_json())
    else:
        typer.echo(str(explained))


@app.command()
def run(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="A video file, rtsp:// address or camera index.")],
    model: Annotated[str, typer.Option("-m", "--model", metavar="MODEL", help=MODEL_HELP, show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Annotated mp4.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML page about the run.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    start: Annotated[int, typer.Option(min=0, help="Skip so many frames first.")] = 0,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="POLICY", help="exact (the default), video, or knobs, video,residual=3. May be repeated."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What the outputs mean: detect, segment, ...; guessed from their shapes.")
    ] = None,
    compare: Annotated[bool, typer.Option(help="Also run dense inference, and tell how well they agree.")] = True,
    example: ExampleOption = None,
    without: WithoutOption = None,
    pixels: PixelsOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Play CLIP through MODEL; tell how much was recomputed and how far the outputs are from dense inference.

    Several policies are played side by side.
    """
    from fluxcompile.pages import run_of
    from fluxcompile.runtime.report import write
    from fluxcompile.runtime.video import Writer, probe
    from fluxcompile.tasks import task_of

    about = probe(clip)
    net = _net(model, example, without, pixels)
    height, width = _frame_size(net, model)
    settings = _settings(policy or ["exact"])
    margin = net.margin if any(setting.policy.anchor for setting in settings) else (0, 0)
    meaning = task_of([], task) if task else None
    total = about.num_frames and min(about.num_frames - start, frames or about.num_frames)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(output, about.fps) if output else None
    try:
        fitted = _fitted(clip, (height, width), margin, start, frames)
        asked = {"compare": compare, "task": meaning, "time_layers": report is not None}
        playback = _play(net, fitted, settings, total or frames, writer=writer, **asked)
    finally:
        if writer is not None:
            writer.close()
    if not playback.num_frames and not playback.interrupted:
        raise OptionError(f"{clip}: no frame to play; it has {about.num_frames}, --start is {start}")
    made = run_of(
        net,
        playback,
        title=f"{Path(model).name} on {Path(clip).name}",
        model=model,
        clip=Path(clip).name,
        size=(height, width),
        video=output,
    )
    if report is not None and playback.num_frames:
        write(made, report)
    written = [path for path in (output, report) if path is not None and path.exists()]
    tell(made, written, as_json)
    if playback.interrupted:
        raise typer.Exit(130)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("out/demo"),
    frames: Annotated[int, typer.Option(min=1, help="Stop after so many frames; the clip has 120.")] = 60,
    as_json: JsonOption = False,
) -> None:
    """Find faces in a real clip with real weights: dense, exact and approximate side by side."""
    from fluxcompile import demo as _demo

    console.print("[dim]CenterFace on the clip carphone: fetching, compiling, playing[/dim]", highlight=False)
    made, written = _demo.play_demo(output, frames, _play)
    tell(made, written, as_json)
    if made.interrupted:
        raise typer.Exit(130)


@app.command()
def zoo(
    names: Annotated[list[str] | None, typer.Argument(help="Models: a zoo entry, torchvision/NAME, timm/NAME.")] = None,
    packages: Annotated[
        str, typer.Option("--from", metavar="A,B", help="Whose models, where none are named: zoo, torchvision, timm.")
    ] = "zoo",
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep each row in FILE, and go on from what stands there.")
    ] = None,
    backend: Annotated[str, typer.Option(help="What runs the streams: reference or cpu.")] = "reference",
    as_json: JsonOption = False,
) -> None:
    """Compile architectures with random weights and hold exact streams against dense inference over a moving clip."""
    from fluxcompile.sweep import Row, names_from, summary, sweep

    wanted = names or names_from(_words(packages))
    with _bar() as progress:
        task = progress.add_task("models", total=len(wanted))

        def on_row(row: Row) -> None:
            progress.update(task, advance=1, description=row.name)

        rows = sweep(wanted, backend=backend, resume=resume, on_row=on_row)
    told = summary(rows)
    if as_json:
        _print_json(told)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    for heading in ("blocked MACs", "max error", "work"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why not all")
    for row in rows:
        error = "-" if row.max_relative_error is None else f"{row.max_relative_error:.1e}"
        share, work = (f"{row.blocked_mac_share:.1%}", f"{row.work_share:.1%}") if row.captured else ("-", "-")
        table.add_row(row.name, share, error, work, row.reason or "; ".join(row.dense))
    console.print(table)
    console.print(
        f"{told['captured']} of {len(rows)} captured, {told['blocked_95']} with 95 % of the work or more in blocked "
        f"form, {told['exact']} equal to dense within 1e-4 of the output's range",
        highlight=False,
    )


@app.command()
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
        typer.Option(metavar="A,B", help="Of openvino, onnxruntime, torch.compile, torch; all that are here."),
    ] = None,
    seed: SeedOption = 0,
    clips: Annotated[
        str | None, typer.Option(metavar="DIR|A,B", help="Play these clips instead, a folder of them or files.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="POLICY", help="Of --clips: exact, video, or knobs, video,residual=3. May be repeated."),
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
    if clips is not None:
        policies = [options.parse_policy(text) for text in policy or ["video"]]
        counts = [int(count) for count in _numbers("--threads", threads)]
        knobs: dict[str, Any] = {"frames": frames, "backend": _backend(backend), "task": task, "int8": int8}
        knobs |= {"peers": _words(peers)} if peers is not None else {}
        _bench_clips(models, clips, policies, counts, knobs, (pixels, example, without), output, as_json)
        return
    if (policy, frames, task) != (None,) * 3 or int8:
        raise OptionError("--policy, --frames, --task and --int8 need clips: fluxcompile bench MODEL --clips DIR")
    from fluxcompile import bench as _bench
    from fluxcompile import figures

    plans = [
        _bench.Plan(
            tuple(_numbers("--activity", activity)),
            _patterns(pattern),
            int(count),
            _backend(backend),
            rounds,
            peers=_words(peers) or None,
            seed=seed,
        )
        for count in _numbers("--threads", threads)
    ]
    if output is not None:
        import matplotlib  # noqa: F401  # missing, it should be missed now and not when all is measured
    results: list[dict[str, Any]] = []
    written: list[Path] = []
    interrupted = False
    for model in models:
        name = _short(model)
        try:
            net, source = _opened(model, example, without)
            for plan in plans:
                with _bar() as progress:
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
        _print_json(dict(figures.joined(results)))
    else:
        console.print(figures.bench_table(results))
        _notes([note for result in results for note in figures.notes(result)])
        whole = [result for result in results if "error" not in result]
        if whole:
            console.print(f"[dim]{figures.machine_line(whole[0])}[/dim]", highlight=False)
    _end(written, interrupted, failed=any("error" in result for result in results))


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
    from fluxcompile import clip_figures
    from fluxcompile import clips as _clips
    from fluxcompile.clip_runs import Plan as ClipPlan
    from fluxcompile.figures import joined

    if output is not None:
        import matplotlib  # noqa: F401  # the same
    found = _clips.find_clips(text)
    results: list[dict[str, Any]] = []
    written: list[Path] = []
    for model in models:
        net, source, pixels = _opened_for_frames(model, *how)
        _frame_size(net, model)
        for count in threads:
            plan = ClipPlan(policies, threads=count, **knobs)
            with _bar() as progress:
                bar = progress.add_task(_short(model))

                def on_step(what: str, done: int, total: int, progress: Any = progress, bar: Any = bar) -> None:
                    progress.update(bar, description=what, completed=done, total=total)

                made = _clips.measure(_short(model), net, source, pixels, found, plan, on_step=on_step)
            results += [result.to_json() for result in made]
            if output is not None:
                written = clip_figures.write_clips(results, output)
            if any(result.interrupted for result in made):
                break
        if results[-1]["interrupted"]:
            break
    whole = [result for result in results if result["clips"]]
    if as_json:
        _print_json(dict(joined(results)))
    else:
        for result in whole:
            console.print(clip_figures.clips_table(result))
        if whole:
            console.print(f"[dim]{clip_figures.under(whole[0])}[/dim]", highlight=False)
    _notes(list(dict.fromkeys(note for result in results for note in result["notes"])))
    _end(written, interrupted=results[-1]["interrupted"])


@app.command()
def ablate(
    model: ModelArgument,
    passes: Annotated[
        bool, typer.Option("--passes", help="Leave out each optional pass of the compiler in turn.")
    ] = False,
    clips: Annotated[
        str | None, typer.Option(metavar="DIR|A,B", help="Take each part of the policy away in turn on these clips.")
    ] = None,
    policy: Annotated[str, typer.Option(help="Of --clips: exact, video, or knobs, video,residual=3.")] = "video",
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
    from fluxcompile import ablate as _ablate
    from fluxcompile import figures, sources
    from fluxcompile.bench import Plan

    if clips is not None:
        whole = options.parse_policy(policy)
        _ablate_policy(
            model, clips, whole, (pixels, example), frames, task, _backend(backend), threads, output, as_json
        )
        return
    if not passes:
        raise OptionError("say what to leave out: fluxcompile ablate MODEL --passes, or --clips DIR")
    if model.endswith(".flux"):
        raise OptionError(f"{model}: is compiled already, its passes have run; ablate the model it was made of")
    (one,) = _patterns(pattern)[:1]
    plan = Plan((activity,), (one,), threads, _backend(backend), rounds, seed=seed)
    if output is not None:
        import matplotlib  # noqa: F401  # the same
    from fluxcompile import pass_names

    found = sources.find(model)
    shapes, names = _shapes(example), pass_names()
    with _bar() as progress:
        task = progress.add_task(_short(model), total=1 + len(names))

        def on_row(what: str, done: int) -> None:
            progress.update(task, description=f"{_short(model)} without {what}" if what else "", completed=done)

        def compiler(without: Any) -> Any:
            return sources.compile_model(model, found, shapes, None, without)

        result = _ablate.ablate(_short(model), compiler, names, plan, on_row=on_row)
    plain = result.to_json()
    written = figures.write_ablation(plain, output) if output is not None else []
    if as_json:
        _print_json(plain)
    else:
        console.print(figures.ablate_table(plain))
        _notes([f"without {row['pass']}: {row['reason']}" for row in plain["rows"] if row["reason"]])
        console.print(f"[dim]{figures.machine_line(plain)}[/dim]", highlight=False)
    _end(written, result.interrupted)


def _ablate_policy(
    model: str,
    text: str,
    whole: options.Policy,
    how: tuple[str | None, str | None],
    frames: int | None,
    task: str | None,
    backend: str,
    threads: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """What `ablate --clips` does; `how` is --pixels, --example."""
    from fluxcompile import clips as _clips
    from fluxcompile import policy_figures
    from fluxcompile.ablate_policy import rows_of, variants
    from fluxcompile.clip_runs import Plan

    found = _clips.find_clips(text)
    parts = variants(whole)
    net, source, seen = _opened_for_frames(model, how[0], how[1], None)
    plan = Plan(tuple(parts.values()), frames=frames, threads=threads, backend=backend, task=task)
    with _bar() as progress:
        bar = progress.add_task(_short(model))
        results = _clips.measure(
            _short(model), net, source, seen, found, plan,
            on_step=lambda what, done, total: progress.update(bar, description=what, completed=done, total=total),
        )  # fmt: skip
    told = [result.to_json() for result in results]
    plain = {**{k: told[0][k] for k in ("model", "machine", "threads", "backend", "task", "figure", "notes")}}
    plain["rows"] = rows_of(list(parts), told)
    written = policy_figures.write(plain, output, "ablate") if output is not None else []
    if as_json:
        _print_json(plain)
    else:
        console.print(policy_figures.parts_table(plain))
        _notes(plain["notes"])
    _end(written, any(result.interrupted for result in results))


@app.command()
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
    from fluxcompile import policy_figures
    from fluxcompile.calibrate import calibrate as pick

    net, _, _ = _opened_for_frames(model, pixels, example, None)
    with _bar() as progress:
        bar = progress.add_task(clip.stem)
        found = pick(
            net, clip, agreement, start=options.parse_policy(policy), frames=frames, task=task,
            on_step=lambda what, done, total: progress.update(bar, description=what, completed=done, total=total),
        )  # fmt: skip
    plain = found.to_json()
    written = policy_figures.write(plain, output, "calibrate") if output is not None else []
    if save is not None and found.policy is not None:
        net.program.policy = found.policy.to_json()
        net.save(save)
        written.append(save)
    if as_json:
        _print_json(plain)
    else:
        console.print(policy_figures.calibration_table(plain))
        console.print(policy_figures.held_out(plain), highlight=False)
    _end(written, found.interrupted)


def main() -> None:
    """Run the command; our own errors are one message and exit code 2, a traceback only under FLUX_LOG=debug."""
    debug = False
    try:
        level = options.log_level()
        debug = level <= logging.DEBUG
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("fluxcompile").setLevel(level)
        app()
    except FluxError as error:
        _fail(str(error), debug)
    except OSError as error:  # a folder that cannot be made, a disk that is full
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), debug)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        _fail(f"this needs {package}: pip install 'fluxcompile[{EXTRAS[package]}]'", debug)


def tell(made: "Run", written: list[Path], as_json: bool) -> None:
    """Print what a run found, and where its files are."""
    if as_json:
        rows = [
            {
                "setting": setting.name,
                "knobs": setting.knobs,
                "work_share": setting.mean_share,
                "agreement": setting.agreement,
                "max_error": setting.max_error,
                "ms_per_frame": setting.ms_per_frame,
                "frames": len(setting.work_share),
                "work_share_per_frame": setting.work_share,
            }
            for setting in made.settings
        ]
        _print_json(
            {
                "model": made.model,
                "clip": made.clip,
                "agreement": made.agreement_name,
                "settings": rows,
                "notes": made.notes,
                "interrupted": made.interrupted,
                "files": [str(path) for path in written],
            }
        )
        return
    table = Table(title=made.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting")
    for heading in ("work", made.agreement_name, "max error", "ms/frame", "frames"):
        table.add_column(heading, justify="right", no_wrap=True)
    for setting in made.settings:
        table.add_row(
            f"{setting.name}\n[dim]{setting.knobs}[/dim]" if setting.knobs else setting.name,
            f"{setting.mean_share:.1%}",
            "-" if setting.agreement is None else f"{setting.agreement:.3f}",
            "-" if setting.max_error is None else f"{setting.max_error:.1e}" if setting.max_error else "0",
            "-" if setting.ms_per_frame is None else f"{setting.ms_per_frame:.1f}",
            str(len(setting.work_share)),
        )
    console.print(table)
    for note in made.notes:
        console.print(f"[yellow]note:[/yellow] {note}", highlight=False)
    if made.interrupted:
        console.print("[yellow]stopped early;[/yellow] what was done is kept")
    for path in written:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _opened(model: str, example: str | None, without: str | None) -> tuple[Any, Any]:
    """Return the net of a model, and what its peers get: a module, a path, None for a compiled program."""
    from fluxcompile import sources

    if model.endswith(".flux"):
        return _net(model, example, without, None), None
    with console.status(f"compiling {model}"):
        found = sources.find(model)
        return sources.compile_model(model, found, _shapes(example), None, _words(without)), found.module


def _opened_for_frames(
    model: str, pixels: str | None, example: str | None, without: str | None
) -> tuple[Any, Any, options.Frames | None]:
    """Return a net that takes camera frames, what its peers get, and how pixels become the model's input."""
    from fluxcompile import sources

    if model.endswith(".flux"):
        return _net(model, example, without, None), None, None
    if pixels not in (*sources.PIXELS, "auto"):
        raise OptionError(f"--pixels is {pixels!r}; use one of {', '.join(sources.PIXELS)}, auto")
    with console.status(f"compiling {model}"):
        found = sources.find(model)
        name = found.pixels if pixels == "auto" else pixels
        net = sources.compile_model(model, found, _shapes(example), name, _words(without))
    return net, found.module, sources.PIXELS[name]


def _bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _short(model: str) -> str:
    """What a model is called in tables."""
    return model.removeprefix("zoo:") if ":" in model else Path(model).stem


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _numbers(option: str, text: str) -> list[float]:
    try:
        found = [float(word) for word in _words(text)]
    except ValueError:
        found = []
    if not found or (option == "--threads" and not all(number >= 1 and number == int(number) for number in found)):
        raise OptionError(f"{option} is {text!r}; write numbers with commas between them")
    return found


def _patterns(text: str) -> tuple[str, ...]:
    from fluxcompile.activity import PATTERNS

    return PATTERNS if "both" in _words(text) else tuple(dict.fromkeys(_words(text)))


def _backend(name: str) -> str:
    from fluxcompile.activity import BACKENDS

    if name not in BACKENDS:
        raise OptionError(f"--backend is {name!r}; use {' or '.join(BACKENDS)}")
    return name


def _notes(notes: list[str]) -> None:
    for note in notes:
        console.print(f"[yellow]note:[/yellow] {note}", highlight=False)


def _end(written: list[Path], interrupted: bool, failed: bool = False) -> None:
    for path in written:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    if interrupted:
        console.print("[yellow]stopped early;[/yellow] what was done is kept")
    if interrupted or failed:
        raise typer.Exit(130 if interrupted else 1)


def _net(model: str, example: str | None, without: str | None, pixels: str | None, attention: str = "exact") -> Any:
    from fluxcompile import sources

    if pixels is not None and pixels not in (*sources.PIXELS, "auto"):
        raise OptionError(f"--pixels is {pixels!r}; use one of {', '.join(sources.PIXELS)}, auto")
    with console.status(f"compiling {model}"):
        return sources.net_of(model, _shapes(example), pixels, _words(without), attention)


def _shapes(text: str | None) -> list[tuple[int, ...]] | None:
    if text is None:
        return None
    try:
        shapes = [tuple(int(side) for side in shape.lower().split("x")) for shape in text.split(",")]
    except ValueError:
        shapes = []
    if not shapes or any(side < 1 for shape in shapes for side in shape):
        raise OptionError(f"--example is {text!r}; write a shape as 1x3x640x640, several with commas")
    return shapes


def _frame_size(net: Any, model: str) -> tuple[int, int]:
    """Return height and width of the frames that a net takes."""
    match [tuple(shape) for shape in net.input_shapes]:
        case [(height, width, 3)]:
            return int(height), int(width)
        case [(1, 3, _, _)]:
            raise OptionError(f"{model}: was compiled to take tensors; for video, compile it again with --pixels unit")
        case shapes:
            raise OptionError(f"{model}: takes {shapes}; `run` plays video through nets with one RGB image as input")


def _settings(policies: list[str]) -> "list[Setting]":
    """A setting for each policy, named by the word it begins from."""
    from fluxcompile.play import Setting

    found = []
    for text in policies:
        policy, first = options.parse_policy(text), text.split(",")[0].strip()
        found.append(Setting(first if "=" not in first else "approximate", policy))
    return found


def _fitted(
    clip: str, size: tuple[int, int], margin: tuple[int, int], start: int, count: int | None
) -> "Iterator[tuple[Image, Placement]]":
    from fluxcompile.runtime.video import fit, frames

    for image in frames(clip, start=start, count=count):
        yield fit(image, *size, margin=margin)


def _play(net: Any, fitted: Any, settings: "list[Setting]", total: int | None, **options: Any) -> "Playback":
    """Play with a progress bar that shows the share of work so far."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from fluxcompile.play import play

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shares]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("frames", total=total, shares="")

        def on_frame(playback: "Playback") -> None:
            shares = "  ".join(f"{track.name} {track.work_share[-1]:.0%}" for track in playback.tracks)
            progress.update(task, completed=playback.num_frames, shares=shares)

        return play(net, fitted, settings, on_frame=on_frame, **options)


def _summary(explained: dict[str, Any]) -> dict[str, Any]:
    shares = {key: explained[key] for key in ("total_macs", "blocked_mac_share")}
    return {"layers": len(explained["layers"])} | shares


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _plain_table() -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    return table


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def _fail(message: str, debug: bool) -> None:
    if debug:
        console.print_exception()
    console.print("[bold red]error:[/bold red] ", end="")
    console.print(message, highlight=False, markup=False, soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
