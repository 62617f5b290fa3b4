"""OpenVINO int8: it is quantised, alike every time, never on the clip it is measured on; its row is a stream's."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fluxcompile import Frames, OptionError, fluxcompile
from fluxcompile.measure.peers import Model, arrays, difference
from fluxcompile.measure.peers import int8 as peer
from fluxcompile.measure.peers.openvino import open_openvino, read
from fluxcompile.measure.peers.shown import as_input
from fluxcompile.models import build
from fluxcompile.runtime.fit import Image, fit
from fluxcompile.runtime.video import Writer, frames
from fluxcompile.tasks import TASKS

SIZE = (64, 96)
needs_nncf = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("openvino", "nncf")),
    reason="openvino and nncf are not installed: pip install '.[int8]'",
)


def showing(model: Model, pixels: Frames) -> Callable[[Image], None]:
    def show(image: Image) -> None:
        model.frames[0][...] = as_input(image, pixels)

    return show


@pytest.fixture(scope="module")
def unet() -> Any:
    module = build("unet-mini")
    return module, fluxcompile(module, torch.zeros(1, 3, *SIZE), frames=Frames())


@pytest.fixture
def model(unet: Any) -> Model:
    return Model(unet[0], unet[1].program, [np.zeros((1, 3, *SIZE), np.float32)])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three clips of eight frames: clip k is as bright as 60 k + its frame's number."""
    folder = tmp_path_factory.mktemp("clips")
    for k in range(3):
        with Writer(folder / f"clip{k}.mp4", fps=10, crf=1) as writer:
            for index in range(8):
                writer.write(np.full((*SIZE, 3), 40 + 60 * k + 4 * index, np.uint8))
    return sorted(folder.glob("*.mp4"))


def brightness(images: list[Image]) -> list[int]:
    return [round((int(image.mean()) - 40) / 4) for image in images]


def noise(count: int = 6) -> list[Image]:
    return list(np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8))


@needs_nncf
@pytest.mark.filterwarnings("ignore")
def test_int8_is_quantised_near_float_and_alike_every_time(model: Model) -> None:
    show = showing(model, Frames())
    one, two = (peer.int8(model, noise(), show, 1) for _ in range(2))
    show(noise()[0])
    exact = arrays(open_openvino(model, 1)())
    found = arrays(one.infer())
    assert (one.name, bool(one.version)) == ("openvino-int8", True)
    assert 1e-4 < difference(found, exact) < 0.1  # float peers lie within 1e-5
    assert difference(arrays(two.infer()), found) == 0


@needs_nncf
@pytest.mark.filterwarnings("ignore")
def test_it_reads_what_is_shown(model: Model) -> None:
    show = showing(model, Frames())
    infer = peer.int8(model, noise(), show, 1).infer
    show(noise()[0])
    before = arrays(infer())
    show(noise()[1])
    assert difference(arrays(infer()), before) > 0.01


@needs_nncf
@pytest.mark.filterwarnings("ignore")
def test_only_what_no_layer_follows_stays_float() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.SiLU(), nn.Upsample(scale_factor=2))
    frame = np.zeros((1, 3, *SIZE), np.float32)
    found = read(Model(net.eval(), fluxcompile(net.eval(), torch.from_numpy(frame)).program, [frame]))
    kinds = {op.get_friendly_name(): op.get_type_name() for op in found.get_ordered_ops()}
    end = [kinds[name] for name in peer.unweighted_end(found)]
    assert "Convolution" not in end
    assert sum(kind in ("Swish", "Sigmoid") for kind in end) == 1
    assert any("Interpolate" in kind for kind in end)


def test_ranges_come_from_other_clips(clips: list[Path]) -> None:
    calibration = peer.Calibration(clips, SIZE)
    images, names = calibration.without(clips[1])
    assert names == "clip0, clip2"
    assert brightness(images) == [*range(8), *range(30, 38)]
    assert brightness(peer.Calibration(clips, SIZE, count=2).without(clips[0])[0]) == [15, 16, 30, 31]


def test_a_single_clip_lends_its_first_quarter(clips: list[Path]) -> None:
    images, names = peer.Calibration(clips[:1], SIZE).without(clips[0])
    assert (brightness(images), names) == ([0, 1], "the first quarter of clip0")


def test_few_frames_spread_over_a_clip(clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "CALIBRATION_FRAMES", 6)
    images, _ = peer.Calibration(clips, SIZE).without(clips[0])
    assert brightness(images) == [15, 18, 21, 30, 33, 36]


@needs_nncf
@pytest.mark.filterwarnings("ignore")
def test_a_row_is_measured_against_dense(unet: Any, model: Model, clips: list[Path]) -> None:
    images = list(frames(clips[1]))
    task = TASKS["regress"]
    dense = [task.decode(arrays(unet[1].dense(image)), SIZE) for image in images]
    given = {"model": model, "show": showing(model, Frames()), "task": task, "size": SIZE, "threads": 1}
    given |= {"calibration": peer.Calibration(clips, SIZE), "best": open_openvino(model, 1)}
    row = peer.int8_row(clips[1], images, dense, **given)
    assert (row["clip"], row["frames"], row["calibrated_on"]) == ("clip1", 8, "clip0, clip2")
    assert 0.5 < row["likeness"] < 0.99999
    assert len(row["per_frame"]["likeness"]) == 8
    assert row["of_best_dense"] > 0
    json.dumps(row)
    wrong = peer.int8_row(clips[1], images, [dense[-1], *dense[:-1]], **given | {"best": None})
    assert wrong["likeness"] < row["likeness"]
    assert (wrong["peer_ms"], wrong["of_best_dense"]) == (None, None)


def test_without_nncf_the_extra_is_named(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(OptionError, match=r"pip install 'fluxcompile\[int8\]'"):
        peer.int8(model, noise(), showing(model, Frames()), 1)


@needs_nncf
@pytest.mark.slow
def test_a_detector_in_int8_finds_what_float_finds(shared: Callable[[str], Path]) -> None:
    path, task = shared("data/models/yolo11n.onnx"), TASKS["detect"]
    names = ("driving_highway", "static_lobby_people", "static_garden_dog")
    films = {name: shared(f"data/clips/{name}.mp4") for name in names}
    model = Model(path, None, [np.zeros((1, 3, 640, 640), np.float32)])  # type: ignore[arg-type]
    show, exact = showing(model, Frames()), open_openvino(model, 1)
    images = {name: [fit(image, 640, 640)[0] for image in frames(film, count=6)] for name, film in films.items()}
    infer = peer.int8(model, images["driving_highway"] + images["static_lobby_people"], show, 1).infer
    results: dict[str, list[Any]] = {"float": [], "int8": []}
    for image in images["static_garden_dog"]:
        show(image)
        results["float"].append(task.decode(arrays(exact()), (640, 640)))
        results["int8"].append(task.decode(arrays(infer()), (640, 640)))
    figures = task.agreement(results["int8"], results["float"])
    assert figures["boxes"] > 0
    assert figures["f1_50"] > 0.9
