"""SPINN and COACH: where they cut, what they send, and when they reuse a whole result."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from fluxcompile import Policy
from fluxcompile.runtime.baselines import Outcome, Steps, finish
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.profile import Profile
from fluxcompile.runtime.rate import LinkView
from fluxcompile.runtime.split_baselines import Coach, Spinn, Split, difference, plan_coach
from tests.helpers import assert_matches
from tests.remote import SIZE, pictures, small_net

FAST_LINK, SLOW_LINK, DEAD_LINK = LinkView(1000.0), LinkView(0.5), LinkView(0.001)


def profile(dense_ms: float) -> Profile:
    return Profile(device="d", net="n", source="s", frame=SIZE, dense_ms=dense_ms, a=0.0, b=0.0, c=1.0)


DEVICES = (profile(100), profile(10))


@lru_cache(maxsize=1)
def splits() -> dict[str, Split]:
    """The small net whole on either side, and cut after its first layer."""
    net, found = small_net(), {}
    for at in ("edge", "cloud", "one"):
        parts = net.partition(at)
        edge, cloud = (CpuStream(p.program, Policy()) if p else None for p in (parts.edge, parts.cloud))
        table = parts.explain()
        share = table.rows[table.chosen].edge_macs_share
        found[at] = Split(at, edge, cloud, parts.boundary, share, SIZE, parts.outputs)
    return found


def dense(picture: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(small_net().dense(picture))]


def computes(outcome: Outcome) -> list[tuple[str, float]]:
    return [(s.place, s.work.share) for s in outcome.stages if s.work and s.work.kind == "compute"]


def through(split: Split, picture: np.ndarray[Any, Any], bits: int) -> Steps:
    early = yield from split.begin(picture)
    outputs, _ = yield from split.end(picture, early, bits)
    return Outcome(outputs)


def test_a_split_gives_what_the_whole_gives() -> None:
    """But for what the bits lose; fewer bits lose more and are fewer bytes."""
    picture = pictures(1)[0]
    want = dense(picture)
    for at in ("edge", "cloud"):
        outcome = finish(through(splits()[at], picture, 8))
        assert_matches(outcome.outputs, want)
        assert (outcome.num_bytes > 0) == (at == "cloud")
    cut = splits()["one"]
    off, sizes = [], []
    for bits in (8, 4, 2):
        outcome = finish(through(cut, picture, bits))
        (got,), num_bytes = outcome.outputs, outcome.num_bytes
        off.append(float(np.abs(got - want[0]).max() / np.abs(want[0]).max()))
        sizes.append(num_bytes)
        assert num_bytes <= cut.whole_bytes(bits) + 200
    assert 0 < off[0] < 0.02 < off[1] < off[2]
    assert sizes == sorted(sizes, reverse=True)


# --- SPINN ------------------------------------------------------------------------------------------------------------


def spinn(threshold: float = 0.0) -> Spinn:
    return Spinn(list(splits().values()), DEVICES, threshold)


@pytest.mark.parametrize(("link", "at"), [(FAST_LINK, "cloud"), (SLOW_LINK, "one"), (DEAD_LINK, "edge")])
def test_spinn_cuts_by_the_link(link: LinkView, at: str) -> None:
    """A cut whose edge's share is small is best where its map is quicker sent than the picture."""
    cut = replace(splits()["one"], edge_share=0.05)
    baseline = Spinn([splits()["edge"], splits()["cloud"], cut], DEVICES, 0.0)
    baseline._packed["one"] = 0.02
    outcome = finish(baseline.step(pictures(1)[0], link))
    share = {"cloud": [("cloud", 1.0)], "one": [("edge", 0.05), ("cloud", 0.95)], "edge": [("edge", 1.0)]}[at]
    assert computes(outcome) == share
    assert (outcome.num_bytes > 0) == (at != "edge")


def test_spinn_learns_how_far_maps_are_compressed() -> None:
    baseline = Spinn([splits()["one"]], DEVICES, 0.0)
    outcome = finish(baseline.step(pictures(1)[0], FAST_LINK))
    assert baseline._packed["one"] == outcome.num_bytes / splits()["one"].whole_bytes(8) < 1


