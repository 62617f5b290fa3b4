"""Models with real weights equal the exports that came with the weights."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fluxcompile.models.vit import load_vit_segment
from fluxcompile.models.weights import picture
from fluxcompile.models.yolo11 import YOLO11, load_yolo11

YOLOS = [("yolo11n", "detect"), ("yolo11n-pose", "pose")]


def bedroom(shared) -> Tensor:
    """A frame with two children, letterboxed: [1, 3, 640, 640] in [0, 1]."""
    av = pytest.importorskip("av")
    with av.open(str(shared("data/clips/handheld_bedroom_kids.mp4"))) as clip:
        frame = next(clip.decode(video=0)).to_ndarray(width=640, height=360, format="rgb24")
    square = np.full((640, 640, 3), 114, np.uint8)
    square[140:500] = frame
    return torch.from_numpy(square).permute(2, 0, 1)[None] / 255


def assert_same_detections(given: Tensor, expected: Tensor, task: str) -> None:
    """Within 0.01 px and 1e-4 of score: torch and ONNX Runtime both lie up to 0.002 px from float64."""
    scores = [4] if task == "pose" else list(range(4, 84))
    if task == "pose":
        scores += range(7, 56, 3)
    pixels = [row for row in range(given.shape[1]) if row not in scores]
    torch.testing.assert_close(given[:, pixels], expected[:, pixels], rtol=0, atol=1e-2)
    torch.testing.assert_close(given[:, scores], expected[:, scores], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "task"), YOLOS)
def test_yolo11_equals_its_onnx(shared, name, task):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(shared(f"data/models/{name}.onnx")), options)
    model = load_yolo11(shared(f"data/models/{name}.safetensors"), task=task)
    assert next(model.parameters()).dtype == torch.float32
    for x in (torch.rand(1, 3, 640, 640, generator=torch.Generator().manual_seed(0)), bedroom(shared)):
        expected = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
        with torch.no_grad():
            assert_same_detections(model(x), expected, task)
    assert expected[0, 4].max() > 0.8  # persons were there to be found

    with torch.no_grad():  # a control: one weight in a thousand, one percent wrong
        weight = model.stage3.cv1.conv.weight
        weight.view(-1)[::1000] *= 1.01
        wrong = model(x)
    with pytest.raises(AssertionError):
        assert_same_detections(wrong, expected, task)


@pytest.mark.parametrize(("task", "rows"), [("detect", 84), ("pose", 56), ("segment", 116)])
def test_yolo11_takes_any_multiple_of_32(task, rows):
    model = YOLO11("n", task, 1 if task == "pose" else 80).eval()
    with torch.no_grad():
        outputs = model(torch.zeros(1, 3, 96, 160))
    detections = outputs[0] if task == "segment" else outputs
    assert detections.shape == (1, rows, 15 * 16 + 15 * 4 + 15)
    if task == "segment":
        assert outputs[1].shape == (1, 32, 24, 40)


def test_yolo11_says_no_to_weights_of_another_size(shared):
    with pytest.raises(RuntimeError, match="size mismatch for stem"):
        load_yolo11(shared("data/models/yolo11n.safetensors"), size="s")


def test_vit_segment_equals_its_export(shared):
    model = load_vit_segment(shared("data/models/vit_seg_selfmade.safetensors"))
    export = torch.export.load(shared("data/models/vit_seg_selfmade.pt2")).module()
    x = (picture((1, 3, 256, 448)) - 0.45) / 0.225
    with torch.no_grad():
        expected = export(x)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
        model.position.copy_(model.position.roll(1, 1))  # a control: positions one token off
        with pytest.raises(AssertionError):
            torch.testing.assert_close(model(x), expected, rtol=1e-2, atol=1e-2)
