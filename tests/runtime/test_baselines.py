"""Baselines: what each computes, sends and reuses, picture by picture."""

from typing import Any

import numpy as np
import pytest

from fluxcompile.errors import OptionError
from fluxcompile.options import Policy
from fluxcompile.runtime.baselines import Baseline, Delta, Dense, Offload, Outcome, finish
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.profile import Profile
from fluxcompile.runtime.rate import LinkView
from tests.helpers import assert_matches
from tests.remote import SIZE, pictures, small_net

LINK = LinkView(mbps=10, rtt_ms=4)
BLOCKS = SIZE[0] * SIZE[1] / 256


def profile(dense_ms: float, b: float) -> Profile:
    return Profile(device="d", net="n", source="s", frame=SIZE, dense_ms=dense_ms, a=0.0, b=b, c=0.0)


def stream(**policy: Any) -> CpuStream:
    return CpuStream(small_net().program, Policy(**policy))


def dense(picture: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(small_net().dense(picture))]


def places(outcome: Outcome) -> list[str]:
    return [stage.place for stage in outcome.stages]


def test_a_link_takes_a_round_trip_and_its_rate() -> None:
    assert LINK.delivery_ms(5000) == pytest.approx(4 + 4)


def test_dense_on_the_edge() -> None:
    baseline: Baseline = Dense(stream(), SIZE)
    for picture in pictures(3):
        outcome = finish(baseline.step(picture, LINK))
        assert_matches(outcome.outputs, dense(picture))
        (stage,) = outcome.stages
        assert stage.work is not None
        assert (stage.place, stage.work.kind, stage.work.blocks, stage.work.dense) == ("edge", "compute", BLOCKS, True)
        assert (outcome.num_bytes, outcome.hit_ratio, outcome.work_share) == (0, 0.0, 1.0)


def test_outputs_are_kept_by_who_got_them() -> None:
    """The next frame does not write into them."""
    baseline = Dense(stream(), SIZE)
    first, second = (finish(baseline.step(picture, LINK)).outputs for picture in pictures(2))
    assert_matches(first, dense(pictures(2)[0]))
    assert not np.array_equal(first[0], second[0])


def test_a_smaller_picture_lies_in_the_middle() -> None:
    picture = pictures(1)[0][:40, :64]
    whole = np.full((*SIZE, 3), 114, np.uint8)
    whole[12:52, 16:80] = picture
    assert_matches(finish(Dense(stream(), SIZE).step(picture, LINK)).outputs, dense(whole))
    assert_matches(finish(Offload(stream(), SIZE, "raw").step(picture, LINK)).outputs, dense(whole))


def test_raw_offload_is_exact_and_large() -> None:
    picture = pictures(1)[0]
    outcome = finish(Offload(stream(), SIZE, "raw").step(picture, LINK))
    assert_matches(outcome.outputs, dense(picture))
    assert places(outcome) == ["uplink", "cloud"]
    assert outcome.num_bytes == picture.nbytes


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_what_a_codec_loses_is_seen(codec: str) -> None:
    """Fewer bytes; the outputs are those of the decoded picture."""
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    baseline = Offload(stream(), SIZE, codec)
    sizes = []
    for picture in pictures(4):
        outcome = finish(baseline.step(picture, LINK))
        want = dense(picture)[0]
        (got,) = outcome.outputs
        assert 0 < np.abs(got - want).max() < 0.3 * np.abs(want).max()
        assert places(outcome) == ["edge", "uplink", "cloud"]
        sizes.append(outcome.num_bytes)
    assert max(sizes) < picture.nbytes / 2
    if codec == "h264":  # frames after the first are told by what moved
        assert max(sizes[1:]) < sizes[0] / 2
        baseline.reset()
        assert finish(baseline.step(picture, LINK)).num_bytes > 2 * max(sizes[1:])


def test_a_codec_that_is_not_known() -> None:
    with pytest.raises(OptionError, match="codec is 'av1'; use h264, jpeg, raw"):
        Offload(stream(), SIZE, "av1")


