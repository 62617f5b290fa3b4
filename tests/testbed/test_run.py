"""The testbed's rows: systems beside each other, the same every time, as physics has them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fluxcompile.cli import app
from fluxcompile.errors import OptionError
from fluxcompile.runtime.profile import Profile
from fluxcompile.runtime.video import Writer
from fluxcompile.testbed import figures
from fluxcompile.testbed.clips import footage
from fluxcompile.testbed.local import measure
from fluxcompile.testbed.network import Trace
from fluxcompile.testbed.run import ABLATED, OURS, Experiments, Plan, Subject
from tests.remote import MOVING, SIZE, pictures, small_net


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "square.mp4"
    writer = Writer(path, 30.0, crf=10)
    for picture in pictures(40):
        writer.write(picture)
    writer.close()
    return path


def rows(clip: Path, **changes: Any) -> list[dict[str, Any]]:
    net = small_net()
    options: dict[str, Any] = {"systems": (OURS, "edge", "raw", "h264"), "frames": 16, "rtt_ms": 10.0, **changes}
    plan = Plan([clip], [Trace.constant(8.0)], **options)
    return list(Experiments(Subject("yolo11", net, net.task(), MOVING), plan).rows())


def test_systems_beside_each_other(clip: Path) -> None:
    found = {row["system"]: row for row in rows(clip, ablated=tuple(ABLATED))}
    ours, raw, h264 = found[OURS], found["raw"], found["h264"]
    assert found["edge"]["latency_ms"] == pytest.approx(209)
    assert found["edge"]["bytes_per_frame"] == 0
    assert found["edge"]["agreement"] == 1.0
    assert found["edge"]["energy_mj"] == pytest.approx(209 * 10.196, rel=1e-3)
    net = small_net()
    (picture,) = footage(clip, net, net.task(), 1, margin=net.margin, crop=False).pictures
    pixels = picture.size
    assert raw["bytes_per_frame"] == pixels
    assert raw["agreement"] == 1.0
    # half a round trip each way, bytes at 8 Mbit/s, 12 ms of the paper's server
    assert raw["latency_ms"] == pytest.approx(10 + pixels * 0.001 + 12 + 1, abs=1)
    assert h264["latency_ms"] < raw["latency_ms"]
    assert ours["latency_ms"] < h264["latency_ms"] * 1.05
    assert ours["hit_ratio"] > 0.5
    assert ours["agreement"] > 0.85
    assert found["no path choice"]["cloud_share"] == 1.0
    assert "paper" not in ours  # it reports nothing at 8 Mbit/s


def test_other_devices(clip: Path, tmp_path: Path) -> None:
    """Dense systems take the server's fastest dense runtime, ours its own curve; what is beside the net as measured."""
    path = tmp_path / "server.json"
    server = Profile("a server", "small", "made", SIZE, dense_ms=40, a=0, b=1, c=2, peer="one", peer_ms=30,
                     beside_ms={"look": 1.0, "decode": 0.25})  # fmt: skip
    server.save(path)
    found = {row["system"]: row for row in rows(clip, systems=(OURS, "raw"), cloud=str(path))}
    raw, ours = found["raw"], found[OURS]
    assert (raw["edge"], raw["cloud"]) == ("xavier-nx", "a server")
    picture = raw["bytes_per_frame"]
    assert raw["latency_ms"] == pytest.approx(10 + picture * 0.001 + 30 + 1, abs=1)
    assert ours["latency_ms"] < raw["latency_ms"] - 10


def test_it_is_the_same_every_time(clip: Path) -> None:
    assert rows(clip, systems=(OURS,)) == rows(clip, systems=(OURS,))


def test_more_cameras_share_the_server(clip: Path) -> None:
    found = rows(clip, systems=(OURS, "h264"), cameras=(1, 6))
    latency = {(row["system"], row["cameras"]): row["latency_ms"] for row in found}
    assert latency["h264", 6] > 2 * latency["h264", 1]
    assert latency[OURS, 6] < latency["h264", 6]
    assert [row["frames"] for row in found if row["cameras"] == 6] == [6 * 16] * 2


def test_what_is_written(clip: Path, tmp_path: Path) -> None:
    found = rows(clip, systems=(OURS, "h264"), cameras=(1, 2))
    written = figures.write(found, tmp_path)
    assert sorted(path.name for path in written) == ["testbed.json", "testbed.md", "testbed.png", "testbed.svg"]
    assert json.loads((tmp_path / "testbed.json").read_text())["rows"] == found
    assert (tmp_path / "testbed.md").read_text().count("\n| yolo11") == 4


def test_the_command(clip: Path) -> None:
    arguments = ["testbed", "--model", "yolo11=zoo:unet-mini", "--clips", str(clip), "--mbps", "25", "--frames", "6",
                 "--systems", "ours/h264", "--json"]  # fmt: skip
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)["rows"]
    assert [row["system"] for row in found] == ["ours", "h264"]
    assert found[0]["paper"] == {"accuracy": 95.5, "hits": 72.5, "mb_per_s": 0.32}


def test_a_user_without_a_model_or_a_clip(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small net of the zoo, and the clip of the demo."""
    monkeypatch.setattr("fluxcompile.demo.fetch", lambda member: clip)
    told = CliRunner().invoke(app, ["testbed", "--mbps", "25", "--frames", "4", "--systems", "ours", "--json"])
    assert told.exit_code == 0, told.output
    assert [row["frames"] for row in json.loads(told.stdout)["rows"]] == [4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet"], "write yolo11=MODEL or sdpose=MODEL"),
        (["--systems", "ours/magic"], "there is no magic"),
        (["--profile", "mars"], "use paper or local"),
        (["--trace", "none.csv"], "3 means for 1 traces"),
    ],
)
def test_refusals(clip: Path, arguments: list[str], message: str) -> None:
    base = ["testbed", "--clips", str(clip), "--model", "yolo11=zoo:unet-mini"]
    if arguments[0] == "--model":
        base = base[:3]
    told = CliRunner().invoke(app, [*base, *arguments])
    assert isinstance(told.exception, OptionError)
    assert message in str(told.exception)


def test_this_machine_as_its_own_testbed(clip: Path) -> None:
    """Prediction and fact have the same shape; how near they are is a benchmark's to say."""
    net = small_net()
    shown = footage(clip, net, net.task(), 24, margin=net.margin, crop=False)
    found = measure(net, net.task(), MOVING, shown, Trace.constant(50.0), 5.0)
    assert [row["places"] for row in found] == ["edge", "cloud", "edge+cloud"]
    assert all(row["latency_ms"] > 0 and row["predicted_ms"] > 0 for row in found)
    assert [row["predicted_cloud_share"] for row in found[:2]] == [0.0, 1.0]
