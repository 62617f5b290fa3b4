"""Modelled devices: what waits for what, and what each kind of work takes."""

import asyncio
import os

import pytest

from fluxcompile.runtime.device import Work
from fluxcompile.runtime.profile import Profile
from fluxcompile.testbed.clock import run_virtually
from fluxcompile.testbed.devices import Beside, Modelled, costs
from fluxcompile.testbed.local import cores, pinned

PROFILE = Profile("d", "n", "s", (64, 64), dense_ms=10, a=0, b=1, c=2, beside_ms={"look": 3.0, "decode": 0.5})


@pytest.mark.parametrize(("lanes", "took_ms"), [(2, 30.0), (1, 50.0)])
def test_lanes(lanes: int, took_ms: float) -> None:
    """A codec works beside the net, unless there is but one core for both."""

    async def main() -> float:
        device = Modelled(lambda work: 30.0 if work.kind == "compute" else 20.0, lanes)
        net = device.run(lambda: None, Work("compute"))
        codec = device.run(lambda: None, Work("h264"), lane="codec")
        await asyncio.gather(net, codec)
        assert device.busy_ms == 50
        return device.now_ms()

    assert run_virtually(main()) == pytest.approx(took_ms)


def test_what_work_takes() -> None:
    cost_ms = costs(PROFILE, Beside().measured(PROFILE))
    assert cost_ms(Work("compute", 4)) == 6
    assert cost_ms(Work("compute", 4, looks=True)) == 9
    assert cost_ms(Work("compute", 16)) == 10
    assert cost_ms(Work("compute", 16, dense=True, share=0.5)) == 5
    assert cost_ms(Work("decode")) == 0.5
    assert cost_ms(Work("h264")) == Beside().h264
    assert cost_ms(Work("refresh")) == cost_ms(Work("idle")) == 0


@pytest.mark.skipif(not cores()[0], reason="one core, or nobody can be tied to one here")
def test_a_core_of_its_own() -> None:
    before = os.sched_getaffinity(0)
    mine, others = cores()
    assert not set(mine) & set(others)
    with pinned(mine):
        assert os.sched_getaffinity(0) == set(mine)
    assert os.sched_getaffinity(0) == before
    with pinned([]):
        assert os.sched_getaffinity(0) == before
