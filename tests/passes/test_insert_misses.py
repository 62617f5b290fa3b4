"""A row outside its mask holds what its moved cache held: cell by cell, for any net, clip and motion."""

import pytest
import torch
from expecttest import assert_expected_inline
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxcompile.ir import output, text
from fluxcompile.ops import TABLE, spread
from fluxcompile.passes.flow import domain, has_domain, layout
from fluxcompile.passes.gate_changes import gate_changes
from fluxcompile.passes.hold_globals import hold_globals
from fluxcompile.passes.insert_motion_reindex import insert_motion_reindex
from fluxcompile.passes.limit_spread import limit_spread
from tests.helpers import Do, Runner, captured, masked
from tests.nets import TRAPS, clips, nets, pans

reindex = TABLE["motion_reindex"].reference


def unsound(model: nn.Module, clip: list[tuple[Tensor, Tensor | None]]) -> list[str]:
    """The values that, in some frame, differ from their moved cache in a row that did not miss."""
    module = captured(model, tuple(clip[0][0].shape), dtype=clip[0][0].dtype)
    module = masked(module, first=(hold_globals, gate_changes, limit_spread, insert_motion_reindex))
    seen = [n for n in module.graph.nodes if has_domain(n) and not domain(n).parts and n.meta.get("miss")]
    sources = [n.meta["source"] or n.meta["miss"] for n in seen]
    output(module).args = ([*seen, *(n.meta["miss"] for n in seen), *sources],)
    run, bad, old = Runner(module), [], list[Tensor]()
    for frame, motion in clip:
        found = run(frame, motion=0 if motion is None else motion)
        values, misses, moves = (found[i * len(seen) : (i + 1) * len(seen)] for i in range(3))
        for node, was, now, miss, source in zip(seen, old, values, misses, moves, strict=bool(old)):
            moved = reindex(was, source, str(layout(node))) if node.meta["source"] else was
            differs = (moved - now).abs() > 1e-9 * now.abs().max() if now.is_floating_point() else moved != now
            if (differs & ~spread(miss, str(layout(node)))).any():
                bad.append(f"{node.format_node()}: {domain(node)}")
        old = [v.clone() for v in values]
    return bad


def test_rewrites() -> None:
    module = masked(nn.Conv2d(3, 4, 3, padding=1), (1, 3, 8, 8))
    assert_expected_inline(
        text(module),
        """\
%input_1: f32[1x3x8x8] = input
%fresh: b8[] = fresh
%threshold: f32[] = threshold
%cache_input_1: f32[1x3x8x8] = cache
%miss_input: b8[64] = flux.miss_input(%input_1, %cache_input_1, %fresh, %threshold, layout="1 3 y8 x8")
%merge: f32[1x3x8x8] = flux.merge(%input_1, %cache_input_1, %miss_input, layout="1 3 y8 x8")
%miss_window: b8[64] = flux.miss_window(%miss_input, @reads_8x3, @reads_8x3, size=[8, 8])
%conv2d: f32[1x4x8x8] = aten.conv2d(%merge, @weight, @bias, stride=[1, 1], padding=[1, 1])
return [%conv2d]""",
    )


FLOWS = {
    "same rows, same mask": lambda x: x.relu().sigmoid() + x,
    "a window": lambda x: torch.max_pool2d(x, 2),
    "moved rows": lambda x: x[..., 1:],
    "mixed": lambda x: x.mean((2, 3)),
    "anything": lambda x: x.reshape(1, 4, 4, 12),
    "another order": lambda x: x.flatten(2).mT,
    "channels": lambda x: x.chunk(2, 1)[1],
}


def test_flows() -> None:
    lines = []
    for name, function in FLOWS.items():
        module = masked(Do(function), (1, 4, 6, 8))
        lines += [f"{name}:", *(x for x in text(module).splitlines() if "flux.miss" in x and "miss_input(" not in x)]
    assert_expected_inline(
        "\n".join(lines),
        """\
same rows, same mask:
a window:
%miss_window: b8[12] = flux.miss_window(%miss_input, @reads_3x2, @reads_4x2, size=[6, 8])
moved rows:
%miss_remap: b8[42] = flux.miss_remap(%miss_input, @rows_42)
mixed:
%miss_join: b8[1] = flux.miss_join([%miss_input], letters="abcd -> ab", layouts=["1 4 y6 x8"], out_layout="1 4")
anything:
%miss_any: b8[1] = flux.miss_any([%miss_input], rows=1)
another order:
channels:""",
    )


def test_a_constant_has_no_mask() -> None:
    module = masked(Do(lambda x: x + torch.ones(8)), (1, 4, 6, 8))
    assert not any("miss" in n.meta for n in module.graph.nodes if n.op == "get_attr")


@settings(
    max_examples=30, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(st.data())
def test_masks_are_sound(data: st.DataObject) -> None:
    model, shape = data.draw(nets(most=3))
    assert unsound(model, data.draw(clips(shape))) == []


@pytest.mark.parametrize("name", TRAPS)
def test_masks_are_sound_where_it_is_easy_to_be_wrong(name: str) -> None:
    assert unsound(Do(TRAPS[name]), pans((1, 4, 32, 48))) == []


def test_a_mask_that_forgets_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the tests above."""
    monkeypatch.setattr("fluxcompile.passes.insert_misses.moved_apart", lambda *_: None)
    assert unsound(Do(TRAPS["coordinates"]), pans((1, 4, 32, 48)))
