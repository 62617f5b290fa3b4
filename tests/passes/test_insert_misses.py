"""A row outside its mask holds what its moved cache held: cell by cell, for any net, clip and motion."""

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxcompile.ir import output
from fluxcompile.ops import TABLE, spread
from fluxcompile.passes.flow import domain, has_domain, layout
from fluxcompile.passes.gate_changes import gate_changes
from fluxcompile.passes.hold_globals import hold_globals
from fluxcompile.passes.insert_motion_reindex import insert_motion_reindex
from fluxcompile.passes.limit_spread import limit_spread
from tests.helpers import Do, Runner, captured, masked, seeded, text_of
from tests.nets import clips, nets

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


@settings(
    max_examples=30, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(st.data())
def test_masks_are_sound(data: st.DataObject) -> None:
    model, shape = data.draw(nets(most=3))
    assert unsound(model, data.draw(clips(shape))) == []
