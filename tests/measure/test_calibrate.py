"""Calibration: the boldest policy that agrees is chosen on one half of a clip and told on the other; ablation of parts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fluxcompile import Frames, Net, OptionError, Policy, cli, fluxcompile, load
from fluxcompile.measure.ablate_policy import WHOLE, rows_of, variants
from fluxcompile.measure.calibrate import LADDER, Tried, bolder, calibrate
from fluxcompile.options import VIDEO
from fluxcompile.runtime.video import Writer

SIZE = (64, 96)


class Brightness(nn.Module):
    """Numbers: the image, blurred a little."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = nn.Conv2d(3, 2, 3, padding=1)
        nn.init.constant_(self.blur.weight, 1 / 27)
        nn.init.constant_(self.blur.bias, 0.0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.blur(image)[:, :1]


@pytest.fixture(scope="module")
def net() -> Net:
    return fluxcompile(Brightness().eval(), torch.zeros(1, 3, *SIZE), frames=Frames())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square that goes to and fro on noise of a few levels."""
    path = tmp_path_factory.mktemp("clips") / "square.mp4"
    random = np.random.default_rng(0)
    with Writer(path, fps=10, crf=1) as writer:
        for index in range(24):
            image = random.integers(90, 98, (*SIZE, 3)).astype(np.uint8)
            left = 8 * (index % 8)
            image[16:32, left : left + 16] = 235
            writer.write(image)
    return path


def test_the_boldest_that_agrees(net: Net, clip: Path) -> None:
    found = calibrate(net, clip, 0.9)
    assert found.policy is not None
    kept = [one for one in found.tried if one.kept]
    assert len(kept) == 1
    assert kept[0].policy == found.policy.to_json()
    assert kept[0].agreement is not None
    assert kept[0].agreement >= 0.95  # half of what may be lost is kept in hand
    better = [one for one in found.tried if one.agreement and one.agreement >= 0.95]
    assert kept[0].work_share <= 1.03 * min(one.work_share for one in better)
    assert found.held_out is not None
    assert found.frames == (12, 12)
    assert found.held_out["frames"] == 12
    front = found.frontier
    assert [one.work_share for one in front] == sorted(one.work_share for one in front)
    assert [one.agreement for one in front] == sorted(one.agreement or 0 for one in front)
    assert "chosen" in str(found)
    strict = calibrate(net, clip, 0.9999)
    assert strict.policy is not None
    assert found.held_out["work_share"] < strict.held_out["work_share"]  # type: ignore[index]


def test_where_nothing_agrees_it_is_exact(net: Net, clip: Path) -> None:
    found = calibrate(net, clip, 1.0, start=replace(VIDEO, residual=40.0, background=60.0))
    assert found.policy == Policy()
    assert found.held_out is not None
    assert found.held_out["likeness"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("enough", "kept"), [(8, 8), (16, 16), (20, 32), (None, None)])
def test_a_wider_radius_where_the_start_cannot_agree(
    enough: int | None, kept: int | None, net: Net, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(bench: Any, loaded: Any, name: str, policy: Policy) -> Tried:
        agrees = policy.radius is None or (enough is not None and policy.radius >= enough)
        return Tried(name, policy.to_json(), 1 / policy.residual, 1.0, 1.0 if agrees and policy.residual <= 2 else 0.9)

    monkeypatch.setattr("fluxcompile.measure.calibrate._tried", tried)
    found = calibrate(net, clip, 0.95, start=replace(VIDEO, anchor=False))
    assert found.policy is not None
    assert (found.policy.radius, found.policy.residual) == (kept, 2.0)
    radii = [one.policy["radius"] for one in found.tried if one.policy["residual"] == 0.25]
    assert radii == [8, 16, 32, None][: len(radii)]
    assert radii[-1] == kept


def test_refusals(net: Net, clip: Path) -> None:
    with pytest.raises(OptionError, match="too few to be split"):
        calibrate(net, clip, 0.9, frames=10)
    with pytest.raises(OptionError, match="above 0 and at most 1"):
        calibrate(net, clip, 1.5)


def test_bolder() -> None:
    assert bolder(VIDEO, 2).residual == 2 * VIDEO.residual
    assert bolder(VIDEO, 2).radius == VIDEO.radius
    assert 1.0 in LADDER


def test_variants_take_one_part_each() -> None:
    found = variants(VIDEO)
    assert found[WHOLE] == VIDEO
    assert not found["no anchor"].anchor
    assert found["with gate"].gate
    assert found["no radius"].radius is None
    assert len({tuple(policy.to_json().items()) for policy in found.values()}) == len(found)
    assert "no edge" not in variants(replace(VIDEO, edge=0.0))


def test_rows_are_held_against_the_whole() -> None:
    def result(work: float) -> dict[str, Any]:
        row = {
            "clip": "a",
            "work_share": work,
            "ms": 1.0,
            "ms_mean": 1.0,
            "speedup": 2.0,
            "dense_frames": 1,
            "f1_50": 1.0,
        }
        return {"all": row, "clips": [row], "figure": "f1_50", "policy": {}}

    rows = rows_of(["whole", "no anchor"], [result(0.2), result(0.5)])
    assert [row["work_ratio"] for row in rows] == [1.0, 2.5]
    assert rows_of(["whole"], [{**result(0.2), "all": None}]) == []


def call(*arguments: object) -> Any:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result


def test_the_commands(net: Net, clip: Path, tmp_path: Path) -> None:
    model = tmp_path / "net.flux"
    net.save(model)
    saved = tmp_path / "tuned.flux"
    options = ("--frames", 20, "--agreement", 0.9, "--save", saved, "-o", tmp_path / "c", "--json")
    told = json.loads(call("calibrate", model, clip, *options).stdout)
    assert load(saved).program.policy == told["policy"]
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        f"calibrate.{s}" for s in ("json", "md", "png", "svg")
    }
    told = json.loads(call("ablate", model, "--clips", clip, "--frames", 6, "-o", tmp_path / "a", "--json").stdout)
    assert told["rows"][0]["part"] == WHOLE
    assert [row["part"] for row in told["rows"]][-2:] == ["DeltaCNN-like", "exact"]
    assert told["rows"][-1]["agreement"] == pytest.approx(1, abs=1e-5)
    assert "no anchor" in (tmp_path / "a" / "ablate.md").read_text()
    assert "each part in turn" in call("ablate", model, "--clips", clip, "--frames", 3).output
