"""The checks of a bundle, one by one: each says what it found, or raises Failed or Skipped with the reason."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import load_external_data_for_model

from fluxcompile.bindings import names_in, names_of, names_used
from fluxcompile.bundle import Manifest, broken_files, read_manifest
from fluxcompile.bundle_graphs import RTX, plugin_graph
from fluxcompile.errors import EngineError, in_a_line
from fluxcompile.golden import Feed, Golden, Reference, apart, real_clip
from fluxcompile.kernels import nvrtc
from fluxcompile.options import Policy
from fluxcompile.passes.build_rtx_engine import build_rtx_engine, tensorrt_rtx
from fluxcompile.plugin_ops import DOMAIN, PLUGIN_OPS, VERSION
from fluxcompile.program import Program, load_program

TOLERANCE = 1e-4
"""Of the largest value of an output: two float32 backends apart."""
CACHE_TOLERANCE = 1e-3
"""The same of a map deep in a net, where sums cancel."""
SCRIPTS = ("build_engine.py", "builder_tensorrt.py", "builder_rtx.py", "run.py", "engine.py", "cudart.py")


class Skipped(Exception):
    """A check cannot be made here, for a reason."""


class Failed(Exception):
    """A check found a fault."""

    def __init__(self, detail: str, figures: dict[str, float] | None = None) -> None:
        super().__init__(detail)
        self.figures = figures or {}


@dataclass(frozen=True)
class Found:
    """What a check found, in words and in numbers."""

    detail: str
    figures: dict[str, float] = field(default_factory=dict)


class Case:
    """A bundle under check.

    bindings: folders of TensorRT's Python bindings by version. task: what outputs mean, if their shapes do not say it.
    """

    def __init__(self, folder: Path, clip: Path | None, bindings: dict[str, Path], task: str | None = None) -> None:
        self.folder, self.clip, self.bindings, self.task = folder, clip, bindings, task

    @cached_property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder)

    @cached_property
    def program(self) -> Program:
        return load_program(self.folder / "program.flux")

    @cached_property
    def policy(self) -> Policy:
        return Policy(**self.manifest.policy)

    @property
    def radius(self) -> int | None:
        return None if self.policy.exact else self.policy.radius

    def feeds(self) -> Iterator[Feed]:
        """Frames of the clip, or the samples."""
        if self.clip is not None:
            yield from real_clip(self.program, self.policy, self.clip)
            return
        with np.load(self.folder / "samples.npz") as kept:
            for at in range(self.manifest.frames):
                feed = {t.name: kept[f"{t.name}.{at}"] for t in self.manifest.inputs if t.role != "cache"}
                levels = {t.name: t.levels for t in self.manifest.inputs if t.levels}
                yield feed | {n: feed[n].astype(np.float32) / np.float32(v) for n, v in levels.items()}

    def graph(self, name: str) -> onnx.ModelProto:
        try:
            return onnx.load(str(self.folder / name), load_external_data=False)
        except Exception as e:
            raise Failed(f"{name} is no ONNX file, or a truncated one ({in_a_line(e)})") from e

    def with_weights(self, name: str) -> onnx.ModelProto:
        model = self.graph(name)
        load_external_data_for_model(model, str(self.folder))
        return model

    def with_functions(self, name: str) -> onnx.ModelProto:
        """A graph with its weights, which ONNX Runtime can run."""
        model = self.with_weights(name)
        if not model.functions and any(node.domain == DOMAIN for node in model.graph.node):
            model.functions.extend(self.graph("golden.onnx").functions)
        return model


def whole(case: Case) -> str:
    broken = broken_files(case.folder, case.manifest)
    if broken:
        raise Failed("; ".join(broken))
    return f"{len(case.manifest.files)} files"


def golden_equals_reference(case: Case) -> Found:
    manifest = case.manifest
    golden = Golden(case.folder / "golden.onnx", manifest.caches, manifest.results)
    reference = Reference(case.program, case.radius)
    outputs = caches = 0.0
    moved, count = False, 0
    for feed in case.feeds():
        outputs = max(outputs, *map(apart, golden(feed), reference(feed)))
        kept = ((golden.caches[name], value.numpy()) for name, value in reference.caches.items())
        caches = max([caches, *(apart(got, want.astype(np.float32)) for got, want in kept)])
        moved |= any(feed[t.name].any() for t in manifest.inputs if t.role == "motion")
        count += 1
    found = (
        f"{count} frames, caches {'moved' if moved else 'never moved'}; outputs at most {outputs:.1e} of the largest "
        f"value apart, caches {caches:.1e}"
    )
    figures = {"frames": count, "moved": moved, "outputs": outputs, "caches": caches}
    if not (outputs <= TOLERANCE and caches <= CACHE_TOLERANCE):
        raise Failed(f"{found}; allowed are {TOLERANCE:.0e} and {CACHE_TOLERANCE:.0e}", figures)
    return Found(found, figures)


def samples_are_golden(case: Case) -> str:
    manifest = case.manifest
    golden = Golden(case.folder / "golden.onnx", manifest.caches, manifest.results)
    samples = Case(case.folder, None, {})
    with np.load(case.folder / "samples.npz") as kept:
        worst = 0.0
        for at, feed in enumerate(samples.feeds()):
            for name, value in zip(manifest.results, golden(feed), strict=True):
                worst = max(worst, apart(value, kept[f"{name}.{at}"]))
    if not worst <= TOLERANCE:
        raise Failed(f"samples differ from golden.onnx by {worst:.1e} of the largest value")
    return f"{manifest.frames} frames, at most {worst:.1e} apart"


def equals_golden(name: str) -> Callable[[Case], str]:
    """Frame by frame from plugin.onnx's caches, as a session runs it; in float32 that is golden.onnx."""

    def run(case: Case) -> str:
        manifest = case.manifest
        model = case.with_functions(name)
        for node in model.graph.node:
            if node.domain == DOMAIN:
                _require_ports(node)
        flags = {o.name for o in model.graph.output} & {manifest.overflow}
        other = Golden(model.SerializeToString(), manifest.caches, [*manifest.results, *flags])
        golden = Golden(case.with_functions("plugin.onnx").SerializeToString(), manifest.caches, manifest.results)
        worst, fitted, count = 0.0, 0, 0
        for feed in case.feeds():
            count += 1
            other.caches = golden.caches
            found, wanted = other(feed), golden(feed)
            if flags and found[-1].any():
                continue
            fitted += 1
            caches = [apart(value, golden.caches[key]) for key, value in other.caches.items()]
            worst = max([worst, *map(apart, found, wanted), *caches])
        if not fitted or not worst <= TOLERANCE:
            raise Failed(f"{fitted} of {count} frames fit {name}, {worst:.1e} of the largest value from golden.onnx")
        return f"{fitted} of {count} frames fit, at most {worst:.1e} apart"

    return run


