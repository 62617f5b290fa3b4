"""Streams over clips: what is counted and kept, how it fails. No figure here is a claim about speed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fluxcompile import Frames, Net, OptionError, Policy, cli, fluxcompile, sources
from fluxcompile.measure import clip_figures
from fluxcompile.measure.clip_runs import Plan
from fluxcompile.measure.clips import find_clips, measure
from fluxcompile.measure.peers.shown import as_input
from fluxcompile.options import VIDEO
from fluxcompile.runtime.video import VideoError, Writer
from fluxcompile.sources import Model

SIZE = (64, 96)
POLICY = Policy(exact=False, residual=3.0, radius=8)
ROW = {
    "clip", "frames", "work_share", "speedup", "ms", "ms_mean", "ms_worst", "peer_ms", "peer_ms_least",
    "of_best_dense", "hit_ratio", "dense_frames", "rolls", "at_camera", "first_quarter", "last_quarter", "per_frame",
}  # fmt: skip
BOXES = {
    "f1_50", "f1_75", "precision_50", "precision_75", "recall_50", "recall_75", "boxes", "new_object_delay",
    "map", "map_50", "map_75",
}  # fmt: skip


class Bright(nn.Module):
    """Finds what is bright: a head of one candidate for each cell of 8 pixels, one class."""

    def __init__(self) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(3, 1, 8, stride=8)
        nn.init.constant_(self.shrink.weight, 1 / 192)
        nn.init.constant_(self.shrink.bias, 0.0)
        y, x = torch.meshgrid(torch.arange(SIZE[0] // 8), torch.arange(SIZE[1] // 8), indexing="ij")
        self.register_buffer("centres", 8.0 * torch.stack([x, y]).float()[None] + 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        bright = self.shrink(image)
        sides = torch.cat([bright, bright], 1) * 0 + 8
        return torch.cat([bright * 0 + self.centres, sides, bright], 1).flatten(2)


@pytest.fixture(scope="module")
def net() -> Net:
    return fluxcompile(Bright().eval(), torch.zeros(1, 3, *SIZE), frames=Frames())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips: a bright square that comes at frame 4 and steps aside at frame 8, and nothing at all."""
    path = tmp_path_factory.mktemp("clips")
    for name, steps in (("moving", True), ("still", False)):
        with Writer(path / f"{name}.mp4", fps=10, crf=1) as writer:
            for index in range(12):
                image = np.full((*SIZE, 3), 20, np.uint8)
                if steps and index >= 4:
                    left = 8 * (index // 4 - 1)
                    image[16:32, left : left + 16] = 235
                writer.write(image)
    (path / "notes.txt").write_text("no clip")
    return path


def plan(*policies: Policy, **options: Any) -> Plan:
    return Plan(**{"policies": policies or (POLICY,), "peers": ("torch",), **options})


def measured(net: Net, folder: Path, *policies: Policy, **options: Any) -> Any:
    return measure("bright", net, Bright().eval(), Frames(), find_clips(str(folder)), plan(*policies, **options))


def test_an_exact_stream_agrees_and_a_blind_one_does_not(net: Net, folder: Path) -> None:
    exact, blind = measured(net, folder, Policy(), Policy(exact=False, residual=255))
    assert (exact.task, exact.figure, exact.best_dense) == ("detect", "f1_50", "torch")
    moving, still = exact.clips
    assert set(moving) == ROW | BOXES
    assert set(exact.all) == (ROW | BOXES) - {"per_frame"}
    assert (moving["clip"], moving["frames"], moving["f1_50"], moving["f1_75"]) == ("moving", 12, 1.0, 1.0)
    assert moving["boxes"] == exact.all["boxes"] == 8 * 4  # the square covers four cells
    assert (moving["first_quarter"], moving["last_quarter"]) == (None, 1.0)
    assert moving["new_object_delay"] == {"objects": 4 + 2, "median": 0, "worst": 0, "lost": 0}
    assert (still["boxes"], still["f1_50"], still["first_quarter"]) == (0, None, None)
    assert exact.all["frames"] == 24
    assert (moving["dense_frames"], still["dense_frames"], exact.all["dense_frames"]) == (1, 1, 2)
    assert 0 < still["work_share"] < moving["work_share"] < 1
    assert still["hit_ratio"] > moving["hit_ratio"]

    moving, still = blind.clips
    assert (moving["f1_50"], moving["last_quarter"], blind.all["f1_50"]) == (0.0, 0.0, 0.0)
    assert moving["work_share"] == pytest.approx(1 / 12)
    assert moving["hit_ratio"] == pytest.approx(11 / 12)
    late = moving["new_object_delay"]
    assert (late["objects"], late["lost"]) == (6, 6)
    assert blind.all["new_object_delay"] == late


def test_frames_that_move_are_held_against_dense_where_they_lay(net: Net, tmp_path: Path) -> None:
    """A camera that pans, by whole pixels once shrunk: results agree at the same place, and, brought back, with the camera's view."""
    scene = np.random.default_rng(0).integers(0, 100, (SIZE[0] // 4, 60, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    scene[24:40, 100:116] = 235
    with Writer(tmp_path / "pan.mp4", fps=10, crf=1) as writer:
        for index in range(12):
            writer.write(np.ascontiguousarray(scene[:, 8 * index : 8 * index + SIZE[1]]))
    (result,) = measured(net, tmp_path, replace(VIDEO, residual=1.0))
    (row,) = result.clips
    assert row["boxes"] > 0
    assert row["f1_50"] > 0.98
    assert row["rolls"] == 0
    assert 1 < row["dense_frames"] < 5  # where the margin is used up: torch computes a part of this net
    assert row["at_camera"]["boxes"] > 0


def test_times_are_of_the_same_frames(net: Net, folder: Path) -> None:
    (result,) = measured(net, folder)
    row = result.clips[0]
    assert row["ms"] <= row["ms_worst"]
    assert row["speedup"] == row["peer_ms"] / row["ms"]
    assert row["peer_ms_least"] <= row["peer_ms"]
    assert len(row["per_frame"]["ms"]) == len(row["per_frame"]["f1_50"]) == 12
    assert max(row["per_frame"]["ms"]) == row["ms_worst"]
    json.dumps(result.to_json())


def test_what_the_peer_gets_is_what_the_model_sees(net: Net) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    pixels = sources.IMAGENET
    other = fluxcompile(Bright().eval(), torch.zeros(1, 3, *SIZE), frames=pixels)
    with torch.no_grad():
        expected = Bright().eval()(torch.from_numpy(as_input(image, pixels)))
    torch.testing.assert_close(torch.as_tensor(other.dense(image)), expected)


def test_frames_and_tasks_can_be_told(net: Net, folder: Path) -> None:
    (result,) = measured(net, folder, frames=5, task="regress", peers=())
    assert (result.clips[0]["frames"], result.task, result.best_dense) == (5, "regress", None)
    assert (result.clips[0]["speedup"], result.all["of_best_dense"]) == (None, None)
    assert 0.9 < result.clips[0]["likeness"] <= 1


@pytest.mark.parametrize(("stop", "frames"), [("moving", [7]), ("still", [12, 7]), ("still: dense", [12])])
def test_an_interrupt_keeps_what_was_done(net: Net, folder: Path, stop: str, frames: list[int]) -> None:
    def on_step(what: str, done: int, total: int) -> None:
        if what == stop and done == 7:
            raise KeyboardInterrupt

    (result,) = measure("bright", net, None, None, find_clips(str(folder)), plan(peers=()), on_step=on_step)
    assert result.interrupted
    assert [row["frames"] for row in result.clips] == frames
    assert result.all is not None
    assert result.all["frames"] == sum(frames)


def test_a_clip_that_breaks_off(net: Net, folder: Path, tmp_path: Path) -> None:
    whole = (folder / "moving.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (result,) = measure("bright", net, None, None, [tmp_path / "cut.mp4"], plan(peers=()))
    assert len(result.notes) == 1
    assert "cut" in result.notes[0]


def test_a_clip_that_cannot_be_read_is_left_out(net: Net, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    both = [tmp_path / "bad.mp4", folder / "still.mp4"]
    (result,) = measure("bright", net, None, None, both, plan(peers=()))
    assert [row["clip"] for row in result.clips] == ["still"]
    assert "bad.mp4: cannot be opened" in result.notes[0]
    with pytest.raises(VideoError):
        measure("bright", net, None, None, both[:1], plan(peers=()))


def test_clips_are_found(folder: Path, tmp_path: Path) -> None:
    two = [folder / "moving.mp4", folder / "still.mp4"]
    assert find_clips(str(folder)) == two
    assert find_clips(f"{two[1]}, {two[0]}") == two[::-1]
    for text, message in ((str(tmp_path), "holds no clip"), ("none.mp4", "no such file"), (",", "names no clip")):
        with pytest.raises(OptionError, match=message):
            find_clips(text)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, net: Net) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setattr(sources, "find", lambda text: Model(Bright().eval(), None))
    monkeypatch.setattr(sources, "compile_model", lambda *arguments, **options: calls.append(arguments) or net)
    return calls


def call(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(cli.app, ["bench", "x", *(str(argument) for argument in arguments)])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def test_the_command(asked: list[Any], folder: Path, tmp_path: Path) -> None:
    options = ("--clips", folder, "--peers", "torch", "--frames", 8)
    found = json.loads(call(*options, "--json").stdout)
    assert found["policy"] == VIDEO.to_json()
    assert [row["clip"] for row in found["clips"]] == ["moving", "still"]
    assert asked[0][3] == "unit"
    policies = ("--policy", "residual=3,radius=8", "--policy", "residual=6")
    several = call(*options, *policies, "-o", tmp_path)
    assert "residual 6" in several.output
    files = ("clips.json", "clips.md", "clips.png", "clips.svg")
    assert all((tmp_path / name).stat().st_size > 100 for name in files)
    told = json.loads((tmp_path / "clips.json").read_text())["models"]
    assert [(r["policy"]["residual"], r["policy"]["radius"]) for r in told] == [(3, 8), (6, None)]
    table = (tmp_path / "clips.md").read_text()
    assert table == clip_figures.clips_markdown(told)
    assert "| moving | 8 |" in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--policy", "video"), "need clips"),
        (("--clips", ".", "--policy", "fast"), "'fast' is no policy; use exact, careful, video, bold or knob=value"),
        (("--clips", ".", "--policy", "speed=3"), "there is no knob 'speed'"),
        (("--clips", ".", "--policy", "video,radius=far"), "radius is 'far', which is no number"),
        (("--clips", "nowhere"), "no such file or folder"),
    ],
)
def test_options_that_do_not_fit(asked: list[Any], options: tuple[str, ...], message: str) -> None:
    assert message in str(call(*options, code=1).exception)


OWN = """
from fluxcompile.tasks import Task
brightness = Task.custom(
    salience=lambda outputs, size: outputs[0][0, 4].reshape(size[0] // 8, size[1] // 8) > 0.5,
    agreement=lambda outputs, dense: 1 - abs(float(outputs[0][0, 4].max() - dense[0][0, 4].max())),
    shift=lambda outputs, offset: outputs,
)
"""


def test_a_task_of_ones_own(asked: list[Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flux_brightness.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ("--clips", folder / "moving.mp4", "--peers", "torch", "--task", "flux_brightness:brightness")
    policies = ("--policy", "exact", "--policy", "residual=255", "-o", tmp_path / "out")
    assert "agreement as the task itself defines it" in " ".join(call(*options, *policies).output.split())
    exact, blind = json.loads((tmp_path / "out" / "clips.json").read_text())["models"]
    assert (exact["task"], exact["figure"]) == ("custom", "agreement")
    assert exact["all"]["agreement"] > 0.999 > 0.8 > blind["all"]["agreement"]
    assert "| agreement |" in (tmp_path / "out" / "clips.md").read_text()


def test_an_unknown_task(asked: list[Any], folder: Path) -> None:
    assert "use detect" in str(call("--clips", folder, "--task", "count", code=1).exception)
    assert "--pixels" in str(call("--clips", folder, "--pixels", "bgr", code=1).exception)
