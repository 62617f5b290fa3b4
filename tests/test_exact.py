"""An exact stream equals dense inference on every frame: any net, clip and motion, whatever passes are left out."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxcompile import Net, Policy, fluxcompile, pass_names
from fluxcompile.models import ZOO, build
from tests.helpers import Do, assert_matches, assert_near_for_less, seeded, state_of
from tests.nets import TRAPS, Attention, Tokens, Windows, clips, nets, pans

Clip = list[tuple[Tensor, Tensor | None]]


def quick(examples: int) -> Any:
    """Settings for examples that take half a second each: the same every time, reported as found, not shrunk."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def assert_exact(model: nn.Module, clip: Clip, **options: Any) -> Net:
    """Dense and exact streaming inference equal the model on every frame."""
    net = fluxcompile(model, torch.zeros_like(clip[0][0]), **options)
    still = "insert_motion_reindex" in options.get("without", ())
    stream = net.stream()
    for frame, motion in clip:
        with torch.no_grad():
            want = model(frame)
        assert_matches(net.dense(frame), want)
        assert_matches(stream(frame, motion=None if still else motion), want)
    return net


# --- random nets ------------------------------------------------------------------------------------------------------


@quick(30)
@given(st.data())
def test_random_nets(data: st.DataObject) -> None:
    model, shape = data.draw(nets())
    note(str(model))
    assert_exact(model, data.draw(clips(shape)))


@quick(12)
@given(st.data())
def test_random_nets_with_passes_left_out(data: st.DataObject) -> None:
    model, shape = data.draw(nets(most=3))
    without = data.draw(st.lists(st.sampled_from(pass_names()), min_size=1, max_size=4, unique=True))
    note(f"{model}\n{without}")
    assert_exact(model, data.draw(clips(shape)), without=without)


