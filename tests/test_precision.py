"""What fewer bits cost: which layers keep more by rule, the check that measures the rest, and nets that it finds broken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from fluxcompile import fluxcompile
from fluxcompile.bundle import Kept, Manifest, files_of, read_manifest, write_manifest
from fluxcompile.check import FIXED, check
from fluxcompile.check_precision import ALLOWED
from fluxcompile.errors import ExportError
from fluxcompile.golden import made_clip
from fluxcompile.net import Net
from fluxcompile.options import Policy
from fluxcompile.passes.lower_tensorrt import lower_tensorrt
from fluxcompile.rounding import HALF_MOST, Plan, plan_precision
from tests.bundles import small_net
from tests.helpers import Do, seeded

HOLDS = "precision holds"
SAME = "plugin graph is golden without functions"


def planned(net: Net, precision: str, keep: list[str] | None = None) -> Plan:
    feeds = list(made_clip(net.program, Policy(), 4))
    return plan_precision(net.program, lower_tensorrt(net.program), feeds, precision, keep or [])


def checked(folder: Path, name: str = HOLDS, **options: Any) -> Any:
    (found,) = check(folder, only=[name], **options)
    return found


def rewritten(folder: Path, change: Callable[[Manifest], Manifest]) -> None:
    write_manifest(folder, msgspec.structs.replace(change(read_manifest(folder)), files=files_of(folder)))


def scaled(first: float, second: float) -> nn.Module:
    """Two convolutions, the numbers between them as large as one likes."""

    def make() -> nn.Module:
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
        with torch.no_grad():
            model[0].weight *= first
            model[0].bias *= first
            model[2].weight *= second
        return model

    return seeded(make)


def raised(by: float) -> nn.Module:
    """The same again, with a bias that the second takes away: what is left has lost its last bits."""
    model = scaled(1, 1)
    with torch.no_grad():
        model[0].bias += by
        model[2].weight[:, 1::2] = -model[2].weight[:, ::2]
        model[2].bias.zero_()
    return model


def compiled(model: nn.Module) -> Net:
    return fluxcompile(model, torch.zeros(1, 3, 24, 32))


# --- which layers keep more ---


def test_ops_are_kept_by_what_they_are() -> None:
    model = seeded(
        lambda: Do(
            lambda x, a, b, norm: torch.sigmoid(b(norm(torch.relu(a(x))))) * 640,
            nn.Conv2d(3, 4, 3, 2, 1),
            nn.Conv2d(4, 4, 3, 1, 1),
            nn.GroupNorm(2, 4),
        )
    )
    net = compiled(model)
    kept = planned(net, "fp16").kept
    kinds = {op.name: f".{op.op}".split(".")[-2] for op in net.program.graphs["blocked"].ops}
    by_kind: dict[str, set[str]] = {}
    for name, one in kept.items():
        assert one.precision == "fp32"
        by_kind.setdefault(one.why.split(":")[0], set()).add(kinds.get(name, name))  # of a dense region: its own
    assert by_kind["sums many values"] == {"group_norm"}
    assert {"gate", "tiles", "miss_input"} <= by_kind["compares"]
    assert {"sigmoid", "mul"} <= by_kind["no product follows"]
    assert "conv2d" not in {kinds.get(name) for name in kept}
    assert planned(net, "fp32") == Plan()


def test_ops_whose_numbers_are_too_large_are_kept() -> None:
    large = planned(compiled(scaled(1e6, 1e-6)), "fp16").kept
    why = [one.why for one in large.values() if "too large" in one.why]
    assert any("conv2d" in w for w in why)
    assert all(float(w.split()[-1]) > HALF_MOST for w in why)
    assert not any("too large" in one.why for one in planned(compiled(scaled(1, 1)), "fp16").kept.values())


def test_products_that_eight_bits_make_noise_of_stay_half() -> None:
    """One channel is a thousand times as large as the others, and weighed a thousand times less."""

    def make() -> nn.Module:
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
        with torch.no_grad():
            model[0].weight[0] *= 1000
            model[1].weight[:, 0] = 0
            model[0].bias.zero_()
        return model

    net = compiled(seeded(make))
    plan = planned(net, "int8")
    noisy = {name: one for name, one in plan.kept.items() if "noise" in one.why}
    assert [one.precision for one in noisy.values()] == ["fp16"]
    assert len(plan.ranges) == 1
    assert not noisy.keys() & plan.ranges.keys()
    assert len(planned(compiled(scaled(1, 1)), "int8").ranges) == 2


def test_layers_are_kept_that_are_asked_for() -> None:
    net = small_net()
    kept = planned(net, "fp16", ["3"]).kept  # the last convolution, by its module
    asked = [name for name, one in kept.items() if one.why == "asked for"]
    assert "conv2d" in {f".{op.op}".split(".")[-2] for op in net.program.graphs["blocked"].ops if op.name in asked}
    with pytest.raises(ExportError, match=r"keep: the net has no module or op 'head'; `fluxcompile explain` prints"):
        planned(net, "fp16", ["head"])


# --- the check ---


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_bundle_whose_precision_holds(precision: str, tmp_path: Path, shared: Callable[[str], Path]) -> None:
    clip = shared("data/clips/pan_bear.mp4")
    small_net().export("jetson-orin", tmp_path / "out", precision=precision, clip=clip, capacity=0.5)
    found = checked(tmp_path / "out")
    assert found.passed, found.detail
    assert found.detail.startswith("12 frames; results are ")
    loss = read_manifest(tmp_path / "out").loss
    assert 1e-5 < loss.rms < (2e-3 if precision == "fp16" else 5e-2)
    assert checked(tmp_path / "out", SAME).passed
    assert checked(tmp_path / "out", FIXED.name).passed
    assert checked(tmp_path / "out", "golden equals reference").passed  # which stays float32


def test_float32_has_nothing_to_measure(tmp_path: Path) -> None:
    small_net().export("jetson-orin", tmp_path / "out")
    assert checked(tmp_path / "out").passed is None


def test_ranges_that_are_not_the_graphs_are_found(tmp_path: Path, shared: Callable[[str], Path]) -> None:
    clip = shared("data/clips/pan_bear.mp4")
    small_net().export("jetson-orin", tmp_path / "out", precision="int8", clip=clip, frames=4)
    rewritten(
        tmp_path / "out",
        lambda m: msgspec.structs.replace(m, ranges={name: 2 * most for name, most in m.ranges.items()}),
    )
    found = checked(tmp_path / "out", SAME)
    assert found.passed is False
    assert "the manifest's ranges" in found.detail


def test_an_overflow_is_found_where_the_rule_is_taken_away(tmp_path: Path) -> None:
    compiled(scaled(1e6, 1e-6)).export("jetson-orin", tmp_path / "out", precision="fp16", frames=4)
    found = checked(tmp_path / "out")
    assert found.passed, found.detail
    rewritten(
        tmp_path / "out",
        lambda m: msgspec.structs.replace(m, kept={n: k for n, k in m.kept.items() if "too large" not in k.why}),
    )
    found = checked(tmp_path / "out")
    assert found.passed is False
    assert "results are inf off" in found.detail


def test_a_net_that_half_breaks_is_told_which_layers_to_keep(tmp_path: Path) -> None:
    net = compiled(raised(2000.0))
    net.export("jetson-orin", tmp_path / "out", precision="fp16", frames=4)
    found = checked(tmp_path / "out")
    assert found.passed is False
    assert f"fp16 allows {ALLOWED['fp16'][0]:g}" in found.detail
    keep = found.detail.rpartition("--keep ")[2].partition(", or with")[0].split(",")
    net.export("jetson-orin", tmp_path / "out", precision="fp16", frames=4, keep=keep)
    assert read_manifest(tmp_path / "out").kept[keep[0]] == Kept("fp32", "asked for")
    again = checked(tmp_path / "out")
    assert again.passed, again.detail


def test_caches_of_ops_that_are_kept_have_all_bits(tmp_path: Path) -> None:
    model = seeded(lambda: Do(lambda x, a: torch.sigmoid(a(x)) * 640, nn.Conv2d(3, 4, 3, 1, 1)))
    net = compiled(model)
    manifest = net.export("jetson-orin", tmp_path / "out", precision="fp16", frames=4)
    moved = {
        op.args[0]["%"]: op.name
        for op in net.program.graphs["blocked"].ops
        if op.op == "flux.motion_reindex.default" and op.args[0]["%"].startswith("cache_")
    }
    half = {t.name for t in manifest.inputs if t.half}
    assert half <= moved.keys()
    assert not any(moved[name] in manifest.kept for name in half)
    assert np.isfinite(manifest.loss.rms)
