"""An exact stream equals dense inference on every frame: any net, clip and motion, whichever passes are left out."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxcompile import Net, fluxcompile
from tests.helpers import assert_matches
from tests.nets import clips, nets

QUICK = settings(
    max_examples=30, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)  # fmt: skip


def play(net: Net, clip: list[tuple[Tensor, Tensor | None]], model: nn.Module) -> None:
    stream = net.stream()
    for frame, motion in clip:
        with torch.no_grad():
            want = model(frame)
        assert_matches(net.dense(frame), want)
        assert_matches(stream(frame, motion=motion), want)


@QUICK
@given(st.data())
def test_random_nets(data: st.DataObject) -> None:
    model, shape = data.draw(nets())
    net = fluxcompile(model, torch.zeros(shape, dtype=torch.float64))
    play(net, data.draw(clips(shape)), model)
