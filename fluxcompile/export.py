"""Writes a program as a bundle for a target: a graph, the plugins' source, scripts that build and run, and the proof.

net.export("jetson-orin", "out/")
fluxcompile export MODEL --target jetson-orin -o out/
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import onnx

from fluxcompile.bundle import FORMAT, Loss, Manifest, Tensor, Work, files_of, write_manifest
from fluxcompile.bundle_graphs import RTX, quantized, write_beside, write_graphs, write_rtx, write_samples
from fluxcompile.errors import ExportError
from fluxcompile.golden import FRAMES, Feed, made_clip, real_clip
from fluxcompile.kernels.plugins import plugin_sources
from fluxcompile.losses import Graph, loss_of, meaning_of
from fluxcompile.memory import estimate, parts_of, require_room
from fluxcompile.options import Policy
from fluxcompile.passes.lower_tensorrt import Lowered, lower_tensorrt
from fluxcompile.passes.trt_writer import OPSET
from fluxcompile.plugin_ops import DOMAIN
from fluxcompile.program import Program
from fluxcompile.rounding import Plan, plan_precision
from fluxcompile.targets import Target, target_of

PACKAGE = Path(__file__).parent
ONBOARD = PACKAGE / "onboard"
"""What is copied into a bundle as it is."""
PRECISIONS = ("fp32", "fp16", "int8")


def export(
    program: Program,
    target: str,
    folder: str | Path,
    *,
    policy: Policy | None = None,
    precision: str = "fp32",
    clip: str | Path | None = None,
    after: Program | None = None,
    frames: int = FRAMES,
    capacity: float | None = None,
    memory_bytes: int | None = None,
    keep: Sequence[str] = (),
) -> Manifest:
    """Write the bundle; the folder is made, or one that holds a bundle is written anew. A crash leaves it as it was.

    policy: the program's own when not given. clip: a video whose frames become the samples and, for int8, give the
    ranges; made-up frames when not given. after: of the cloud's half of a net, the edge's half, through which the clip
    goes first. frames: how many. capacity: also write a graph whose lists have room for this
    share of all tiles and rows, and so a fixed length: nothing waits for the host, and what does not fit runs in the
    other graph. memory_bytes: of the device, where it is not the smallest of its name. keep: modules or layers that
    stay float32 in any precision, besides those that the frames show to need it.

    Raises ExportError for an unknown target or precision, an op without a lowering, a program too large for the device.
    """
    machine, folder = target_of(target), Path(folder)
    policy = policy or Policy(**program.policy)
    policy.require_engine()
    _require(precision, clip, after, capacity, folder)
    radius = None if policy.exact else policy.radius
    lowered = lower_tensorrt(program, radius)
    fixed = None if capacity is None else lower_tensorrt(program, radius, capacity)
    memory = estimate(program, lowered, capacity)
    require_room(memory, machine, memory_bytes or machine.memory_bytes)
    feeds = list(real_clip(program, policy, clip, frames, after) if clip else made_clip(program, policy, frames))
    plan = plan_precision(program, lowered, feeds, precision, keep)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_graphs(part, lowered, plan)
    if fixed:
        write_beside(part, "fixed.onnx", quantized(fixed.without_functions(), plan.ranges))
    if machine.aot:
        write_rtx(part, program, radius, capacity, plan.ranges)
    levels = write_samples(part, program, lowered, feeds)
    program.save(part / "program.flux")
    _copy(part)
    lines = [f"{cache} {value} {int(value in lowered.outputs)}" for cache, value in lowered.caches]
    (part / "caches.txt").write_text("\n".join(lines) + "\n")
    manifest = Manifest(
        format=FORMAT,
        fluxcompile=version("fluxcompile"),
        target=asdict(machine),
        precision=precision,
        opset=OPSET,
        inputs=_inputs(program, lowered, levels, plan),
        frames_in=[i for i in program.graphs["blocked"].inputs if i.role == "input"],
        outputs=_outputs(program, lowered, plan),
        results=lowered.outputs,
        caches=lowered.caches,
        capacity=capacity or 0.0,
        overflow=fixed.overflow if fixed else "",
        work=lowered.work,
        layers=_layers(program, lowered),
        unit=program.plan.rolls.unit if program.plan else [],
        frames=len(feeds),
        template=program.template,
        policy=policy.to_json(),
        plugins=sorted({n.op_type for n in lowered.model.graph.node if n.domain == DOMAIN}),
        kept=plan.kept,
        ranges=plan.ranges,
        loss=_loss(program, lowered, feeds, precision, plan),
        memory=memory,
        licences={
            "scripts, plugins and graph": "Apache-2.0, of fluxcompile",
            "weights.bin, program.flux": "the licence of the model that was compiled",
            "samples.npz": "made up" if clip is None else "the licence of the clip that was given",
        },
        files={},
    )
    (part / "README.md").write_text(_readme(manifest, machine, (part / RTX).is_file()))
    manifest = msgspec.structs.replace(manifest, files=files_of(part))
    write_manifest(part, manifest)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)
    return manifest


def _require(
    precision: str, clip: str | Path | None, after: Program | None, capacity: float | None, folder: Path
) -> None:
    if capacity is not None and not 0 < capacity <= 1:
        raise ExportError(f"capacity is {capacity}; it is a share of all tiles, above 0 and up to 1")
    if precision not in PRECISIONS:
        raise ExportError(f"precision {precision!r} is unknown; there are {', '.join(PRECISIONS)}")
    if precision == "int8" and clip is None:
        raise ExportError("int8 takes its ranges from frames like yours; give a clip")
    if after is not None and clip is None:
        raise ExportError("after: a clip goes through the edge's half first, and there is none; give a clip")
    if folder.exists() and any(folder.iterdir()) and not (folder / "manifest.json").is_file():
        raise ExportError(f"{folder}: holds files that are no bundle; give a new folder")


def _loss(program: Program, lowered: Lowered, feeds: list[Feed], precision: str, plan: Plan) -> Loss:
    if precision == "fp32":
        return Loss()
    models = lowered.model, quantized(lowered.model, plan.ranges)
    exact, near = (Graph(model, lowered.caches, lowered.outputs) for model in models)
    found = loss_of(exact, near.rounded(plan.floats), feeds, meaning_of(program))
    if not np.isfinite(found.rms):
        raise ExportError(
            f"{precision}: results overflow over these frames; keep the layers that make them large float32"
        )
    return found


def _inputs(program: Program, lowered: Lowered, levels: dict[str, int], plan: Plan) -> list[Tensor]:
    roles = {i.name: i.role for i in program.graphs["blocked"].inputs}
    half = half_caches(program, plan)
    return [
        Tensor(v.name, _type(v), _shape(v), roles[v.name], v.name in half, levels.get(v.name, 0))
        for v in lowered.model.graph.input
    ]


def _outputs(program: Program, lowered: Lowered, plan: Plan) -> list[Tensor]:
    half = half_caches(program, plan)
    fed = {value for cache, value in lowered.caches if cache in half}
    return [Tensor(v.name, _type(v), _shape(v), "output", v.name in fed) for v in lowered.model.graph.output]


def _layers(program: Program, lowered: Lowered) -> list[Work]:
    """Each layer with the lists that tell what share of it a frame took; none where it always runs whole."""
    at = {name: i for i, name in enumerate(lowered.lists)}
    lists: dict[int, list[tuple[int, int]]] = {}
    for op in program.graphs["blocked"].ops:
        lists[op.layer] = [(at[name], capacity) for name, capacity in op.lists]
        for inner in op.body.ops if op.body else ():
            lists[inner.layer] = [(at[op.name], 1)]
    return [Work(layer.name, layer.macs, lists.get(i, [])) for i, layer in enumerate(program.layers)]


def half_caches(program: Program, plan: Plan) -> set[str]:
    """Caches that only move before they are laid under fresh tiles, by ops that are not kept in float32.

    The reference image is compared and stays exact.
    """
    graph = program.graphs["blocked"]
    by_name = {op.name: op.op for op in graph.ops}
    images = {cache for cache, value in graph.caches if by_name.get(value) == "flux.merge.default"}
    floats = {i.name for i in graph.inputs if i.role == "cache" and i.dtype == "f32"} - images
    for op in graph.ops:
        if op.op != "flux.motion_reindex.default" or op.name in plan.floats:
            floats -= set(op.reads)
    return floats


def _type(value: onnx.ValueInfoProto) -> str:
    return {1: "f32", 6: "i32", 7: "i64", 9: "b8"}[value.type.tensor_type.elem_type]


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def _copy(folder: Path) -> None:
    for path in ONBOARD.glob("*.*"):
        if path.suffix in (".py", ".cpp"):
            shutil.copyfile(path, folder / path.name)
    for name in ("engine.py", "cudart.py"):
        shutil.copyfile(PACKAGE / "runtime" / name, folder / name)
    for name, path in plugin_sources().items():
        place = folder / "plugin" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _kept(manifest: Manifest) -> str:
    """How many ops have more bits than the rest, for each reason."""
    if manifest.precision == "fp32":
        return "Every number has 32 bits."
    reasons = Counter((k.precision, k.why.partition(":")[0]) for k in manifest.kept.values())
    lines = [f"- {count} in {precision}: {why}" for (precision, why), count in sorted(reasons.items())]
    return "\n".join(
        [f"{len(manifest.ranges)} products read eight bits. These have more than {manifest.precision}:", "", *lines]
    )


def _readme(manifest: Manifest, machine: Target, has_rtx: bool) -> str:
    text = (ONBOARD / "README.md").read_text()
    memory = "\n".join(f"| {k.removesuffix('_bytes')} | {v / 2**20:.0f} |" for k, v in parts_of(manifest.memory))
    return text.format(
        device=machine.device,
        software=machine.software,
        tensorrt=machine.tensorrt,
        cuda=machine.cuda,
        sm=";".join(map(str, machine.sm)),
        interface=machine.interface,
        precision=manifest.precision,
        plugins=", ".join(manifest.plugins),
        caches=len(manifest.caches),
        frames=manifest.frames,
        kept=_kept(manifest),
        rtx=(ONBOARD / "RTX.md").read_text() if has_rtx else "",
        loss=f"{manifest.loss.rms:.1e} of the results' root mean square, {manifest.loss.most:.1e} of the largest value",
        memory=memory,
        total=f"{manifest.memory.total_bytes / 2**20:.0f}",
    )
