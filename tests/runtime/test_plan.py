"""A CPU stream equals dense inference on every frame: any net, clip and mask, in every variant and number of threads."""

from typing import Any

import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxcompile import Net, Policy, fluxcompile, pass_names
from fluxcompile.runtime.plan import CpuStream
from tests.helpers import Do, assert_matches
from tests.nets import TRAPS, clips, nets, pans
from tests.test_exact import quick


def stream_of(net: Net, policy: Policy | None = None, **options: Any) -> CpuStream:
    return CpuStream(net.program, policy or Policy(), **options)


def assert_exact(
    model: nn.Module, frames: list[Tensor], *, threads: int = 1, variant: str | None = None, **options: Any
) -> Net:
    """The stream equals the model on every frame."""
    net = fluxcompile(model, torch.zeros_like(frames[0]), **options)
    stream = stream_of(net, threads=threads, variant=variant)
    for frame in frames:
        with torch.no_grad():
            want = model(frame)
        assert_matches(stream(frame), want)
    return net


def floats(clip: list[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
    """The frames of a clip in float32; the plan follows no motion."""
    return [frame.float() for frame, _ in clip]


# --- random nets ------------------------------------------------------------------------------------------------------


@quick(40)
@given(st.data())
def test_random_nets(data: st.DataObject) -> None:
    model, shape = data.draw(nets())
    note(str(model))
    assert_exact(model.float(), floats(data.draw(clips(shape))), threads=data.draw(st.sampled_from((1, 2))))


@quick(12)
@given(st.data())
def test_random_nets_with_passes_left_out(data: st.DataObject) -> None:
    model, shape = data.draw(nets(most=3))
    without = data.draw(st.lists(st.sampled_from(pass_names()), min_size=1, max_size=4, unique=True))
    note(f"{model}\n{without}")
    assert_exact(model.float(), floats(data.draw(clips(shape))), without=without)


@pytest.mark.parametrize("name", TRAPS)
def test_where_it_is_easy_to_be_wrong(name: str) -> None:
    assert_exact(Do(TRAPS[name]).eval(), floats(pans((1, 4, 32, 48))))