# --- DeltaCNN ---------------------------------------------------------------------------------------------------------


def delta(edge: Profile, cloud: Profile, threshold: float = 0.0, gate: float = 0.0) -> Delta:
    return Delta((stream(exact=False, gate=gate), stream(exact=False, gate=gate)), (edge, cloud), SIZE, threshold)


SLOW, FAST = profile(1000, 1000 / BLOCKS), profile(1, 1 / BLOCKS)


@pytest.mark.parametrize(("edge", "cloud", "place"), [(SLOW, FAST, "cloud"), (FAST, SLOW, "edge")])
def test_delta_is_exact_without_thresholds(edge: Profile, cloud: Profile, place: str) -> None:
    """It goes where it should be done first, and sends the blocks of the pixels that changed."""
    baseline = delta(edge, cloud)
    for index, picture in enumerate(pictures(5)):
        outcome = finish(baseline.step(picture, LINK))
        assert_matches(outcome.outputs, dense(picture))
        assert places(outcome)[-1] == place
        assert (outcome.num_bytes > 0) == (place == "cloud")
        if index:
            assert 0.9 < outcome.hit_ratio < 1
            assert 0 < outcome.work_share < 0.5
            assert outcome.num_bytes < picture.nbytes / 8


def test_delta_leaves_out_pixels_that_hardly_moved_until_they_did() -> None:
    baseline = delta(FAST, SLOW, threshold=3.0)
    picture = pictures(1)[0].clip(0, 240)
    first = finish(baseline.step(picture, LINK))
    for by in (1, 2, 3):
        outcome = finish(baseline.step(picture + np.uint8(by), LINK))
        assert (outcome.hit_ratio, outcome.work_share) == (1.0, 0.0)
        assert_matches(outcome.outputs, first.outputs)
    outcome = finish(baseline.step(picture + np.uint8(4), LINK))
    assert outcome.hit_ratio == 0
    assert_matches(outcome.outputs, dense(picture + np.uint8(4)))


def test_a_gate_stops_what_is_small_in_the_layers() -> None:
    shares = []
    for gate in (0.0, 1.0):
        baseline = delta(FAST, SLOW, gate=gate)
        picture = pictures(1)[0].clip(0, 240)
        finish(baseline.step(picture, LINK))
        shares.append(finish(baseline.step(picture + np.uint8(3), LINK)).work_share)
    assert shares[1] < shares[0]


def test_delta_changes_its_place_when_that_pays() -> None:
    """The link becomes slow: back to the edge, which catches up with all it did not see."""
    baseline = delta(SLOW, FAST)
    first, second, third, fourth = pictures(4)
    assert places(finish(baseline.step(first, LINK)))[-1] == "cloud"
    assert places(finish(baseline.step(second, LINK)))[-1] == "cloud"
    outcome = finish(baseline.step(third, LinkView(mbps=0.001)))
    assert places(outcome)[-1] == "edge"
    assert outcome.hit_ratio == 0
    assert_matches(outcome.outputs, dense(third))
    outcome = finish(baseline.step(fourth, LINK))
    assert places(outcome)[-1] == "cloud"
    assert outcome.hit_ratio > 0.9
    assert_matches(outcome.outputs, dense(fourth))
    baseline.reset()
    assert finish(baseline.step(fourth, LINK)).hit_ratio == 0


def test_each_stage_is_done_when_it_is_driven() -> None:
    """Nothing runs before its turn, and each is given what the one before it gave."""
    baseline = delta(SLOW, FAST)
    steps, done = baseline.step(pictures(1)[0], LINK), []
    stage = next(steps)
    while True:
        assert stage.place == ["edge", "edge", "uplink", "cloud"][len(done)]
        done.append(stage.run())
        try:
            stage = steps.send(done[-1])
        except StopIteration as end:
            outcome = end.value
            break
    assert done[2] is None
    assert_matches(done[3], outcome.outputs)
