"""What a clip played through a net adds up to, with a fake net whose numbers are known."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fluxcompile.options import Policy
from fluxcompile.pages import layers_of, run_of, settings_of, timeline_of
from fluxcompile.panels import PICTURES, Strip, panel
from fluxcompile.play import Playback, Setting, boxes_in, largest_error, play
from fluxcompile.runtime.fit import Image, Placement, fit
from fluxcompile.runtime.frame import leaves
from fluxcompile.runtime.overlay import CAUSES, Seen
from fluxcompile.runtime.salience import everywhere
from fluxcompile.runtime.video import TruncatedVideo
from fluxcompile.tasks import TASKS, Task
from fluxcompile.tasks.boxes import box_figures, compare_boxes, shift_boxes
from tests.fake_net import LAYERS, FakeNet

EXACT = Setting("exact", Policy(exact=True))
APPROXIMATE = Setting("approximate", Policy(exact=False, threshold=10.0))


def clip(count: int = 5, change: int = 4) -> Iterator[tuple[Image, Placement]]:
    """Yield frames in which one block of 24 brightens by `change` each time."""
    for index in range(count):
        image = np.full((64, 96, 3), 50, np.uint8)
        image[16:32, 16:32] += np.uint8(change * index)
        yield fit(image, 64, 96)


def test_exact_and_approximate_beside_dense() -> None:
    playback = play(FakeNet(), clip(), [EXACT, APPROXIMATE])
    dense, exact, approximate = playback.tracks
    assert dense.work_share == [1.0] * 5
    assert exact.work_share == pytest.approx([1.0] + [1 / 24] * 4)
    assert approximate.work_share == pytest.approx([1.0, 0, 0, 1 / 24, 0])  # 4 and 8 pass, 12 is too much
    assert (exact.max_error, approximate.max_error) == (0.0, 8.0)
    assert exact.agreement(playback.task) == 1.0
    assert 0.9 < (approximate.agreement(playback.task) or 0) < 1.0
    assert (exact.marks["dense"], playback.num_frames) == ([0], 5)


def test_boxes_agreement() -> None:
    def decode(outputs: object, size: tuple[int, int]) -> np.ndarray:
        (mean,) = outputs  # type: ignore[misc]
        level = mean[1, 1] - 50  # the box grows with the bright block
        return np.array([[0, 0, 10 + level, 10, 0.9, 0]], np.float32)

    task = Task("grows", "f1_75", decode, compare_boxes, box_figures, everywhere, shift_boxes)
    playback = play(FakeNet(), clip(change=5), [Setting("stale", Policy(exact=False, threshold=99.0))], task=task)
    (stale,) = playback.tracks[1:]
    # the stale box is 10 wide, dense 10, 15, 20, 25, 30: IoU 1 matches, .67 and less do not
    assert stale.agreement(task) == pytest.approx(0.2)
    assert stale.agreements == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert playback.tracks[0].agreement(task) == 1.0
    run = run_of(FakeNet(), playback, title="t", model="m", clip="c", size=(64, 96))
    assert (run.agreement_name, run.settings[1].agreement) == ("F1 of boxes at IoU 0.75", pytest.approx(0.2))


def test_the_task_is_guessed_from_the_outputs() -> None:
    playback = play(FakeNet(), clip(), [APPROXIMATE])
    assert playback.task is TASKS["regress"]
    assert run_of(FakeNet(), playback, title="t", model="m", clip="c", size=(64, 96)).agreement_name == "likeness"


def test_without_comparison() -> None:
    playback = play(FakeNet(), clip(), [EXACT], compare=False)
    assert [track.name for track in playback.tracks] == ["exact"]
    (row,) = settings_of(playback)
    assert (row.agreement, row.max_error) == (None, None)


def test_interrupt_keeps_what_was_done() -> None:
    def stopped() -> Iterator[tuple[Image, Placement]]:
        yield from clip(3)
        raise KeyboardInterrupt

    playback = play(FakeNet(), stopped(), [EXACT])
    assert playback.interrupted
    assert playback.num_frames == 3
    assert playback.pictures


def test_interrupt_within_a_frame_leaves_tracks_of_one_length() -> None:
    class Stopping(FakeNet):
        def stream(self, policy: Policy, *, task: Task | None = None) -> object:  # type: ignore[override]
            inner = super().stream(policy)

            class Stream:
                stats = inner.stats
                reset = inner.reset

                def __call__(self, frame: Image) -> object:
                    if inner.stats.frame == 1:  # after the frame that warms it, which a reset forgets
                        raise KeyboardInterrupt
                    return inner(frame)

            return Stream()

    playback = play(Stopping(), clip(), [EXACT])
    tracks = playback.tracks
    assert {len(values) for t in tracks for values in (t.work_share, t.ms, t.agreements)} == {2}


def test_clip_that_breaks_off_is_noted() -> None:
    def broken() -> Iterator[tuple[Image, Placement]]:
        yield from clip(2)
        raise TruncatedVideo("x.mp4: ends after frame 2 of 9")

    playback = play(FakeNet(), broken(), [EXACT])
    assert playback.notes == ["x.mp4: ends after frame 2 of 9"]
    assert playback.num_frames == 2


def test_run_of_holds_the_layers_of_the_last_setting(tmp_path: Path) -> None:
    net = FakeNet()
    playback = play(net, clip(), [EXACT])
    run = run_of(net, playback, title="t", model="m", clip="c", size=(64, 96), video=tmp_path / "missing.mp4")
    assert [layer.name for layer in run.layers] == [layer["name"] for layer in LAYERS]
    assert run.layers[0].share == pytest.approx((1 + 4 / 24) / 5)
    assert run.layers[1].share is None
    assert run.video_name == ""


def test_layers_of_no_frames() -> None:
    playback = Playback([])
    assert (
        layers_of({"layers": LAYERS}, play(FakeNet(), clip(1), [EXACT]).tracks[0], playback.num_frames)[0].share is None
    )


def test_leaves_of_a_tree() -> None:
    one, two, three = (np.full(2, value) for value in (1, 2, 3))
    found = leaves({"b": [one, (two, None)], "a": three})
    np.testing.assert_array_equal(found, [one, two, three])


@pytest.mark.parametrize(
    ("ours", "dense", "expected"),
    [
        ([1.0, 2.0], [1.0, 4.5], 2.5),
        ([float("nan")], [1.0], float("inf")),
        ([1.0], [float("nan")], float("inf")),
        ([float("inf"), 1.0], [float("inf"), 1.0], 0.0),
        ([], [], 0.0),
    ],
)
def test_largest_error(ours: list[float], dense: list[float], expected: float) -> None:
    assert largest_error(np.array(ours), np.array(dense)) == expected


def test_boxes_in_a_result() -> None:
    boxes = np.array([[0, 0, 9, 9, 0.9, 0], [0, 0, 9, 9, 0.3, 0]], np.float32)
    np.testing.assert_array_equal(boxes_in(boxes), boxes[:1])
    for other in ([boxes], np.zeros((4, 5), np.float32), None):
        assert boxes_in(other) is None


def test_panel_tints_what_the_frame_shows() -> None:
    image, placement = fit(np.full((360, 640, 3), 100, np.uint8), 640, 640)  # 140 grey rows above
    causes = np.zeros((80, 80), np.uint8)
    causes[20:24, 24:28] = CAUSES.index("salient")
    drawn = panel(
        image,
        placement,
        Seen(causes, offset=(placement.top, placement.left)),
        np.zeros((0, 5), np.float32),
        "exact",
        0.5,
    )
    header = drawn.shape[0] - placement.height
    assert drawn.shape[1] == 640
    red = drawn[header:, :-1, 0] > 130  # the last column is the seam
    rows, columns = np.nonzero(red)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (160 - 140, 191 - 140, 192, 223)
    assert red.sum() == 32 * 32


class Telling(FakeNet):
    """A net whose streams tell causes, an anchor and the time of their layers."""

    def stream(self, policy: Policy, *, task: Task | None = None) -> object:  # type: ignore[override]
        stream = super().stream(policy)
        stats = stream.stats

        class Stream:
            timed = False
            reset = stream.reset

            def time_layers(self, on: bool) -> None:
                self.timed = on

            def layer_ms(self) -> dict[str, float]:
                return {"stem": 3.0, "motion": 1.0} if self.timed else {}

            def __call__(self, frame: Image) -> object:
                outputs = stream(frame)
                self.stats.causes = np.full((9, 13), CAUSES.index("dense" if stats.dense else "hit"), np.uint8)
                self.stats.causes[0, 0] = CAUSES.index("stale")
                self.stats.shift = (0, 8 * (stats.frame == 2))
                self.stats.roll = (32 * (stats.frame == 3), 0)
                return outputs

        stats.offset, stats.vectors = (4, 8), None  # type: ignore[attr-defined]
        told = Stream()
        told.stats = stats  # type: ignore[attr-defined]
        return told


def test_timeline_of_a_stream_that_tells_causes() -> None:
    playback = play(Telling(), clip(), [EXACT], time_layers=True)
    found = timeline_of(playback.tracks[-1])
    assert found.marks == {"dense": [0], "anchor": [2], "roll": [3]}
    assert found.causes["stale"] == pytest.approx([1 / 117] * 5)
    assert found.causes["hit"] == pytest.approx([0, *[116 / 117] * 4])
    assert [sum(shares) for shares in zip(*found.causes.values(), strict=True)] == pytest.approx([1.0] * 5)
    assert (len(found.ms), found.dense_ms, found.agreement) == (5, found.ms[0], [1.0] * 5)
    assert playback.layer_ms == {"stem": 3.0, "motion": 1.0}
    assert play(Telling(), clip(), [EXACT]).layer_ms == {}


def test_timeline_of_a_stream_that_tells_only_what_changed() -> None:
    found = timeline_of(play(FakeNet(), clip(), [EXACT]).tracks[-1])
    assert found.causes["changed"] == pytest.approx([0, *[16 / 96] * 4])  # a tile of 32 in a frame of 64 x 96
    assert found.causes["dense"] == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("count", [0, 1, 3, 6, 7, 100, 1000])
def test_strip_is_short_and_spread(count: int) -> None:
    strip = Strip()
    for index in range(count):
        strip.offer(index, np.zeros((8, 8, 3), np.uint8))
    shown = [int(picture.caption.split()[1]) for picture in strip.pictures()]
    assert len(shown) == min(count, PICTURES)
    assert shown == sorted(shown)
    if count > 20:
        assert shown[0] == 0
        assert shown[-1] > 0.8 * count
