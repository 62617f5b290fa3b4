"""`fluxcompile partition` and `profile`: what they write and print, from a model to a placement."""

import json
from pathlib import Path
from typing import Any

import pytest

from fluxcompile.cli.partition import _place
from fluxcompile.net import load_partition
from fluxcompile.runtime.profile import load_profile
from tests.cli.test_cli import call


def test_from_a_model_to_a_placement(tmp_path: Path) -> None:
    """Measured on this machine, cut in two for it and the paper's server, loaded again."""
    measured = tmp_path / "deep" / "profile.json"
    shown = call("profile", "zoo:resnet-mini", "-o", measured, "--rounds", 1, "--device", "here", "--json").stdout
    told = json.loads(shown)
    found = load_profile(measured)
    assert (told["device"], told["net"], told["path"]) == ("here", "resnet-mini", str(measured))
    assert (told["a"], told["b"], told["c"], told["block"]) == (found.a, found.b, found.c, 16)

    link = (
        "--edge",
        measured,
        "--cloud",
        "rtx-3080/yolo11",
        "--mbps",
        56,
        "--rtt-ms",
        5,
        "--active",
        0.1,
        "--pixels",
        "unit",
    )
    told = json.loads(
        call("partition", "zoo:resnet-mini", "--at", "trunk.stages.1", *link, "-o", tmp_path, "--json").stdout
    )
    assert told["rows"][told["chosen"]]["at"].startswith("trunk.stages.1")
    assert told["written"] == [str(tmp_path / "edge.flux"), str(tmp_path / "cloud.flux")]
    assert [i["name"] for i in told["boundary"]] == [i.name for i in load_partition(tmp_path).boundary]
    assert all(row["total_ms"] > 0 for row in told["rows"])

    shown = call("partition", "zoo:resnet-mini", *link).stdout
    assert shown.count("<- chosen") == 1
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == ["edge", "cloud", "0"]


@pytest.mark.parametrize(("text", "place"), [("auto", "auto"), ("7", 7), ("model.9", "model.9"), ("a, b", ["a", "b"])])
def test_places(text: str, place: Any) -> None:
    assert _place(text) == place


def test_mistakes_are_told(tmp_path: Path) -> None:
    assert "needs profiles of both devices" in str(call("partition", "zoo:resnet-mini", code=1).exception)
    told = call("partition", "zoo:resnet-mini", "--edge", "orin", code=1)
    assert "no device is called orin" in str(told.exception)
    assert "--at is empty" in str(call("partition", "zoo:resnet-mini", "--at", ",", code=1).exception)
