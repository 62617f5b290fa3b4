"""Profiles: the paper's by name, files checked, times shared out among layers."""

import json
from pathlib import Path
from typing import Any

import pytest

from fluxcompile import ProfileError
from fluxcompile.runtime.profile import LayerProfile, Profile, find_profile, load_profile, named_profiles

MACS = {"stem": 100, "deep": 300, "head": 600}


def profile(**changed: Any) -> Profile:
    known = {"device": "d", "net": "n", "source": "s", "frame": (64, 64), "dense_ms": 20, "a": 0.0, "b": 1.0, "c": 2.0}
    return Profile(**(known | changed))


def measured() -> Profile:
    layers = {"stem": LayerProfile([0, 1, 2], [0, 0.5, 1]), "deep": LayerProfile([0, 2, 4], [0, 1, 1])}
    return profile(activities=[0, 8, 16], layers=layers)


def test_the_fastest_runtime_takes_dense_frames() -> None:
    assert profile(peer="one", peer_ms=15).of_best_dense.dense_ms == 15
    assert profile(peer="one", peer_ms=25).of_best_dense.dense_ms == 20
    assert profile().of_best_dense == profile()


@pytest.mark.parametrize("changed", [{"beside_ms": {"lunch": 1.0}}, {"beside_ms": {"look": -1.0}}, {"peer_ms": 0.0}])
def test_what_is_beside_is_known_and_positive(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"beside_ms"):
        profile(**changed)


def test_the_papers_table() -> None:
    """Dense time is reached within a frame of blocks of 16 x 16 pixels."""
    assert [(p.device, p.net) for p in named_profiles()] == [
        ("xavier-nx", "yolo11"),
        ("xavier-nx", "sdpose"),
        ("rtx-3080", "yolo11"),
        ("rtx-3080", "sdpose"),
    ]
    for one in named_profiles():
        assert "the paper, Table 1" in one.source
        assert one.curve.ms(0) < one.dense_ms < one.curve.ms(one.blocks)
        assert one.ms(one.blocks) == one.dense_ms
    edge = find_profile("xavier-nx/yolo11")
    assert edge.ms(100) == pytest.approx(1000 * (3.60e-8 * 100**2 + 2.13e-4 * 100 + 0.0429))
    assert (edge.power_mw, edge.blocks) == (10196, 1600)


def test_profiles_by_name() -> None:
    assert find_profile("rtx-3080", "yolo11n").net == "yolo11"
    assert find_profile("rtx-3080", "SDPose-T").net == "sdpose"
    with pytest.raises(ProfileError, match=r"of which net\? There are rtx-3080/yolo11, rtx-3080/sdpose"):
        find_profile("rtx-3080", "unet")
    with pytest.raises(ProfileError, match="no device is called orin; there are xavier-nx, rtx-3080"):
        find_profile("orin")


def test_without_layers_time_goes_by_macs() -> None:
    one = profile()
    assert one.layer_ms(MACS, 8) == pytest.approx({"stem": 1, "deep": 3, "head": 6})
    assert one.part_ms(MACS, ["deep", "head"], 8) == pytest.approx(9)
    assert one.part_ms(MACS, list(MACS), 100) == pytest.approx(20)
    assert one.share("stem", 4) == 0.25
    assert one.share("stem", 99) == 1


def test_measured_layers_and_what_a_frame_costs_beside_them() -> None:
    """T(8) = 10 = stem 1 + deep 2 + head, by its MACs, 4.5 + 2.5 of every frame."""
    one = measured()
    assert one.layer_ms(MACS, 8) == pytest.approx({"stem": 1, "deep": 2, "head": 4.5})
    assert one.part_ms(MACS, ["stem"], 8) == pytest.approx(3.5)
    assert one.part_ms(MACS, list(MACS), 8) == pytest.approx(10)
    assert one.part_ms(MACS, [], 8) == 0
    assert one.share("deep", 4) == 0.5
    assert one.share("head", 4) == 0.25


def test_layers_take_no_longer_than_the_frame() -> None:
    slow = profile(activities=[0], layers={"stem": LayerProfile([100], [1])})
    assert sum(slow.layer_ms(MACS, 8).values()) == pytest.approx(10)


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    measured().save(path)
    assert load_profile(path) == measured()
    assert find_profile(str(path)) == measured()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"a": -1}, "must not be negative"),
        ({"dense_ms": 0}, "must be positive"),
        ({"frame": [0, 4]}, "frame and block must be positive"),
        ({"b": None}, "Expected `float`"),
        ({"speed": 1}, "unknown field `speed`"),
        ({"activities": [2, 1]}, "must ascend"),
        ({"layers": {"stem": {"ms": [1], "share": [1, 1]}}}, "layer stem must have a time and a share"),
        ({"format": 2}, "format 2"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "profile.json"
    profile().save(path)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(ProfileError, match=says):
        load_profile(path)


def test_what_is_no_profile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_bytes(b"\xff{")
    with pytest.raises(ProfileError, match="not a profile"):
        load_profile(tmp_path / "profile.json")
    with pytest.raises(ProfileError, match="no such file"):
        load_profile(tmp_path / "none.json")