def plugin_is_golden_without_functions(case: Case) -> str:
    golden, plugin = case.graph("golden.onnx"), case.graph("plugin.onnx")
    if plugin.functions:
        raise Failed("plugin.onnx still has functions")
    bodies = {f.name for f in golden.functions}
    if plugin_graph(golden, case.manifest.ranges, case.folder) != plugin:
        raise Failed("plugin.onnx and golden.onnx differ in more than the functions and the manifest's ranges")
    used = [n for n in plugin.graph.node if n.domain == DOMAIN]
    for node in used:
        _require_ports(node)
    kinds = {n.op_type for n in used}
    if not kinds <= bodies or kinds != set(case.manifest.plugins):
        raise Failed(f"plugins {sorted(kinds)} are used, bodies are {sorted(bodies)}")
    return f"{len(plugin.graph.node)} nodes, {len(used)} of them plugins: {', '.join(sorted(kinds))}"


def _require_ports(node: onnx.NodeProto) -> None:
    op = PLUGIN_OPS.get(node.op_type)
    if op is None:
        raise Failed(f"{node.name}: {node.op_type} is no plugin")
    given = {a.name for a in node.attribute}
    if given != {*op.attributes, "plugin_version", "plugin_namespace"}:
        raise Failed(f"{node.name}: attributes are {sorted(given)}, {node.op_type} takes {sorted(op.attributes)}")
    version = next(a.s.decode() for a in node.attribute if a.name == "plugin_version")
    if version != VERSION or len(node.input) != len(op.inputs) or len(node.output) != len(op.outputs):
        raise Failed(f"{node.name}: is not {node.op_type} version {VERSION} with the ports of plugin_ops")


