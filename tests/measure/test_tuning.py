"""Baselines tuned on calibration pictures: as bold as the agreement allows, and no bolder."""

import numpy as np
import pytest

from fluxcompile import OptionError
from fluxcompile.measure.tuning import BASELINES, SPINN_LADDER, Rivals
from fluxcompile.runtime.profile import Profile
from fluxcompile.runtime.rate import LinkView
from fluxcompile.runtime.split_baselines import LOSS, Coach, Spinn
from tests.remote import SIZE, pictures, small_net

LINK = LinkView(25, 5)


def profile(dense_ms: float) -> Profile:
    return Profile(device="d", net="n", source="s", frame=SIZE, dense_ms=dense_ms, a=0.0, b=dense_ms / 24, c=0.0)


def rivals(agreement: float) -> Rivals:
    return Rivals(small_net(), (profile(100), profile(10)), pictures(12), agreement)


@pytest.fixture(scope="module")
def strict() -> Rivals:
    return rivals(0.98)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_keeps_the_agreement(strict: Rivals, name: str) -> None:
    if name in ("jpeg", "h264"):
        pytest.importorskip("av")
        pytest.importorskip("cv2")
    agreement, work_share = strict.trial(strict.make(name, LINK), LINK)
    assert agreement >= (0.9 if name in ("jpeg", "h264") else 0.98)  # a codec has no threshold to tune
    assert 0 < work_share <= 1
    if name == "deltacnn":
        assert work_share < 0.5


def test_what_may_lose_more_reuses_more(strict: Rivals) -> None:
    loose = rivals(0.3)
    for name in ("spinn", "coach", "deltacnn"):
        exact, bold = (r.trial(r.make(name, LINK), LINK)[1] for r in (strict, loose))
        assert bold <= exact
    assert loose.trial(loose.make("spinn", LINK), LINK)[1] < 0.9


def test_the_next_rung_would_lose_too_much(strict: Rivals) -> None:
    found = strict.make("spinn", LINK)
    assert isinstance(found, Spinn)
    rung = SPINN_LADDER.index(found._threshold)
    bolder = Spinn(strict.splits, strict.profiles, SPINN_LADDER[rung + 1])
    assert strict.trial(bolder, LINK)[0] < 0.99


def test_coach_has_the_fewest_bits_that_agree() -> None:
    even = Rivals(small_net(), (profile(10), profile(10)), pictures(12), 0.98)
    found = even.make("coach", LINK)
    assert isinstance(found, Coach)
    assert found.split.boundary
    losses = [1 - even._agreement_of_bits(found.split, bits) for bits in (found.bits, found.bits - 1)]
    assert losses[0] <= LOSS < losses[1]


def test_splits_send_less_the_deeper_they_are(strict: Rivals) -> None:
    assert [split.name for split in strict.splits[:2]] == ["edge", "cloud"]
    sizes = [split.whole_bytes(8) for split in strict.splits[2:]]
    assert sizes == sorted(sizes, reverse=True)
    assert np.all(np.diff([split.edge_share for split in strict.splits[2:]]) > 0)


def test_what_means_nothing_is_refused(strict: Rivals) -> None:
    with pytest.raises(OptionError, match="no baseline; there are edge, raw"):
        strict.make("fluxshard", LINK)
    with pytest.raises(OptionError, match="of 0 pictures"):
        Rivals(small_net(), strict.profiles, [], 0.9)
