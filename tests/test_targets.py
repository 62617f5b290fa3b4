"""What TensorRT's own packages say of a bundle, where they are installed (`make targets`): its names, engines built."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fluxcompile import Policy, fluxcompile
from fluxcompile.check import check
from fluxcompile.errors import EngineError
from fluxcompile.golden import made_clip
from fluxcompile.net import Net
from fluxcompile.passes.build_rtx_engine import build_rtx_engine, tensorrt_rtx
from fluxcompile.passes.lower_tensorrt import lower_tensorrt
from fluxcompile.passes.quantize_products import quantize_products
from fluxcompile.rounding import plan_precision
from tests.bundles import Machine, altered, small_net
from tests.helpers import seeded
from tests.nets import Attention, Tokens

BUILT = "engine built ahead of time"
RTX_NAMES = "names exist in TensorRT for RTX"
VERSIONS = ("8.6.1", "10.3.0")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "rtx"
    small_net().export("rtx", folder)
    return folder


@pytest.fixture
def rtx() -> None:
    try:
        tensorrt_rtx()
    except EngineError as e:
        pytest.skip(f"{e}; make targets")


def result_of(folder: Path, name: str, **options: Any) -> Any:
    (found,) = check(folder, only=[name], **options)
    return found


def vit() -> Net:
    def make() -> nn.Module:
        tokens = Tokens(8, 6, 6, Attention(8, 2, fused=True), token=True, positions=True)
        return nn.Sequential(nn.Conv2d(3, 8, 4, 4), tokens)

    return fluxcompile(seeded(make), torch.zeros(1, 3, 24, 24))


# --- engines ahead of time ---


@pytest.mark.usefixtures("rtx")
def test_an_engine_is_built_for_two_gpus(bundle: Path) -> None:
    found = result_of(bundle, BUILT)
    assert found.passed, found.detail
    assert "for sm_86" in found.detail
    assert "for sm_89" in found.detail


@pytest.mark.usefixtures("rtx")
def test_the_bundles_own_script_builds_with_the_library(bundle: Path, tmp_path: Path) -> None:
    """Only CUDA's runtime is stood in for; what runs an engine finds no GPU, and says so."""
    machine = Machine(tmp_path, packages=())
    shutil.copytree(bundle, tmp_path / "rtx")
    built = machine.run(tmp_path / "rtx", "build_engine.py", "--rtx", FAKE_SM="86")
    assert built.returncode == 0, built.stderr
    assert "for sm_86, tensorrt_rtx 1." in built.stdout
    assert (tmp_path / "rtx" / "engine.plan").stat().st_size > 100_000
    checked = machine.run(tmp_path / "rtx", "run.py", "--check", FAKE_SM="86")
    assert checked.returncode == 1
    assert "engine.plan: TensorRT cannot load it" in checked.stderr


@pytest.mark.usefixtures("rtx")
def test_what_tensorrt_does_not_know_is_told_in_its_words() -> None:
    """The control: lists as long as what they hold are found by NonZero."""
    with pytest.raises(EngineError, match=r"does not take the graph: .*NonZero"):
        build_rtx_engine(lower_tensorrt(small_net().program).model, 86)


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("made", [small_net, vit], ids=["convolutions", "attention"])
def test_nodes_of_eight_bits_are_taken_and_engines_become_others(made: Any) -> None:
    program = made().program
    feeds = list(made_clip(program, Policy(), 3))
    plan = plan_precision(program, lower_tensorrt(program), feeds, "int8")
    plain, lowered = (lower_tensorrt(program, capacity=1.0) for _ in range(2))
    assert quantize_products(lowered.model, plan.ranges) >= 2
    assert build_rtx_engine(lowered.model, 89).layers > build_rtx_engine(plain.model, 89).layers


@pytest.mark.usefixtures("rtx")
def test_scales_that_are_none_are_refused() -> None:
    """The control of the test above: what is wrong with a node of eight bits is seen."""
    lowered = lower_tensorrt(small_net().program, capacity=1.0)
    assert quantize_products(lowered.model, {"conv2d_2": 1.0}) == 1
    zero = next(t for t in lowered.model.graph.initializer if t.name.endswith(".zero"))
    zero.raw_data = b"\x07" * len(zero.raw_data)
    with pytest.raises(EngineError, match="TensorRT for RTX"):
        build_rtx_engine(lowered.model, 86)


# --- names ---


@pytest.mark.usefixtures("rtx")
def test_names_exist_in_tensorrt_for_rtx(bundle: Path, tmp_path: Path) -> None:
    found = result_of(bundle, RTX_NAMES)
    assert found.passed, found.detail
    change = lambda data: data.replace(b"BuilderFlag.TF32", b"BuilderFlag.FP16")  # noqa: E731 - which it has not
    found = result_of(altered(bundle, tmp_path, "builder_rtx.py", change), RTX_NAMES)
    assert found.passed is False
    assert "BuilderFlag.FP16" in found.detail


@pytest.fixture
def bindings(repo: Path) -> dict[str, Path]:
    found = {v: repo / "build" / "bindings" / v for v in VERSIONS}
    missing = [v for v, folder in found.items() if not (folder / "tensorrt_bindings").is_dir()]
    if missing:
        pytest.skip(f"TensorRT's bindings {', '.join(missing)} are not here; make targets")
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_names_exist_in_the_bindings(version: str, bundle: Path, bindings: dict[str, Path], tmp_path: Path) -> None:
    name = f"names exist in TensorRT {version}"
    found = result_of(bundle, name, bindings=bindings)
    assert found.passed, found.detail
    change = lambda data: data.replace(b"BuilderFlag.FP16", b"BuilderFlag.FP17")  # noqa: E731
    found = result_of(altered(bundle, tmp_path, "builder_tensorrt.py", change), name, bindings=bindings)
    assert found.passed is False
    assert "BuilderFlag.FP17" in found.detail