def plugin_source_matches(case: Case) -> str:
    """The plugins' table and the graph name the same ops."""
    folder = case.folder / "plugin" / "ops"
    declared = {m for p in folder.glob("*.cpp") for m in re.findall(r'Op op = \{\s*"(\w+)"', p.read_text())}
    missing = sorted(set(case.manifest.plugins) - declared)
    if missing:
        raise Failed(f"plugin/ has no source of {', '.join(missing)}")
    return f"source of {', '.join(case.manifest.plugins)}"


def kernels_compile(case: Case) -> str:
    wanted = case.manifest.target["sm"]
    compilers = [nvrtc.Nvrtc(path) for path in nvrtc.libraries()]
    pairs = [(one, sm) for one in compilers for sm in wanted if sm in one.architectures]
    if not pairs:
        names = ", ".join(f"sm_{sm}" for sm in wanted)
        raise Skipped(f"no NVRTC here that compiles for {names}; pip install fluxcompile[nvrtc]")
    for one, sm in pairs:
        one.compile("kernels.cuh", sm, case.folder / "plugin" / "kernels")
    return ", ".join(f"sm_{sm} by NVRTC {one.version[0]}.{one.version[1]}" for one, sm in pairs)


def built_ahead_of_time(case: Case) -> str:
    aot = case.manifest.target["aot"]
    if not aot:
        raise Skipped(f"TensorRT for RTX makes no engines for {case.manifest.target['name']}")
    if not (case.folder / RTX).exists():
        raise Skipped("incremental attention lists keys with NonZero, which TensorRT for RTX does not know")
    try:
        tensorrt_rtx()
    except EngineError as e:
        raise Skipped(str(e)) from e
    model = case.with_weights(RTX)
    built = {sm: build_rtx_engine(model, sm) for sm in aot}
    sizes = ", ".join(f"{len(one.engine) / 1e6:.1f} MB for sm_{sm}" for sm, one in built.items())
    return f"{sizes}, {next(iter(built.values())).layers} layers"


def scripts_are_python_3_8(case: Case) -> str:
    for name in SCRIPTS:
        try:
            tree = ast.parse((case.folder / name).read_text(), feature_version=(3, 8))
        except SyntaxError as e:
            raise Failed(f"{name}: {e}") from e
        future = any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
        if not future:
            raise Failed(f"{name}: evaluates annotations, which Python 3.8 cannot")
    return ", ".join(SCRIPTS)


def names_exist(version: str) -> Callable[[Case], str]:
    def run(case: Case) -> str:
        return _names(case, "builder_rtx.py", names_in(case.bindings[version]), f"TensorRT {version}")

    return run


def names_exist_in_rtx(case: Case) -> str:
    try:
        trt = tensorrt_rtx()
    except EngineError as e:
        raise Skipped(str(e)) from e
    return _names(case, "builder_tensorrt.py", names_of(trt), f"TensorRT for RTX {trt.__version__}")


def _names(case: Case, other: str, have: set[str], whose: str) -> str:
    """Of all scripts but the one for the other library."""
    used = {name for script in SCRIPTS if script != other for name in names_used(case.folder / script)}
    missing = sorted(used - have)
    if missing:
        raise Failed(f"{whose} has no {', '.join(missing)}")
    return f"{len(used)} names of {whose}"
