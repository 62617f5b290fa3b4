"""The command: what it prints, what it writes, how it fails. Fake nets keep it quick; one test uses a real one."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fluxcompile import cli, sources
from fluxcompile.runtime.video import Writer, probe
from tests.fake_net import FakeNet

REPO = Path(cli.__file__).resolve().parents[2]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with Writer(path, fps=10) as writer:
        for index in range(8):
            image = np.full((64, 96, 3), 80, np.uint8)
            image[16:32, 8 * index : 8 * index + 16] = 200
            writer.write(image)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Make every model a fake net; return what the command asked the compiler for."""
    calls: list[Any] = []

    def net_of(*arguments: Any, **options: Any) -> FakeNet:
        calls.append((*arguments, options))
        return FakeNet()

    monkeypatch.setattr(sources, "net_of", net_of)
    return calls


def call(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def command(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    line = [sys.executable, "-m", "fluxcompile.cli", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(REPO), "FLUX_LOG": ""} | environment
    env = {key: value for key, value in env.items() if value}
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True)


def test_run_compares_and_writes(clip: Path, asked: list[Any], tmp_path: Path) -> None:
    video, page = tmp_path / "out.mp4", tmp_path / "deep" / "report.html"
    result = call(
        "run",
        clip,
        "--model",
        "net.onnx",
        "-o",
        video,
        "--report",
        page,
        "--policy",
        "exact",
        "--policy",
        "threshold=30",
        "--json",
    )
    found = json.loads(result.stdout)
    assert [row["setting"] for row in found["settings"]] == ["dense", "exact", "approximate"]
    assert [row["frames"] for row in found["settings"]] == [8, 8, 8]
    dense, exact, approximate = (row["work_share"] for row in found["settings"])
    assert dense == 1.0 > exact >= approximate > 1 / 8
    assert found["settings"][1]["agreement"] == 1.0
    assert found["files"] == [str(video), str(page)]
    assert probe(video).num_frames == 8
    assert "data:video/mp4" in page.read_text()
    assert asked == [("net.onnx", None, "auto", {})]


def test_run_is_exact_unless_told(clip: Path, asked: list[Any]) -> None:
    def settings(*options: object) -> list[str]:
        found = json.loads(call("run", clip, "-m", "x.onnx", "--json", *options).stdout)
        return [row["setting"] for row in found["settings"]]

    assert settings() == ["dense", "exact"]
    assert settings("--policy", "gate=0.1") == ["dense", "approximate"]
    assert settings("--no-compare", "--policy", "radius=8") == ["approximate"]


def test_run_frames_and_start(clip: Path, asked: list[Any]) -> None:
    found = json.loads(call("run", clip, "-m", "x.onnx", "--frames", 3, "--start", 4, "--json").stdout)
    assert found["settings"][0]["frames"] == 3


def test_run_prints_a_table(clip: Path, asked: list[Any]) -> None:
    result = call("run", clip, "-m", "x.onnx")
    assert "exact" in result.stderr
    assert result.stdout == ""


def test_run_past_the_end(clip: Path, asked: list[Any], tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli.app, ["run", str(clip), "-m", "x.onnx", "--start", "50", "-o", str(tmp_path / "o.mp4")]
    )
    assert "no frame to play" in str(result.exception)
    assert not (tmp_path / "o.mp4").exists()


def test_run_of_a_truncated_clip_keeps_its_frames(clip: Path, asked: list[Any]) -> None:
    clip.write_bytes(clip.read_bytes()[:-40])
    found = json.loads(call("run", clip, "-m", "x.onnx", "--json").stdout)
    assert found["settings"][0]["frames"] > 0
    assert "clip.mp4" in found["notes"][0]


def test_run_interrupted_leaves_results(
    clip: Path, asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = FakeNet.dense
    calls = []

    def dense(self: FakeNet, frame: np.ndarray) -> Any:
        calls.append(frame)
        if len(calls) > 7:  # two a frame, and one that warms the stream
            raise KeyboardInterrupt
        return inner(self, frame)

    monkeypatch.setattr(FakeNet, "dense", dense)
    video, page = tmp_path / "out.mp4", tmp_path / "report.html"
    result = call("run", clip, "-m", "x.onnx", "-o", video, "--report", page, "--json", code=130)
    assert json.loads(result.stdout)["interrupted"]
    assert probe(video).num_frames == 3
    assert "stopped before the end" in page.read_text()


def test_compile(asked: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "net.flux"
    options = ("--example", "1x3x64x96,1x2", "--without", "a, b", "--pixels", "unit", "--attention", "incremental")
    found = json.loads(call("compile", "pkg:net", "-o", path, *options, "--json").stdout)
    assert path.read_bytes() == b"program"
    expected = {"layers": 2, "total_macs": 1000, "blocked_mac_share": 0.9, "bytes": 7}
    assert {key: found[key] for key in expected} == expected
    assert asked == [("pkg:net", [(1, 3, 64, 96), (1, 2)], "unit", {"without": ["a", "b"], "attention": "incremental"})]
    assert "64x96x3" in call("compile", "pkg:net", "-o", path).stderr


def test_explain(asked: list[Any]) -> None:
    assert call("explain", "net.flux").stdout == "stem  map /16  blocked\n"
    assert json.loads(call("explain", "net.flux", "--json").stdout)["layers"][0]["name"] == "stem"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compile", "missing.onnx"), "error: missing.onnx: no such file"),
        (("explain", "missing.flux"), "error: missing.flux: no such file"),
        (("run", "missing.mp4", "-m", "missing.onnx"), "error: missing.mp4: no such file"),
        (("compile", "x:y", "--example", "3xfour"), "--example is '3xfour'"),
        (("compile", "x:y", "--example", "1x0x4"), "--example is '1x0x4'"),
        (("compile", "x.onnx", "--pixels", "blue"), "--pixels is 'blue'"),
    ],
)
def test_mistakes_are_one_message(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = command("compile", "missing.onnx", cwd=tmp_path, FLUX_LOG="debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "error: missing.onnx: no such file" in done.stderr


def test_bad_flag_is_one_message(tmp_path: Path) -> None:
    done = command("compile", "missing.onnx", cwd=tmp_path, FLUX_LOG="loud")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "FLUX_LOG is 'loud'" in done.stderr


def test_missing_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; sys.argv[1:] = ['explain', 'm:n']\n"
    code += "from fluxcompile.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2
    assert "this needs torch: pip install 'fluxcompile[compile]'" in done.stderr


def test_output_that_cannot_be_written(tmp_path: Path, asked: list[Any]) -> None:
    (tmp_path / "file").write_text("")
    code = "import sys; from fluxcompile import cli, sources; from tests.fake_net import FakeNet\n"
    code += "sources.net_of = lambda *arguments, **options: FakeNet(); cli.main()"
    line = [sys.executable, "-c", code, "compile", "m:n", "-o", str(tmp_path / "file" / "net.flux")]
    done = subprocess.run(line, cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "error: " in done.stderr
    call("compile", "m:n", "-o", tmp_path / "new" / "net.flux")
    assert (tmp_path / "new" / "net.flux").exists()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(64, 96, 3), (1, 4)], "one RGB image as input"),
        ([(64, 96, 1)], "one RGB image as input"),
        ([(1, 3, 64, 96)], "compile it again with --pixels"),
    ],
)
def test_net_that_takes_no_video(
    shapes: list[tuple[int, ...]], message: str, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = FakeNet()
    net.input_shapes = shapes
    monkeypatch.setattr(sources, "net_of", lambda *arguments, **options: net)
    result = CliRunner().invoke(cli.app, ["run", str(clip), "-m", "net.onnx"])
    assert message in str(result.exception)


def test_help_is_quick_and_loads_no_torch(tmp_path: Path) -> None:
    began = time.perf_counter()
    done = command("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert time.perf_counter() - began < 5
    code = "import sys, fluxcompile.cli; print([m for m in ('torch', 'cv2', 'av', 'jinja2') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True)
    assert loaded.stdout == b"[]\n"


def test_explain_the_plan() -> None:
    steps = json.loads(call("explain", "zoo:unet-mini", "--plan", "--json").stdout)["steps"]
    assert call("explain", "zoo:unet-mini", "--plan").stdout.splitlines() == steps
    assert steps[0].startswith("b0[0:64x96, 0:3] = input(")
    assert any("conv2d(" in step and "# stem.0.conv" in step for step in steps)
