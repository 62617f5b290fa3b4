"""Bundles: complete, as their checks say, found out when altered; and the target's instructions, run dry."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from fluxcompile import Policy
from fluxcompile.bindings import names_in, names_used
from fluxcompile.bundle import FILES, read_manifest, require_whole
from fluxcompile.check import CHECKS, FIXED, SPELLED, SPELLED_FIXED, check
from fluxcompile.checks import SCRIPTS
from fluxcompile.cli import app
from fluxcompile.errors import BundleError, EngineError, ExportError, OptionError
from fluxcompile.net import Net
from fluxcompile.runtime.video import Writer, frames
from fluxcompile.targets import TARGETS, target_of
from tests.bundles import FAKES, Machine, altered, small_net
from tests.helpers import assert_matches


@pytest.fixture(scope="module")
def net() -> Net:
    return small_net()


@pytest.fixture(scope="module")
def bundle(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "orin"
    net.export("jetson-orin", folder)
    return folder


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


GOLDEN = "golden equals reference"


def results_of(folder: Path, **options: Any) -> dict[str, Any]:
    return {r.name: r for r in check(folder, **options)}


# --- what is written ---


def test_a_bundle_is_whole_and_passes_its_checks(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    require_whole(bundle, manifest)
    assert set(FILES) <= manifest.files.keys()
    assert manifest.plugins == ["gate", "halo_gather", "motion_reindex", "tile_scatter"]
    found = results_of(bundle)
    assert [r.passed for r in found.values()].count(False) == 0, found
    made = ("bundle is whole", "golden equals reference", "samples are golden", "scripts are Python 3.8")
    assert all(found[name].passed for name in made)
    assert "12 frames, caches moved" in found["golden equals reference"].detail


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_takes_a_net(net: Net, target: str, tmp_path: Path) -> None:
    manifest = net.export(target, tmp_path / "out")
    assert manifest.target["name"] == target
    text = (tmp_path / "out" / "README.md").read_text()
    assert target_of(target).interface in text
    assert "{" not in text.replace('{"<input>"', "").replace('"gate": g}', "")


def test_the_halves_of_a_partition_are_exported_apart(net: Net, tmp_path: Path) -> None:
    halves = net.partition(at=0)
    for half, target in ((halves.edge, "jetson-orin"), (halves.cloud, "rtx-3080")):
        half.export(target, tmp_path / target)
        assert results_of(tmp_path / target, only=[GOLDEN])[GOLDEN].passed


def test_both_graphs_read_the_same_weights(bundle: Path) -> None:
    golden, plugin = (onnx.load(str(bundle / f"{n}.onnx"), load_external_data=False) for n in ("golden", "plugin"))
    assert golden.functions
    assert not plugin.functions
    assert {e.value for t in plugin.graph.initializer for e in t.external_data if e.key == "location"} == {
        "weights.bin"
    }


def test_the_estimate_counts_what_is_kept_and_what_lives(net: Net, bundle: Path) -> None:
    memory = read_manifest(bundle).memory
    graph = net.program.graphs["blocked"]
    caches = [i for i in graph.inputs if i.role == "cache"]
    assert memory.state_bytes == 2 * 4 * sum(int(np.prod(i.shape)) for i in caches)
    frame = 4 * int(np.prod(graph.inputs[0].shape))
    assert 2 * frame < memory.activation_bytes < 40 * frame
    assert memory.total_bytes > memory.workspace_bytes


def test_a_policy_is_built_in(net: Net, tmp_path: Path) -> None:
    policy = Policy(exact=False, threshold=0.03, radius=6, gate=0.1)
    net.export("jetson-orin", tmp_path / "out", policy=policy)
    with np.load(tmp_path / "out" / "samples.npz") as kept:
        assert kept["threshold.0"] == np.float32(0.03)
        assert kept["gate.0"] == np.float32(0.1)
    assert results_of(tmp_path / "out", only=[GOLDEN])[GOLDEN].passed


def test_a_real_clip_becomes_the_samples_and_gives_the_ranges(
    net: Net, tmp_path: Path, shared: Callable[[str], Path]
) -> None:
    clip = shared("data/clips/pan_bear.mp4")
    manifest = net.export("jetson-orin", tmp_path / "out", clip=clip, precision="int8")
    assert manifest.ranges["conv2d_2"] > 0
    assert 0 < manifest.loss.rms < 0.1
    assert results_of(tmp_path / "out", clip=clip, only=[GOLDEN])[GOLDEN].passed


@pytest.fixture(scope="module")
def panned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that a camera pans over, four pixels a frame."""
    path = tmp_path_factory.mktemp("clips") / "panned.mp4"
    picture = np.kron(np.random.default_rng(0).integers(0, 256, (12, 40, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    with Writer(path, fps=10, crf=1) as writer:
        for at in range(8):
            writer.write(np.ascontiguousarray(picture[:, 4 * at : 4 * at + 64]))
    return path


def test_a_clip_goes_through_the_edges_half_to_the_clouds(net: Net, panned: Path, tmp_path: Path) -> None:
    """What is played are maps of frames; vectors are in cells of four pixels."""
    halves = net.partition(at=0)
    assert halves.edge is not None
    assert halves.cloud is not None
    halves.cloud.export("jetson-orin", tmp_path / "out", clip=panned, after=halves.edge, frames=8, precision="int8")
    (name,) = (i.name for i in halves.boundary)
    with np.load(tmp_path / "out" / "samples.npz") as kept:
        motion = np.stack([kept[f"motion.{at}"] for at in range(2, 8)])
        assert (motion[:, 1] == 1).all()
        assert not motion[:, 0].any()
        frame = np.ascontiguousarray(next(iter(frames(str(panned)))).transpose(2, 0, 1)[None] / np.float32(255))
        assert_matches(kept[f"{name}.0"], np.asarray(halves.edge.dense(frame)["boundary"][0]))
    found = results_of(tmp_path / "out", only=[GOLDEN])[GOLDEN]
    assert found.passed, found.detail
    assert found.figures["moved"]
    assert 0 < found.figures["frames"] == 8
    with pytest.raises(OptionError, match="after: takes the edge's half"):
        halves.cloud.export(
            "jetson-orin", tmp_path / "other", clip=panned, after=small_net(64, 64).partition(at=0).edge
        )
    with pytest.raises(OptionError, match="export it after the edge's half"):
        halves.cloud.export("jetson-orin", tmp_path / "other", clip=panned)
    with pytest.raises(ExportError, match="give a clip"):
        halves.cloud.export("jetson-orin", tmp_path / "other", after=halves.edge)


# --- controls: each check finds what it is for ---


def flipped(data: bytes) -> bytes:
    return data[:-40] + bytes(b ^ 0x5A for b in data[-40:])


def rewritten(change: Callable[[onnx.ModelProto], None]) -> Callable[[bytes], bytes]:
    def run(data: bytes) -> bytes:
        model = onnx.ModelProto.FromString(data)
        change(model)
        return model.SerializeToString()

    return run


def other_step(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "halo_gather")
    next(a for a in node.attribute if a.name == "start").ints[0] += 1


def other_activation(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "Sigmoid").op_type = "Relu"


def no_attribute(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "halo_gather")
    del node.attribute[0]


FAULTS = {
    "bundle is whole": ("run.py", lambda data: data + b"#", False),
    "golden equals reference": ("golden.onnx", rewritten(other_step), True),
    "samples are golden": ("golden.onnx", rewritten(other_step), True),
    "plugin graph is golden without functions": ("plugin.onnx", rewritten(other_step), True),
    "plugin source is there": ("plugin/ops/gate.cpp", lambda data: data.replace(b'"gate"', b'"fate"'), True),
    "kernels compile": ("plugin/kernels/gate.cuh", lambda data: data + b"int broken(", True),
    "scripts are Python 3.8": ("run.py", lambda data: data + b"\nmatch 1:\n    case _: pass\n", True),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_check_has_a_fault_it_finds(bundle: Path, tmp_path: Path, name: str) -> None:
    file, change, hide = FAULTS[name]
    found = results_of(altered(bundle, tmp_path, file, change, hide=hide), only=[name])
    assert found[name].passed is False
    assert found[name].detail


def test_there_is_a_fault_for_every_check() -> None:
    elsewhere = {"engine built ahead of time", "precision holds"}  # in test_targets.py and test_precision.py
    assert {c.name for c in CHECKS} - FAULTS.keys() == elsewhere


def test_weights_of_another_net_are_found(bundle: Path, tmp_path: Path) -> None:
    found = results_of(altered(bundle, tmp_path, "weights.bin", flipped, hide=True), only=[GOLDEN])
    assert found[GOLDEN].passed is False


def test_plugin_nodes_without_their_attributes_are_found(bundle: Path, tmp_path: Path) -> None:
    broken = altered(bundle, tmp_path, "golden.onnx", rewritten(no_attribute), hide=False)
    path = broken / "plugin.onnx"
    path.write_bytes(rewritten(no_attribute)(path.read_bytes()))
    found = results_of(broken, only=["plugin graph is golden without functions"])[
        "plugin graph is golden without functions"
    ]
    assert found.passed is False
    assert "attributes" in found.detail


@pytest.mark.parametrize("name", ["golden.onnx", "manifest.json", "program.flux", "samples.npz"])
def test_a_truncated_file_is_told_and_ends_no_check(bundle: Path, tmp_path: Path, name: str) -> None:
    found = results_of(altered(bundle, tmp_path, name, lambda data: data[: len(data) // 2]))
    assert found["bundle is whole"].passed is False
    assert len(found) >= len(CHECKS)


def test_truncated_bundles_are_refused(bundle: Path, tmp_path: Path) -> None:
    for read in (read_manifest, check):
        with pytest.raises(BundleError, match=r"holds no manifest.json"):
            read(tmp_path)
    broken = altered(bundle, tmp_path, "weights.bin", lambda data: data[:100])
    with pytest.raises(BundleError, match=r"weights.bin was altered; export"):
        require_whole(broken, read_manifest(broken))
    (broken / "engine.py").unlink()
    with pytest.raises(BundleError, match=r"engine.py is missing"):
        require_whole(broken, read_manifest(broken))


def test_names_are_read_from_annotations_and_the_module(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "def run(module, config: 'trt.IBuilderConfig'):\n"
        "    engine: trt.ICudaEngine | None = made()\n"
        "    config.set_flag(module.BuilderFlag.FP17)\n"
        "    return engine.run_all(module.__version__.split('.'))\n"
    )
    wanted = {"IBuilderConfig", "IBuilderConfig.set_flag", "BuilderFlag.FP17", "ICudaEngine", "ICudaEngine.run_all"}
    assert names_used(script) - {"BuilderFlag"} == {*wanted, "__version__"}


def test_bindings_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="holds no tensorrt_bindings"):
        names_in(tmp_path)


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "jetson-nano"}, r"target 'jetson-nano' is unknown; there are jetson-xavier-nx"),
        ({"precision": "fp8"}, r"precision 'fp8' is unknown"),
        ({"capacity": 1.5}, "capacity is 1.5; it is a share of all tiles"),
        ({"precision": "int8"}, r"int8 takes its ranges from frames like yours; give a clip"),
        ({"memory_bytes": 1 << 20}, r"needs about \d+ MiB \(weights \d+, state \d+.*the device has 1 to give"),
    ],
)
def test_what_cannot_be_exported_is_said(net: Net, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        net.export(options.pop("target", "jetson-orin"), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_crash_leaves_the_bundle_that_was_there(
    net: Net, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle, tmp_path / "out")
    monkeypatch.setattr("fluxcompile.export.write_samples", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net.export("jetson-orin", tmp_path / "out")
    require_whole(tmp_path / "out", read_manifest(tmp_path / "out"))
    monkeypatch.undo()
    net.export("rtx", tmp_path / "out")
    assert read_manifest(tmp_path / "out").target["name"] == "rtx"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_other_things_is_left_alone(net: Net, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match="holds files that are no bundle"):
        net.export("jetson-orin", tmp_path)
    assert (tmp_path / "thesis.tex").exists()


# --- the target's instructions, from the bundle alone ---


@pytest.fixture
def onboard(bundle: Path, machine: Machine, tmp_path: Path) -> Path:
    shutil.copytree(bundle, tmp_path / "onboard")
    return machine.install(tmp_path / "onboard")


def test_build_and_check_as_the_readme_says(machine: Machine, onboard: Path) -> None:
    built = machine.run(onboard, "build_engine.py")
    assert built.returncode == 0, built.stderr
    assert "for sm_87, tensorrt 10.3.0" in built.stdout
    checked = machine.run(onboard, "run.py", "--check")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("frame ") == 12
    assert "passed" in checked.stdout
    timed = machine.run(onboard, "run.py", "--bench", "15")
    assert "15 frames: p10" in timed.stdout


def test_a_check_on_the_target_can_fail(machine: Machine, onboard: Path) -> None:
    machine.run(onboard, "build_engine.py")
    checked = machine.run(onboard, "run.py", "--check", FAKE_FAULT="0.5")
    assert checked.returncode == 1
    assert "FAILED" in checked.stdout


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_precisions_reach_the_builder(
    net: Net, machine: Machine, tmp_path: Path, precision: str, shared: Callable[[str], Path]
) -> None:
    clip = shared("data/clips/pan_bear.mp4")
    folder = tmp_path / "out"
    net.export("jetson-xavier-nx", folder, precision=precision, clip=clip)
    machine.install(folder)
    target = {"FAKE_TENSORRT": "8.5.2", "FAKE_SM": "72"}
    built = machine.run(folder, "build_engine.py", **target)
    assert built.returncode == 0, built.stderr
    plan = json.loads((folder / "engine.plan").read_text())
    assert "FP16" in plan["flags"]
    assert "TF32" not in plan["flags"]
    assert ("INT8" in plan["flags"]) == (precision == "int8")
    kept = read_manifest(folder).kept
    assert plan["wide"] == sorted(
        name for name, one in kept.items() if one.precision == "fp32" and name in plan["names"]
    )
    assert len(plan["wide"]) > 20  # masks and motion
    assert plan["types"]["cache_silu"] == "float16"
    assert plan["types"]["cache_input_1"] == "float32"  # the reference image is compared
    assert machine.run(folder, "run.py", "--check", **target).returncode == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"FAKE_TENSORRT": "8.5.2"}, "TensorRT 8.5.2 is here, this bundle is for 10.3"),
        ({"FAKE_TENSORRT": "10.1.0"}, "TensorRT 10.1.0 is here"),
        ({"FAKE_SM": "86"}, r"this GPU is sm_86, the bundle is for jetson-orin (sm_87)"),
        ({"FAKE_FREE_MIB": "64"}, "the GPU has too little memory free"),
    ],
)
def test_building_on_the_wrong_machine_is_refused(
    machine: Machine, onboard: Path, settings: dict[str, str], message: str
) -> None:
    built = machine.run(onboard, "build_engine.py", **settings)
    assert built.returncode == 1
    assert message in built.stderr
    assert not (onboard / "engine.plan").exists()


def test_building_without_the_plugins_is_refused(machine: Machine, bundle: Path) -> None:
    built = machine.run(bundle, "build_engine.py")
    assert "cmake -S plugin -B plugin/build" in built.stderr


def test_altered_bundles_and_engines_are_refused_on_the_target(machine: Machine, onboard: Path) -> None:
    assert "run build_engine.py" in machine.run(onboard, "run.py", "--check").stderr
    machine.run(onboard, "build_engine.py")
    other = machine.run(onboard, "run.py", "--check", FAKE_SM="72")
    assert "built for sm_87, this GPU is sm_72" in other.stderr
    other = machine.run(onboard, "run.py", "--check", FAKE_TENSORRT="10.5.0")
    assert "built with tensorrt 10.3.0, this is 10.5.0" in other.stderr
    plan = onboard / "engine.plan"
    plan.write_bytes(plan.read_bytes()[:-9])
    assert "is truncated or was altered" in machine.run(onboard, "run.py", "--check").stderr
    (onboard / "plugin.onnx").write_bytes(b"")
    assert "plugin.onnx: is missing or was altered" in machine.run(onboard, "build_engine.py").stderr


@pytest.fixture(scope="module")
def with_fixed(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 tiles on every map, room for 20."""
    folder = tmp_path_factory.mktemp("fixed") / "orin"
    small_net(192, 256).export("jetson-orin", folder, capacity=0.4)
    return machine.install(folder)


SESSION = """
import json
from engine import Session
import run
session = Session(".")
worst = 0.0
for feed, wanted in run.samples(session.manifest):
    found = session(feed)
    worst = max([worst, *(run.difference(found[n], wanted[n])[0] for n in wanted)])
print(json.dumps([worst, session.overflows, len(session._fixed._graphs), session._fixed._runs, session._any._runs]))
"""


def test_lists_of_fixed_length_are_replayed_and_what_does_not_fit_runs_again(
    machine: Machine, with_fixed: Path
) -> None:
    built = machine.run(with_fixed, "build_engine.py")
    assert built.stdout.count("wrote ") == 2, built.stderr
    run = machine.run_code(with_fixed, f"exec({SESSION!r})")
    worst, overflows, graphs, fixed_runs, any_runs = json.loads(run.stdout)
    assert worst < 1e-5
    assert graphs == 2  # one for either turn of the buffers
    assert fixed_runs == 10  # all but the first and the one after a cut
    assert 0 < overflows < 8
    assert any_runs == 2 + overflows
    checked = machine.run(with_fixed, "run.py", "--check")
    assert f"{overflows} frames did not fit" in checked.stdout


def test_both_engines_must_be_those_that_were_built(machine: Machine, with_fixed: Path) -> None:
    machine.run(with_fixed, "build_engine.py")
    plan = with_fixed / "fixed.plan"
    plan.write_bytes(plan.read_bytes() + b" ")
    assert "fixed.plan: is truncated or was altered" in machine.run(with_fixed, "run.py", "--check").stderr


def test_fixed_lists_are_checked_and_share_the_weights(with_fixed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(with_fixed, copy)
    found = results_of(copy, only=[FIXED.name])[FIXED.name]
    assert found.passed, found.detail
    assert (copy / "fixed.onnx").stat().st_size < 200_000
    other = altered(copy, tmp_path, "fixed.onnx", rewritten(other_step), hide=True)
    assert results_of(other, only=[FIXED.name])[FIXED.name].passed is False


@pytest.fixture(scope="module")
def for_rtx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rtx") / "rtx"
    small_net(192, 256).export("rtx", folder, capacity=0.4)
    return folder


RTX = {"FAKE_SM": "89"}


def test_tensorrt_for_rtx_builds_and_runs_without_plugins(machine: Machine, for_rtx: Path) -> None:
    """Nothing was compiled: the graphs spell out what the plugins do."""
    built = machine.run(for_rtx, "build_engine.py", "--rtx", **RTX)
    assert built.returncode == 0, built.stderr
    assert built.stdout.count("for sm_89, tensorrt_rtx 1.7.1") == 2
    checked = machine.run(for_rtx, "run.py", "--check", **RTX)
    assert checked.returncode == 0, checked.stderr
    assert "passed" in checked.stdout
    session = machine.run_code(for_rtx, f"exec({SESSION!r})", **RTX)
    worst, overflows, graphs, _, any_runs = json.loads(session.stdout)
    assert worst < 1e-5
    assert (graphs, any_runs) == (2, 2 + overflows)
    failed = machine.run(for_rtx, "run.py", "--check", FAKE_FAULT="0.5", **RTX)
    assert failed.returncode == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"FAKE_RTX": "1.5.0"}, r"TensorRT for RTX 1.5.0 is here, this bundle for rtx takes 1.7"),
        ({"FAKE_RTX": "2.0.1"}, r"pip install 'tensorrt-rtx>=1.7,<2'"),
        ({"FAKE_SM": "72"}, r"this GPU is sm_72, the bundle is for rtx (sm_75, sm_86, sm_89)"),
    ],
)
def test_what_tensorrt_for_rtx_cannot_build_is_said(
    machine: Machine, for_rtx: Path, settings: dict[str, str], message: str
) -> None:
    built = machine.run(for_rtx, "build_engine.py", "--rtx", **{**RTX, **settings})
    assert built.returncode == 1
    assert message in built.stderr


def test_a_jetson_has_no_graph_for_tensorrt_for_rtx(machine: Machine, onboard: Path) -> None:
    built = machine.run(onboard, "build_engine.py", "--rtx")
    assert built.returncode == 1
    assert "rtx.onnx: this bundle for jetson-orin has none; export for rtx" in built.stderr


def test_graphs_without_plugins_are_checked(for_rtx: Path, tmp_path: Path) -> None:
    names = [SPELLED.name, SPELLED_FIXED.name]
    found = results_of(for_rtx, only=names)
    assert all(one.passed for one in found.values()), found
    assert "12 of 12 frames fit" in found[SPELLED.name].detail
    for file, name in (("rtx.onnx", names[0]), ("rtx_fixed.onnx", names[1])):
        assert (for_rtx / file).stat().st_size < 1_000_000
        other = altered(for_rtx, tmp_path / name, file, rewritten(other_activation), hide=True)
        assert results_of(other, only=[name])[name].passed is False


@pytest.fixture(scope="module")
def runner(machine: Machine, repo: Path) -> Path:
    """The C++ runner, built against the stand-ins."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("the C++ runner takes a C++ compiler")
    out, source = machine.folder / "runner", repo / "fluxcompile" / "onboard" / "runner.cpp"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", f"-I{FAKES / 'include'}"]
    command = [compiler, *flags, source, "-o", out, machine.library, f"-Wl,-rpath,{machine.folder}", "-ldl"]
    subprocess.run(command, check=True)
    return out


def test_the_cpp_runner_swaps_caches_and_writes_results(machine: Machine, runner: Path, tmp_path: Path) -> None:
    machine.install(tmp_path)
    (tmp_path / "engine.plan").write_bytes(b"plan")
    (tmp_path / "caches.txt").write_text("cache next 0\n")
    frames = np.array([[1, 2], [10, 20], [100, 200]], np.float32)
    (tmp_path / "frames.bin").write_bytes(frames.tobytes())

    def run(*files: str) -> subprocess.CompletedProcess[str]:
        settings = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
        return subprocess.run([runner, *files, "."], cwd=tmp_path, env=settings, capture_output=True, text=True)

    done = run("frames.bin", "out.bin")
    assert done.returncode == 0, done.stderr
    assert np.fromfile(tmp_path / "out.bin", np.float32).reshape(3, 2).tolist() == (frames.cumsum(0) / 2).tolist()
    (tmp_path / "caches.txt").write_text("cache next 1\n")  # the output is a result as well
    assert run("frames.bin", "out.bin").returncode == 0
    found = np.fromfile(tmp_path / "out.bin", np.float32).reshape(3, 2, 2)
    assert found[:, 0].tolist() == frames.cumsum(0).tolist()
    (tmp_path / "frames.bin").write_bytes(b"odd")
    assert "does not hold whole frames" in run("frames.bin", "out.bin").stderr
    (tmp_path / "engine.plan").write_bytes(b"pla")
    assert "run build_engine.py on this machine" in run("frames.bin", "out.bin").stderr


# --- the commands ---


def test_commands_export_and_check(net: Net, tmp_path: Path) -> None:
    net.save(tmp_path / "net.flux")
    out = tmp_path / "out"
    run = CliRunner().invoke(
        app, ["export", str(tmp_path / "net.flux"), "--target", "jetson-orin", "-o", str(out), "--json"]
    )
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["memory"]["state_bytes"] > 0
    run = CliRunner().invoke(app, ["check", str(out), "--json"])
    assert run.exit_code == 0, run.output
    checks = json.loads(run.stdout)["checks"]
    assert all({"name", "passed", "proves"} <= c.keys() for c in checks)
    (out / "run.py").write_text("")
    run = CliRunner().invoke(app, ["check", str(out)])
    assert run.exit_code == 1
    assert "FAILED" in run.output


def test_scripts_of_a_bundle_are_those_of_the_repo(bundle: Path, repo: Path) -> None:
    for name in SCRIPTS:
        place = "runtime" if name in ("engine.py", "cudart.py") else "fluxcompile/onboard"
        assert (bundle / name).read_bytes() == (repo / place / name).read_bytes()
