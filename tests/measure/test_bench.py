"""The benchmark: what is measured, in what terms, how it fails. No figure here is a claim about speed."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fluxcompile import FluxError, OptionError, cli, sources
from fluxcompile.measure import figures
from fluxcompile.measure.bench import Plan, Result, measure
from fluxcompile.sources import Model
from tests.fake_camera import FakeNet

KEYS = {
    "model", "machine", "threads", "backend", "frame", "macs", "rounds", "peers", "peers_ms", "best_dense",
    "best_dense_ms", "rows", "idle_ms", "idle_ms_median", "idle_of_best_dense", "idle_work_share", "first_frame_ms",
    "first_frame_ms_median", "first_frame_of_best_dense", "cache_bytes", "dense_activation_bytes",
    "dense_activation_sum_bytes", "peak_gflops", "interrupted",
}  # fmt: skip
ROW = {"activity", "pattern", "threads", "ms", "ms_median", "of_best_dense", "work_share", "gflops_effective"}
PEER = {"name", "ms", "ms_median", "reason", "version", "max_relative_error"}


@pytest.fixture
def net() -> FakeNet:
    return FakeNet()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, net: FakeNet) -> list[Any]:
    """Make every model the fake net; return what the command asked for. A model called "bad" does not compile."""
    calls: list[Any] = []

    def compile_model(text: str, *arguments: Any, without: Sequence[str]) -> FakeNet:
        calls.append((text, *arguments[1:], without))
        if text == "bad":
            raise FluxError("bad: cannot be compiled")
        return FakeNet(without) if without else net

    monkeypatch.setattr(sources, "find", lambda text: Model(net.module, None))
    monkeypatch.setattr(sources, "compile_model", compile_model)
    return calls


def call(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def measured(net: FakeNet, **options: Any) -> Result:
    plan = Plan(**{"activities": (10, 50, 100), "rounds": 2, "warmups": 1, "peers": ("torch",), **options})
    return measure("fake", net, net.module, plan)


def test_everything_is_measured_once_a_round(net: FakeNet) -> None:
    result = measured(net, patterns=("blobs", "scattered"))
    assert [(row.pattern, row.activity) for row in result.rows] == [
        (pattern, activity) for pattern in ("blobs", "scattered") for activity in (10, 50, 100)
    ]
    for row, share in zip(result.rows, (1 / 6, 3 / 6, 1) * 2, strict=True):
        assert row.work_share == pytest.approx(share)
        assert row.ms is not None
        assert row.ms_median is not None
        assert 0 < row.ms <= row.ms_median
        assert result.best_dense_ms is not None
        assert row.of_best_dense == row.ms / result.best_dense_ms
        assert row.gflops_effective == pytest.approx(2e-6 * result.macs * share / row.ms)
    assert result.macs == 64 * 96 * 4 * 27
    assert (result.idle_work_share, result.rounds, result.interrupted) == (0, 2, False)
    assert (result.best_dense, list(result.peers_ms)) == ("torch", ["torch"])
    assert (result.cache_bytes, result.frame) == (4096, (64, 96))
    # a frame to compare outputs, and in each of three rounds, twice, a first frame, an idle one, and each row
    assert len(net.seen) == 1 + 3 * 2 * (2 + 6)
    assert net.seen.count(0.0) == 3 * 2
    assert net.seen.count(1.0) == 1 + 3 * 2 * (1 + 2)


def test_the_same_seed_shows_the_same_frames_in_the_same_order() -> None:
    seen = []
    for seed in (0, 0, 1):
        net = FakeNet()
        measured(net, seed=seed, activities=(10, 50, 100), rounds=4)
        seen.append(net.seen)
    assert seen[0] == seen[1] != seen[2]


def test_the_reference_is_measured_too() -> None:
    inner = FakeNet().inner
    plan = Plan((50,), backend="reference", rounds=1, warmups=0, peers=("torch",))
    result = measure("tiny", inner, None, plan)
    assert result.rows[0].work_share == pytest.approx(0.5)
    assert result.cache_bytes > 4 * 64 * 96 * 4
    assert result.peers[0]["reason"] == ""
    assert result.peers[0]["max_relative_error"] < 1e-5


def test_threads_are_set_and_set_back(net: FakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    before, during = torch.get_num_threads(), []
    monkeypatch.setattr(FakeNet, "explain", lambda self: during.append(torch.get_num_threads()) or self.inner.explain())
    torch.set_num_threads(2)
    try:
        measured(net)
        assert (during, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_without_a_peer_there_is_no_share_of_time(net: FakeNet) -> None:
    torch.manual_seed(9)
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    plan = Plan((10,), rounds=1, warmups=0, peers=("torch",))
    result = measure("fake", net, other, plan)
    assert (result.best_dense, result.rows[0].of_best_dense, result.peers_ms) == (None, None, {})
    assert "differ from ours" in result.peers[0]["reason"]
    assert result.rows[0].ms is not None
    figures.bench_table([result.to_json()])
    assert "-" in figures.bench_markdown([result.to_json()])


def test_json_of_one_model(asked: list[Any]) -> None:
    found = json.loads(call("bench", "net", "--activity", "10,100", "--peers", "torch", "--rounds", 1, "--json").stdout)
    assert set(found) == KEYS
    assert all(set(row) == ROW for row in found["rows"])
    assert all(set(peer) == PEER for peer in found["peers"])
    assert (found["model"], found["threads"], found["best_dense"]) == ("net", 1, "torch")
    assert set(found["machine"]) == {"cpu", "cores", "gpu", "kernels", "system", "python"}
    assert asked == [("net", None, None, [])]


def test_several_models_and_files(asked: list[Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "deep" / "bench"
    options = ("--activity", "10,100", "--pattern", "both", "--peers", "torch", "--rounds", 1, "-o", folder)
    result = call("bench", "one.onnx", "bad", "zoo:two", *options, "--json", code=1)
    found = json.loads(result.stdout)
    assert [model["model"] for model in found["models"]] == ["one", "bad", "two"]
    assert found["models"][1] == {"model": "bad", "error": "bad: cannot be compiled"}
    assert json.loads((folder / "bench.json").read_text()) == found
    page = (folder / "bench.md").read_text()
    assert [line.split("|")[1].strip() for line in page.splitlines() if "ms, torch" in line] == ["one"] * 2 + [
        "two"
    ] * 2
    assert (folder / "bench.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (folder / "bench.svg").read_text()[:1000]
    table = call("bench", "one.onnx", "bad", *options, code=1)
    assert "cannot be compiled" in table.stderr
    assert "scattered" in table.stderr
    assert table.stdout == ""


def test_ctrl_c_keeps_what_is_done(asked: list[Any], net: FakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = net.inner.dense

    def dense(*frames: Any) -> Any:
        if len(net.seen) > 24:
            raise KeyboardInterrupt
        return inner(*frames)

    monkeypatch.setattr(net.inner, "dense", dense)
    options = ("--activity", "10", "--peers", "torch", "--rounds", 9, "--json")
    found = json.loads(call("bench", "one", "two", *options, code=130).stdout)
    assert (found["model"], found["interrupted"], found["rounds"]) == ("one", True, 1)
    assert found["rows"][0]["ms"] is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--activity", "0"), "over 0 and up to 100"),
        (("--activity", "101"), "over 0 and up to 100"),
        (("--activity", "ten"), "--activity is 'ten'"),
        (("--threads", "0"), "--threads is '0'"),
        (("--threads", "1.5"), "--threads is '1.5'"),
        (("--pattern", "stripes"), "pattern is stripes; use blobs, scattered or both"),
        (("--backend", "gpu"), "--backend is 'gpu'; use cpu or cuda or reference"),
        (("--peers", "tensorrt"), "no peer is called tensorrt"),
    ],
)
def test_mistakes(options: tuple[str, ...], message: str, asked: list[Any]) -> None:
    result = CliRunner().invoke(cli.app, ["bench", "net", *options])
    assert isinstance(result.exception, OptionError)
    assert message in str(result.exception)


def test_one_model_that_fails_is_the_error(asked: list[Any]) -> None:
    assert "cannot be compiled" in str(CliRunner().invoke(cli.app, ["bench", "bad"]).exception)


@pytest.mark.parametrize("options", [("--peers", "openvino"), ("-o", "out")])
def test_a_missing_extra_is_named(options: tuple[str, ...], tmp_path: Path) -> None:
    code = "import sys; sys.modules['openvino'] = sys.modules['matplotlib'] = None\n"
    code += f"sys.argv[1:] = ['bench', 'zoo:resnet-mini', '--backend', 'reference', '--rounds', '1', *{options}]\n"
    code += "from fluxcompile.cli import main; main()"
    root = Path(cli.__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "pip install 'fluxcompile[bench]'" in done.stderr


def test_figures_of_a_reader() -> None:
    assert [figures.percent(v) for v in (None, 0.0, 0.0123, 0.9994, 1.0, 14.5)] == [
        "-", "0.0 %", "1.2 %", "99.9 %", "100 %", "1450 %",
    ]  # fmt: skip
    assert [figures.milliseconds(v) for v in (None, 0.5, 12.34, 123.4)] == ["-", "0.50", "12.3", "123"]
