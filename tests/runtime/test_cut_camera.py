"""A net cut inside, sparse on both sides: what is computed, what crosses, and that a lost message is mended."""

from typing import Any

import numpy as np
import pytest

from fluxcompile import BoundaryError, OptionError, Policy
from fluxcompile.partition import partition
from fluxcompile.runtime.baselines import finish
from fluxcompile.runtime.cut_camera import CutCamera
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.rate import LinkView
from fluxcompile.runtime.split_baselines import Split
from tests.helpers import assert_matches
from tests.remote import SIZE, pictures, small_net

LINK = LinkView(10.0)
SPARSE = Policy(exact=False, residual=0.5)


def cut(policy: Policy = SPARSE, at: str = "one") -> Split:
    parts = partition(small_net(), at)
    edge, cloud = (
        None if part is None else CpuStream(part.program, p)
        for part, p in ((parts.edge, policy), (parts.cloud, Policy()))
    )
    share = parts.explain().rows[parts.explain().chosen].edge_macs_share
    return Split(at, edge, cloud, parts.boundary, share, SIZE, parts.outputs)


def dense(picture: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(small_net().dense(picture))]


def test_what_changed_is_computed_and_crosses() -> None:
    camera = CutCamera(cut(), precision="fp32")
    sizes = []
    for index, picture in enumerate(pictures(5)):
        outcome = finish(camera.step(picture, LINK))
        assert_matches(outcome.outputs, dense(picture))
        assert [stage.place for stage in outcome.stages] == ["edge", "edge", "edge", "uplink", "cloud"]
        works = [s.work for s in outcome.stages if s.work and s.work.kind == "compute"]
        assert [work.dense for work in works] == [index == 0] * 2
        assert sum(work.share for work in works) == pytest.approx(1)
        assert outcome.hit_ratio == 1 - works[0].blocks / 24
        sizes.append(outcome.num_bytes)
        assert outcome.work_share == 1.0 if index == 0 else 0 < outcome.work_share < 0.5
    assert max(sizes[1:]) < sizes[0] / 3
    same = finish(camera.step(picture, LINK))
    assert (same.hit_ratio, same.work_share) == (1.0, 0.0)
    assert same.num_bytes < 40


def test_what_is_salient_comes_back_from_the_cloud() -> None:
    """A change that matters little is left where the outputs of the frame before say so."""
    policy = Policy(exact=False, residual=0.5, background=60.0)
    shares = []
    for weight in (0.0, 1.0):

        def salience(outputs: Any, size: tuple[int, int], weight: float = weight) -> np.ndarray[Any, Any]:
            assert outputs[0].shape == dense(pictures(1)[0])[0].shape
            return np.full((size[0] // 8, size[1] // 8), weight, np.float32)

        camera = CutCamera(cut(policy), salience=salience)
        picture = pictures(1)[0].clip(0, 200)
        finish(camera.step(picture, LINK))
        shares.append(finish(camera.step(picture + np.uint8(20), LINK)).hit_ratio)
    assert shares[0] == 1.0
    assert shares[1] < 1.0


def test_a_lost_message_is_mended_by_a_whole_one() -> None:
    camera = CutCamera(cut(), precision="fp32")
    first, second, third, fourth = pictures(4)
    finish(camera.step(first, LINK))
    steps = camera.step(second, LINK)
    given = None
    for place in ("edge", "edge", "edge"):
        stage = steps.send(given)
        assert stage.place == place
        given = stage.run()
    steps.close()  # the link broke
    with pytest.raises(BoundaryError, match="one was lost"):
        finish(camera.step(third, LINK))
    camera.lost()
    assert_matches(finish(camera.step(fourth, LINK)).outputs, dense(fourth))
    camera.reset()
    assert finish(camera.step(fourth, LINK)).hit_ratio == 0


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(OptionError, match="the whole net is on one side"):
        CutCamera(cut(at="cloud"))
    with pytest.raises(OptionError, match="keep their place"):
        CutCamera(cut(Policy(exact=False, residual=1.0, anchor=True)))
