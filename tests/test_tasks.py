"""What outputs mean and how results are compared, with boxes made by hand; each figure has a control that must fall."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.errors import OptionError
from fluxcompile.tasks import TASKS, TaskError, delay_figures, match, new_object_delays, overlaps, task_of

SIZE = (64, 96)


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 6)


def head(*rows: tuple[float, ...], classes: int = 3, count: int = 50) -> list[np.ndarray]:
    """A YOLO head [1, 4 + classes, n] of rows cx, cy, w, h, class, score."""
    found = np.zeros((1, 4 + classes, count), np.float32)
    for at, (cx, cy, w, h, kind, score) in enumerate(rows):
        found[0, :4, at] = cx, cy, w, h
        found[0, 4 + int(kind), at] = score
    return [found]


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        ([(1, 84, 8400)], "detect"),
        ([(1, 3549, 85)], "detect"),
        ([(1, 56, 8400)], "keypoints"),
        ([(1, 20, 64, 128)], "segment"),
        ([(1, 2, 64, 128), (1, 2, 64, 128)], "segment"),
        ([(1, 1, 64, 128), (1, 128, 64, 128)], "regress"),
        ([(1, 1000)], "regress"),
        ([(1, 84, 8400), (1, 32, 160, 160)], "regress"),
        ([], "regress"),
    ],
)
def test_shapes_suggest_a_task(shapes: list[tuple[int, ...]], name: str) -> None:
    assert task_of([np.zeros(shape, np.float32) for shape in shapes]).name == name


def test_a_name_decides() -> None:
    assert task_of([np.zeros((1, 56, 8400))], "detect") is TASKS["detect"]
    with pytest.raises(OptionError, match="use detect, keypoints, segment, regress"):
        task_of([], "count")


def test_boxes_of_a_yolo_head() -> None:
    outputs = head(
        (20, 20, 10, 10, 1, 0.9),
        (21, 20, 10, 10, 1, 0.8),  # overlaps the first
        (21, 20, 10, 10, 2, 0.7),  # another class
        (60, 40, 8, 4, 0, 0.25),
        (60, 20, 8, 4, 0, 0.24),  # too low
    )
    found = TASKS["detect"].decode(outputs, SIZE)
    expected = boxes((15, 15, 25, 25, 0.9, 1), (16, 15, 26, 25, 0.7, 2), (56, 38, 64, 42, 0.25, 0))
    np.testing.assert_allclose(found[np.argsort(-found[:, 4])], expected, atol=1e-6)
    assert TASKS["detect"].decode(head(), SIZE).shape == (0, 6)


def test_yolox_is_decoded_once() -> None:
    """Cell (1, 2) of stride 16 comes after the 8 x 12 cells of stride 8."""
    raw = np.zeros((1, 96 + 24 + 6, 8), np.float32)
    raw[0, 96 + 1 * 6 + 2] = 0.5, 0.25, np.log(2), np.log(0.5), 0.9, 0, 1, 0
    (found,) = TASKS["detect"].decode([raw], SIZE)
    cx, cy, w, h = 2.5 * 16, 1.25 * 16, 32, 8
    np.testing.assert_allclose(found, [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, 0.9, 1], rtol=1e-5)
    decoded = raw.copy()
    decoded[0, 96 + 8, :4] = cx, cy, w, h
    np.testing.assert_allclose(TASKS["detect"].decode([decoded], SIZE), [found], rtol=1e-5)
    with pytest.raises(TaskError, match="126 candidates; an input of"):
        TASKS["detect"].decode([raw], (64, 64))


def test_overlaps() -> None:
    one, two = boxes((0, 0, 10, 10, 1, 0)), boxes((0, 0, 10, 5, 1, 0), (5, 5, 15, 15, 1, 0), (20, 0, 30, 10, 1, 0))
    np.testing.assert_allclose(overlaps(one, two), [[0.5, 25 / 175, 0]])
    assert overlaps(boxes((3, 3, 3, 3, 1, 0)), boxes((3, 3, 3, 3, 1, 0))) == 0


def test_boxes_match_one_to_one_within_a_class() -> None:
    two = boxes((0, 0, 10, 10, 0.5, 0), (1, 0, 11, 10, 0.9, 0), (0, 0, 10, 10, 0.9, 1))
    one = boxes((0, 0, 10, 10, 0.9, 0))
    assert match(two, one, 0.5) == [-1, 0, -1]
    assert match(one, two, 0.5) == [0]


def test_a_margin_of_scores() -> None:
    detect = TASKS["detect"]
    clear, faint = boxes((0, 0, 10, 10, 0.45, 0)), boxes((0, 0, 10, 10, 0.26, 0))
    told = detect.agreement([clear], [faint])
    assert (told["f1_50"], told["precision_50"], told["recall_50"], told["boxes"]) == (1.0, 1.0, None, 0)
    assert detect.agreement([faint], [faint])["f1_50"] is None  # neither side has a clear one
    assert detect.agreement([faint], [boxes()])["f1_50"] is None
    assert detect.agreement([clear], [boxes()])["f1_50"] == 0.0
    assert detect.agreement([], []) == {
        "f1_50": None, "precision_50": None, "recall_50": None,
        "f1_75": None, "precision_75": None, "recall_75": None, "boxes": 0, "per_frame": [],
    }  # fmt: skip


def test_figures_are_over_all_boxes_of_a_clip() -> None:
    here, moved = (0, 0, 10, 10, 0.9, 0), (4, 0, 14, 10, 0.9, 0)  # overlap 6 / 14
    shifted = (1.5, 0, 11.5, 10, 0.9, 0)  # 8.5 / 11.5: enough for 0.5, not for 0.75
    told = TASKS["detect"].agreement(
        [boxes(here), boxes(moved), boxes(shifted), boxes()],
        [boxes(here), boxes(here), boxes(here), boxes(here, (50, 0, 60, 10, 0.9, 2))],
    )
    assert told["per_frame"] == [1.0, 0.0, 1.0, 0.0]
    assert (told["precision_50"], told["recall_50"], told["boxes"]) == (2 / 3, 2 / 5, 5)
    assert told["f1_50"] == pytest.approx(4 / 8)
    assert told["f1_75"] == pytest.approx(2 / 8)


@st.composite
def some_boxes(draw: st.DrawFn) -> np.ndarray:
    side, score = st.integers(1, 20), st.floats(0.25, 1, width=32)
    rows = draw(st.lists(st.tuples(side, side, side, side, score, st.integers(0, 2)), max_size=6))
    return boxes(*((x, y, x + w, y + h, s, c) for x, y, w, h, s, c in rows))


@settings(deadline=None, derandomize=True)
@given(some_boxes(), some_boxes())
def test_agreement_of_boxes(one: np.ndarray, two: np.ndarray) -> None:
    detect = TASKS["detect"]
    there = detect.agreement([one], [two])
    back = detect.agreement([two], [one])
    assert there["f1_50"] == back["f1_50"]
    assert there["precision_75"] == back["recall_75"]
    assert there["f1_50"] is None or 0 <= there["f1_50"] <= 1
    if len(one) and (one[:, 4] >= 0.4).any():
        assert detect.agreement([one], [one])["f1_75"] == 1.0
        far = one.copy()
        far[:, :4] += 100
        assert detect.agreement([one], [far])["f1_50"] == 0.0


def test_persons() -> None:
    keypoints = TASKS["keypoints"]
    outputs = np.zeros((1, 5 + 3 * 17, 100), np.float32)
    outputs[0, :5, 0] = 50, 30, 20, 40, 0.8
    outputs[0, 5:, 0] = np.tile([48, 30, 0.9], 17)
    (found,) = keypoints.decode([outputs], SIZE)
    np.testing.assert_allclose(found[:9], [40, 10, 60, 50, 0.8, 0, 48, 30, 0.9])
    assert keypoints.agreement([found[None]], [found[None]])["oks"] == 1.0
    near, far, hidden = found.copy(), found.copy(), found.copy()
    near[6] += 3.9  # one keypoint, just within a tenth of the box's 40 pixels
    far[6] += 4.1
    hidden[8] = 0.1
    assert keypoints.agreement([near[None]], [found[None]])["pck"] == 1.0
    worse = keypoints.agreement([far[None]], [found[None]])
    assert worse["pck"] == pytest.approx(16 / 17)
    assert 16 / 17 < worse["oks"] < 1
    assert keypoints.agreement([far[None]], [hidden[None]])["pck"] == 1.0  # dense does not see that one
    with pytest.raises(TaskError, match=r"must be \[1, 5 \+ 3k, n\]"):
        keypoints.decode([outputs[:, :9]], SIZE)


def test_maps() -> None:
    segment = TASKS["segment"]
    logits = np.zeros((1, 3, 4, 4), np.float32)
    logits[0, 1, :2] = 1
    result = segment.decode([logits], SIZE)
    assert segment.agreement([result], [result]) == {"miou": 1.0, "equal": 1.0, "per_frame": [1.0]}
    logits[0, 2, 0] = 2
    told = segment.agreement([segment.decode([logits], SIZE), result], [result, result])
    assert told["equal"] == pytest.approx(28 / 32)
    assert told["miou"] == pytest.approx((1 + 12 / 16 + 0) / 3)
    assert told["per_frame"] == [pytest.approx((1 + 0.5 + 0) / 3), 1.0]


def test_numbers() -> None:
    regress = TASKS["regress"]
    one, big = np.array([3.0, 4.0], np.float32), np.ones((1, 2, 300, 300), np.float32)
    result = regress.decode([one, big], SIZE)
    assert [x.size for x in result] == [2, 65536]
    assert regress.agreement([result], [result])["likeness"] == 1.0
    worse = regress.decode([one * 1.1, big], SIZE)
    assert regress.agreement([worse], [result])["likeness"] == pytest.approx(0.9)
    lost = regress.decode([np.array([np.nan, 4.0], np.float32), big], SIZE)
    assert regress.agreement([lost], [result])["likeness"] == 0.0
    assert regress.agreement([lost], [lost])["likeness"] == 1.0


def test_new_objects() -> None:
    def at(frame: int) -> np.ndarray:
        return boxes((2 * frame, 0, 2 * frame + 10, 10, 0.9, 0))

    old = (60, 0, 80, 20, 0.9, 1)
    dense = [boxes(old), boxes(old)] + [np.concatenate([boxes(old), at(k)]) for k in range(6)]
    late = [boxes(old)] * 5 + [np.concatenate([boxes(old), at(k)]) for k in range(3, 6)]
    assert [(d.frames, d.found) for d in new_object_delays(dense, dense)] == [(0, True)]
    assert [(d.frames, d.found) for d in new_object_delays(late, dense)] == [(3, True)]
    blind = [boxes(old)] * 8
    delays = new_object_delays(blind, dense)
    assert [(d.frames, d.found) for d in delays] == [(6, False)]
    assert delay_figures(delays) == {"objects": 1, "median": 6.0, "worst": 6, "lost": 1}
    assert delay_figures([]) == {"objects": 0, "median": None, "worst": None, "lost": 0}
    flicker = [boxes(old), boxes(old, (0, 0, 10, 10, 0.9, 0)), boxes(old), boxes(old)]
    assert new_object_delays(blind[:4], flicker) == []
    back = [boxes(old), boxes(old), boxes(), boxes(old), boxes(old), boxes(old)]
    assert new_object_delays(back, back) == []  # away for a frame
