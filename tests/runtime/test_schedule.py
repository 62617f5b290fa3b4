"""Which place a frame goes to, and what is known of the link there."""

import pytest

from fluxcompile.runtime.rate import RECENT, UNKNOWN_MS, LinkEstimate
from fluxcompile.runtime.schedule import KEEP, Estimate, Scheduler


def linked(*deliveries: tuple[int, float]) -> LinkEstimate:
    link = LinkEstimate()
    for seq, (num_bytes, took_ms) in enumerate(deliveries):
        link.sent(seq, num_bytes, 1000.0 * seq)
        link.arrived(seq, 1000.0 * seq + took_ms)
    return link


def test_the_quickest_wins() -> None:
    scheduler = Scheduler()
    assert scheduler.choose([Estimate("edge", 40.0), Estimate("cloud", 30.0)]).place == "cloud"
    assert scheduler.choose([Estimate("edge", 29.0), Estimate("cloud", 30.0)]).place == "cloud"
    assert scheduler.choose([Estimate("edge", 30.0 * (1 - KEEP) - 0.1), Estimate("cloud", 30.0)]).place == "edge"
    assert scheduler.choose([Estimate("cut", 10.0), Estimate("edge", 30.0), Estimate("cloud", 31.0)]).place == "cut"
    assert scheduler.choose([Estimate("edge", 30.0)]).place == "edge"


def test_who_can_stays_at_home() -> None:
    """A slower edge answers where it is quick enough, if it is told to."""
    estimates = [Estimate("edge", 80.0), Estimate("cloud", 30.0)]
    assert Scheduler().choose(estimates).place == "cloud"
    assert Scheduler().choose(estimates, home_ms=80.0).place == "edge"
    assert Scheduler().choose(estimates, home_ms=79.0).place == "cloud"


def test_patience() -> None:
    cloud = Estimate("cloud", 30.0, 5.0)
    assert Scheduler.patience_ms(cloud, 20.0, None) == 50.0
    assert Scheduler.patience_ms(cloud, 20.0, 60.0) == 40.0
    assert Scheduler.patience_ms(cloud, 80.0, 60.0) == 50.0  # edge cannot keep it, cloud may
    assert Scheduler.patience_ms(cloud, 35.0, 60.0) == 50.0  # edge would have to begin before the answer is expected
    assert Scheduler.patience_ms(Estimate("cloud", 30.0), 20.0, None) == 35.0


def test_what_is_known_of_a_link() -> None:
    link = LinkEstimate()
    assert link.rtt_ms == UNKNOWN_MS
    assert link.seen(0.0).mbps == float("inf")
    link = linked((1000, 20.0), (100_000, 100.0), (200_000, 180.0))
    assert link.rtt_ms == 20.0
    assert link.seen(3000.0).mbps == pytest.approx(10.0)
    assert link.delivery_ms(50_000, 3000.0) == pytest.approx(60.0)


def test_what_was_never_tried_is_not_believed() -> None:
    """Small packets that take no time say nothing of large ones."""
    link = linked(*[(1000, 20.0)] * 10)
    assert link.delivery_ms(4000, 1e4) == pytest.approx(20.0)
    assert link.delivery_ms(400_000, 1e4) > 500


def test_one_slow_delivery_changes_little() -> None:
    quick = [(10_000, 20.0 + 8.0)] * 10
    assert linked((1, 20.0), *quick, (10_000, 5000.0)).delivery_ms(10_000, 1e6) == pytest.approx(28.0)
    stalled = linked((1, 20.0), *quick, *[(10_000, 5000.0)] * RECENT)
    assert stalled.delivery_ms(10_000, 1e6) == pytest.approx(5000.0)
    again = linked((1, 20.0), *quick, *[(10_000, 5000.0)] * RECENT, *quick[:3])
    assert again.delivery_ms(10_000, 1e6) == pytest.approx(28.0)


def test_a_stall_is_seen_while_it_lasts() -> None:
    link = linked(*[(2000, 20.0)] * 20)
    link.sent(99, 2000, 50_000.0)
    assert link.busy
    usual = link.delivery_ms(2000, 50_010.0)
    assert usual == pytest.approx(20.0)
    assert link.delivery_ms(2000, 50_500.0) > 300
    link.arrived(99, 50_600.0)
    assert not link.busy
    link.arrived(98, 50_600.0)  # never sent
    link.sent(100, 2000, 51_000.0)
    link.reset()
    assert not link.busy