def test_spinn_reuses_what_is_like_the_last_frame_it_computed() -> None:
    baseline = spinn(threshold=2.0)
    picture = pictures(1)[0].clip(0, 240)
    first = finish(baseline.step(picture, FAST_LINK))
    assert_matches(first.outputs, dense(picture))
    for by in (1, 2):
        outcome = finish(baseline.step(picture + np.uint8(by), FAST_LINK))
        assert (outcome.hit_ratio, outcome.work_share, outcome.num_bytes) == (1.0, 0.0, 0)
        assert computes(outcome) == []
        assert_matches(outcome.outputs, first.outputs)
    outcome = finish(baseline.step(picture + np.uint8(3), FAST_LINK))  # slowly, but too far by now
    assert outcome.hit_ratio == 0
    assert_matches(outcome.outputs, dense(picture + np.uint8(3)))
    baseline.reset()
    assert finish(baseline.step(picture + np.uint8(3), FAST_LINK)).hit_ratio == 0


def test_differences_of_pictures() -> None:
    picture = np.full((4, 4, 3), 250, np.uint8)
    other = picture.copy()
    other[0] = 10
    assert difference(picture, other) == difference(other, picture) == 60
    assert difference(picture, picture[:2]) == float("inf")


# --- COACH ------------------------------------------------------------------------------------------------------------


def test_coach_reuses_near_a_semantic_centre_after_its_first_layers() -> None:
    split = splits()["one"]
    baseline = Coach(split, 8, DEVICES, threshold=0.02)
    bright, dark = (np.full((*SIZE, 3), level, np.uint8) for level in (200, 40))
    first = finish(baseline.step(bright, FAST_LINK))
    assert first.hit_ratio == 0
    assert finish(baseline.step(dark, FAST_LINK)).hit_ratio == 0
    outcome = finish(baseline.step(bright - np.uint8(1), FAST_LINK))  # not the last one, but one that is cached
    assert (outcome.hit_ratio, outcome.num_bytes) == (1.0, 0)
    assert computes(outcome) == [("edge", split.edge_share)]
    assert outcome.work_share == split.edge_share
    assert_matches(outcome.outputs, first.outputs)
    baseline.reset()
    assert finish(baseline.step(bright, FAST_LINK)).hit_ratio == 0


@pytest.mark.parametrize("at", ["edge", "cloud"])
def test_coach_with_the_net_on_one_side(at: str) -> None:
    baseline = Coach(splits()[at], 8, DEVICES, threshold=0.5)
    picture = pictures(1)[0]
    assert_matches(finish(baseline.step(picture, FAST_LINK)).outputs, dense(picture))
    again = finish(baseline.step(picture, FAST_LINK))
    assert_matches(again.outputs, dense(picture))
    assert again.hit_ratio == (0.0 if at == "edge" else 1.0)


def test_coach_sends_more_bits_while_the_link_waits_for_others() -> None:
    split = splits()["one"]
    baseline = Coach(split, 3, DEVICES, threshold=0.0)
    edge_ms = 100 * split.edge_share

    def just_enough(bits: int) -> LinkView:
        return LinkView(mbps=0.008 * split.whole_bytes(bits) / (edge_ms * 0.999))

    assert [baseline._bits(link) for link in (FAST_LINK, just_enough(5), DEAD_LINK)] == [8, 5, 3]


def test_coach_plans_the_split_without_a_bottleneck_and_the_fewest_bits() -> None:
    asked: list[tuple[str, int]] = []

    def agreement(split: Split, bits: int) -> float:
        asked.append((split.name, bits))
        return 1.0 if bits >= 5 else 0.99

    both = list(splits().values())
    even = (profile(100), profile(100))
    split, bits = plan_coach(both, even, FAST_LINK, agreement)
    assert (split.name, bits) == ("one", 5)
    assert {name for name, _ in asked} == {"one"}
    assert len(asked) <= 4  # bisection
    assert plan_coach(both, (profile(100), profile(1)), FAST_LINK, agreement)[0].name == "cloud"
    assert plan_coach(both, even, DEAD_LINK, agreement)[0].name == "edge"
    assert plan_coach(both, even, FAST_LINK, lambda split, bits: 0.9)[0].name in ("edge", "cloud")
