"""Attention on the CPU that corrects what changed: exact over any clip, honest about its work, no further than its gate."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxcompile import Net, Policy, fluxcompile
from fluxcompile.errors import ProgramError
from fluxcompile.kernels import cpu
from fluxcompile.runtime.plan import CpuStream
from tests.helpers import Do, assert_matches, seeded
from tests.kernels.compare import VARIANTS
from tests.nets import Attention, Tokens, clips, nets
from tests.test_exact import quick


def tokens(blocks: int = 1, side: int = 8, *, token: bool = True, c: int = 16) -> nn.Module:
    """A small vision transformer on side x side patches of four pixels."""

    def make() -> nn.Module:
        layers = [
            Tokens(c, side, side, Attention(c, 2, fused=True), token=token, positions=True) for _ in range(blocks)
        ]
        return nn.Sequential(nn.Conv2d(3, c, 4, 4), *layers)

    return seeded(make)


def compiled(model: nn.Module, side: int = 8) -> Net:
    return fluxcompile(model, torch.zeros(1, 3, 4 * side, 4 * side), attention="incremental")


def patched(frame: Tensor, y: int, x: int, seed: int, by: float = 1.0) -> Tensor:
    """The frame with one patch of four pixels drawn anew."""
    found = frame.clone()
    part = found[..., 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
    part += by * (torch.rand(part.shape, generator=torch.Generator().manual_seed(seed)) - 0.5)
    return found


def walk(frames: int, side: int = 8) -> list[Tensor]:
    """A clip in which one patch after the other changes."""
    random = np.random.default_rng(0)
    found = [torch.rand(1, 3, 4 * side, 4 * side, generator=torch.Generator().manual_seed(0))]
    for i in range(1, frames):
        y, x = random.integers(0, side, 2)
        found.append(patched(found[-1], int(y), int(x), i))
    return found


def share_of(stream: CpuStream, layer: str) -> float:
    assert stream.stats is not None
    return stream.stats.layers[layer]


@quick(25)
@given(st.data())
def test_random_nets(data: st.DataObject) -> None:
    """Beside any net, in turn or after it, tokens that attend to all others, or to those of a smaller map."""
    model, shape = data.draw(nets(most=2))
    c, (h, w) = shape[1], shape[2:]
    shrink = data.draw(st.sampled_from((1, 2)))
    attention = Attention(c, 2, fused=data.draw(st.booleans()), shrink=shrink)
    blocks = Tokens(c, h // 4, w // 4, attention, token=data.draw(st.booleans()), positions=data.draw(st.booleans()))
    both = seeded(lambda: Do(lambda x, pool, t, net: (t(pool(x)), net(x)), nn.AvgPool2d(4), blocks, model)).float()
    note(str(both))
    net = fluxcompile(both, torch.zeros(shape), attention="incremental")
    assert any(s.op == "correct_attention" for s in net.program.plan.steps)  # type: ignore[union-attr]
    stream = CpuStream(net.program, Policy(), threads=data.draw(st.sampled_from((1, 2))))
    for frame, _ in data.draw(clips(shape)):
        frame = frame.float()
        with torch.no_grad():
            assert_matches(stream(frame), both(frame))


@pytest.mark.parametrize("variant", VARIANTS)
def test_masks_at_random(variant: str) -> None:
    """Named patches change, few or many, with frames in which none does and dense ones between."""
    model, random = tokens(2), np.random.default_rng(1)
    stream, frame = CpuStream(compiled(model).program, Policy(), variant=variant), torch.zeros(1, 3, 32, 32)
    for turn in range(24):
        patches = random.random((8, 8)) < random.choice((0.0, 0.02, 0.1, 0.5, 1.0))
        miss = patches.repeat(4, 0).repeat(4, 1)
        frame = torch.where(torch.from_numpy(miss), torch.from_numpy(random.random(frame.shape, np.float32)), frame)
        if turn in (9, 15):
            stream.reset()
        with torch.no_grad():
            assert_matches(stream(frame, miss=miss), model(frame))


def test_threads_do_not_change_a_bit() -> None:
    net = compiled(tokens(2, side=16), side=16)
    for policy in (Policy(), Policy(exact=False, radius=0, gate=0.05)):
        streams = [CpuStream(net.program, policy, threads=t) for t in (1, 2, 3)]
        for frame in walk(8, side=16):
            one, *others = (stream(frame) for stream in streams)
            for other in others:
                assert torch.equal(one, other)


@pytest.mark.parametrize("variant", [cpu.best_variant(), "plain"])
def test_hundreds_of_corrections_stay_exact(variant: str) -> None:
    model = tokens()
    stream = CpuStream(compiled(model).program, Policy(), variant=variant)
    for i, frame in enumerate(walk(400)):
        out = stream(frame)
        assert i == 0 or share_of(stream, "1.attention") < 0.3
        with torch.no_grad():
            assert_matches(out, model(frame))


def test_peaks_come_and_go() -> None:
    """A key that takes nearly all of the weight, and leaves it again: what is left then is not rounding."""
    model = seeded(lambda: Do(lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT[:, None]] * 3, scale=1.0)))
    net = fluxcompile(model, torch.zeros(1, 4, 6, 6), attention="incremental")
    stream, random = CpuStream(net.program, Policy()), torch.Generator().manual_seed(0)
    frame = torch.rand(1, 4, 6, 6, generator=random)
    for turn in range(60):
        frame = frame.clone()
        frame[..., turn % 6, turn // 6 % 6] = torch.rand(1, 4, generator=random) * (0.1, 1, 4, 20)[turn % 4]
        with torch.no_grad():
            assert_matches(stream(frame), model(frame))


def test_work_is_counted_as_it_is_done() -> None:
    """One of 64 patches: two terms for each query, that query anew, and one in 64 because of its age."""
    model = tokens(token=False)
    stream, frame = CpuStream(compiled(model).program, Policy()), walk(1)[0]
    stream(frame)
    assert share_of(stream, "1.attention") == 1
    stream(patched(frame, 3, 4, 1))
    assert share_of(stream, "1.attention") == pytest.approx(2 / 64 + 62 / 64 * 2 / 64)
    stream(frame := patched(frame, 3, 4, 1))
    assert share_of(stream, "1.attention") == 0
    stream(torch.cat([frame[..., :16, :], frame[..., 16:, :] + 0.1], 2))
    assert share_of(stream, "1.attention") == 1, "half of the keys twice is everything"


def outputs_of(attention: str, policy: Policy, frames: list[Tensor], model: nn.Module) -> tuple[float, float]:
    """Of the last frame: the error of rows that were not changed themselves, and the share of work."""
    net = fluxcompile(model, frames[0], attention=attention)
    stream = CpuStream(net.program, policy)
    for frame in frames:
        out = stream(frame).clone()
    with torch.no_grad():
        apart = (out - model(frames[-1])).abs()[..., 4:, :]
    assert stream.stats is not None
    return float(apart.max()), stream.stats.work_share


@pytest.mark.parametrize("gate_by", ["largest", "mean"])
def test_a_gate_carries_changes_beyond_the_radius(gate_by: str) -> None:
    """What attention leaves stale without corrections, with a gate between nothing and everything."""
    model, first = tokens(2, token=False), walk(1)[0]
    frames = [first, *(patched(first, 0, x, x, by=4.0) for x in range(4))]
    stale, least = outputs_of("exact", Policy(exact=False, radius=0), frames, model)
    everything, most = outputs_of("exact", Policy(), frames, model)
    assert everything < 1e-4 * stale
    errors, works = zip(
        *(
            outputs_of("incremental", Policy(exact=False, radius=0, gate=gate, gate_by=gate_by), frames, model)
            for gate in (1e-4, 0.05, 9.0)
        ),
        strict=True,
    )
    assert errors[0] < 0.02 * stale
    assert errors[0] < errors[1] < stale
    assert most >= works[0] > works[1] > works[2] > least
    assert errors[2] == pytest.approx(stale, rel=1e-3)


def test_a_radius_without_a_gate_is_as_it_was() -> None:
    """Nothing passes beyond the radius then, so nothing is corrected."""
    model, first = tokens(2), walk(1)[0]
    frames = [first, patched(first, 0, 0, 1), patched(first, 5, 5, 2)]
    policy = Policy(exact=False, radius=0)
    assert outputs_of("incremental", policy, frames, model) == outputs_of("exact", policy, frames, model)


def test_a_state_is_part_of_what_a_stream_holds() -> None:
    """State and map for each row of k, v, means and sums: they are counted."""
    model = tokens(token=False)
    plain, kept = (
        CpuStream(fluxcompile(model, torch.zeros(1, 3, 32, 32), attention=a).program, Policy()).cache_bytes
        for a in ("exact", "incremental")
    )
    assert kept - plain == 64 * 4 * (3 * 16 + 2 * 3)


def test_rolls_start_the_sums_over() -> None:
    """After a roll every query is computed over all keys again."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 4, 4), Tokens(16, 8, 8, Attention(16, 2, fused=True), token=False, positions=False)
        )
    )
    net = compiled(model)
    assert net.program.plan is not None
    assert net.program.plan.rolls.unit == [4, 4]
    stream, frame = CpuStream(net.program, Policy(exact=False, gate=1e-6)), walk(1)[0]
    stream(frame)
    stream(frame := patched(frame, 2, 2, 1))
    stream.roll(0, 4)
    out = stream(frame.roll(4, -1))
    assert share_of(stream, "1.attention") == 1
    with torch.no_grad():
        assert_matches(out, model(frame.roll(4, -1)))
    stream(frame := patched(frame.roll(4, -1), 5, 5, 2))
    assert 0 < share_of(stream, "1.attention") < 0.2


def test_a_plan_that_was_tampered_with_is_refused() -> None:
    net: Any = compiled(tokens())
    step = next(s for s in net.program.plan.steps if s.op == "correct_attention")
    step.args["sums"], step.args["mean"] = step.args["mean"], step.args["sums"]
    with pytest.raises(ProgramError, match="correct_attention does not fit"):
        CpuStream(net.program, Policy())