@quick(8)
@given(st.data())
def test_random_nets_with_incremental_attention(data: st.DataObject) -> None:
    model, shape = data.draw(nets(most=2))
    c, (h, w) = shape[1], shape[2:]
    attention = Attention(c, 2, fused=data.draw(st.booleans()), shrink=data.draw(st.sampled_from((1, 2))))
    blocks = Tokens(c, h // 4, w // 4, attention, token=data.draw(st.booleans()), positions=data.draw(st.booleans()))
    both = seeded(lambda: Do(lambda x, pool, t, net: (t(pool(x)), net(x)), nn.AvgPool2d(4), blocks, model)).double()
    note(str(both))
    assert_exact(both, data.draw(clips(shape)), attention="incremental")


@pytest.mark.parametrize("name", TRAPS)
def test_where_it_is_easy_to_be_wrong(name: str) -> None:
    assert_exact(Do(TRAPS[name]).eval(), pans((1, 4, 32, 48)))


# --- each pass left out -----------------------------------------------------------------------------------------------


def written_out(x: Tensor) -> Tensor:
    """Pooling of 2 x 2 cells as exports write it."""
    rows, columns = torch.arange(16).view(8, 2, 1, 1), torch.arange(24).view(1, 1, 12, 2)
    return x.permute(2, 3, 0, 1)[rows, columns].permute(4, 5, 0, 1, 2, 3).mean((3, 5))


class Everything(nn.Module):
    """A net in which every pass finds something to do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Dropout(0.1), nn.SiLU(), nn.Identity()
        )
        self.window = Windows(Attention(8, 2, fused=False, bias=torch.randn(1, 2, 16, 16)), 4, 1)
        self.tokens = Tokens(8, 4, 6, Attention(8, 2, fused=True), token=True, positions=True)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")
        self.squeeze, self.norm = nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8)
        self.mix, self.head = nn.Conv2d(16, 4, 3, padding=1), nn.Linear(8, 5)
        self.focus = nn.Conv2d(6, 8, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = self.window(self.stem(x * 2 - 1) + self.focus(torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1)))
        b = self.tokens(self.pool(self.pool(a)))
        b = b * b.sigmoid()
        b = b * self.squeeze(b.mean((2, 3), keepdim=True)).sigmoid()
        c = self.up(self.up(self.norm(b))) + torch.arange(24, dtype=x.dtype)
        c = c + self.up(written_out(a)) + F.interpolate(b.mean((2, 3), keepdim=True), (16, 24), mode="bilinear")
        return {"map": self.mix(torch.cat([a, c], 1)), "classes": self.head(b.mean((2, 3)))}


@pytest.fixture(scope="module")
def everything() -> nn.Module:
    return seeded(Everything).double()


@pytest.fixture(scope="module")
def clip() -> Clip:
    return pans((1, 3, 32, 48))


@pytest.fixture(scope="module")
def whole(everything: nn.Module, clip: Clip) -> str:
    """The text with no pass left out."""
    return fluxcompile(everything, clip[0][0]).text()


@pytest.mark.parametrize("name", pass_names())
def test_each_pass_left_out(
    name: str, everything: nn.Module, clip: Clip, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_VERIFY", "0")  # half the time; the tests above verify
    net = assert_exact(everything, clip, without=[name])
    assert net.text() != whole


def test_all_passes_left_out(everything: nn.Module, clip: Clip) -> None:
    net = assert_exact(everything, clip, without=pass_names())
    assert net.explain().blocked_mac_share < 0.01  # what has no place is held all the same


def test_attention_settings(everything: nn.Module, clip: Clip) -> None:
    """Incremental attention is exact; active attention is an approximation, exact where nothing changed."""
    assert_exact(everything, clip, attention="incremental")
    net = fluxcompile(everything, clip[0][0], attention="active")
    stream = net.stream()
    for _ in range(2):
        assert_matches(stream(clip[0][0]), net.dense(clip[0][0]))


# --- state ------------------------------------------------------------------------------------------------------------


def test_returning_and_standing_still(everything: nn.Module, clip: Clip) -> None:
    net = fluxcompile(everything, clip[0][0])
    stream = net.stream()
    a, b = clip[0][0], clip[-1][0]
    for frame in (a, b, a, a):
        assert_matches(stream(frame), net.dense(frame))
    assert stream.stats is not None
    assert (stream.stats.work_share, stream.stats.miss.any(), stream.stats.dense) == (0.0, False, False)


def test_reset_starts_over(everything: nn.Module, clip: Clip) -> None:
    net = fluxcompile(everything, clip[0][0])
    stream = net.stream()
    stream(clip[0][0])
    stream.reset()
    assert_matches(stream(clip[1][0]), net.dense(clip[1][0]))
    assert stream.stats is not None
    assert (stream.stats.work_share, bool(stream.stats.miss.all()), stream.stats.dense) == (1.0, True, True)


def test_streams_share_nothing(everything: nn.Module, clip: Clip) -> None:
    net = fluxcompile(everything, clip[0][0])
    one, other = net.stream(), net.stream()
    for (a, motion), (b, _) in zip(clip, reversed(clip), strict=True):
        assert_matches(one(a, motion=motion), net.dense(a))
        assert_matches(other(b), net.dense(b))


def test_what_the_caller_does_to_outputs_and_frames(everything: nn.Module, clip: Clip) -> None:
    net = fluxcompile(everything, clip[0][0])
    stream = net.stream()
    for frame, _ in clip[:3]:
        frame = frame.clone()
        outputs = stream(frame)
        assert_matches(outputs, net.dense(frame))
        for value in (*outputs.values(), frame):
            value.zero_()


def test_an_approximate_policy_does_less_and_is_near(everything: nn.Module, clip: Clip) -> None:
    net = fluxcompile(everything, clip[0][0])
    exact, near = net.stream(), net.stream(Policy(exact=False, threshold=0.05, radius=4, gate=0.1))
    assert_near_for_less(net, exact, near, clip[0][0])


# --- the zoo ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in ZOO if n.endswith("-mini")])
def test_zoo(name: str) -> None:
    """Exact over a short clip; and the model the caller keeps is as it was."""
    model, (_, _, h, w) = build(name), ZOO[name].input_shape
    before = state_of(model)
    net = fluxcompile(model, ZOO[name].example())
    assert net.explain().blocked_mac_share > 0.95
    stream = net.stream()
    frame, vector = ZOO[name].example(), torch.tensor([0, 8], dtype=torch.int32)
    motion = vector[:, None, None].expand(2, -(-h // 16), -(-w // 16))
    panned = frame.roll(-8, 3)
    changed = panned.clone()
    changed[..., 20:30, 20:30] += 0.3
    for x, moved in ((frame, None), (panned, motion), (changed, None), (changed, None), (ZOO[name].example(1), motion)):
        with torch.no_grad():
            want = model(x)
        assert_matches(stream(x, motion=moved), want)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], v) for k, v in after.items())
    assert not any(m.training for m in model.modules())


# --- controls ---------------------------------------------------------------------------------------------------------


def test_a_forgotten_miss_is_seen(everything: nn.Module, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks that miss one cell too few."""
    from fluxcompile.ops import TABLE

    row = TABLE["miss_input"]

    def forgetful(*args: Any) -> Tensor:
        miss = row.reference(*args)
        miss[miss.nonzero()[:1, 0]] = bool(args[2])
        return miss

    net = fluxcompile(everything, clip[0][0])
    monkeypatch.setitem(TABLE, "miss_input", type(row)(row.name, row.schema, forgetful, row.fake, row.samples))
    stream = net.stream()
    assert_matches(stream(clip[0][0]), net.dense(clip[0][0]))
    with pytest.raises(AssertionError):
        assert_matches(stream(clip[-1][0]), net.dense(clip[-1][0]))


def test_a_stale_cache_is_seen(everything: nn.Module, clip: Clip) -> None:
    net = fluxcompile(everything, clip[0][0])
    stream = net.stream()
    stream(clip[0][0])
    stream._caches = {name: cache * 1.001 for name, cache in stream._caches.items()}
    with pytest.raises(AssertionError):
        assert_matches(stream(clip[0][0]), net.dense(clip[0][0]))
