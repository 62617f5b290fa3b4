"""The passes in their only order, and what runs them: a model becomes a program."""

import inspect
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from fluxcompile.errors import OptionError
from fluxcompile.ir import clean, output, text
from fluxcompile.options import Frames, Policy, dump_folder, log, log_level, verify_passes
from fluxcompile.passes.cache_attention import cache_attention
from fluxcompile.passes.cache_convolution import cache_convolution
from fluxcompile.passes.cache_pointwise import cache_pointwise
from fluxcompile.passes.cache_pooling import cache_pooling
from fluxcompile.passes.cache_projection import cache_projection
from fluxcompile.passes.cache_resize import cache_resize
from fluxcompile.passes.cancel_scatter_gather import cancel_scatter_gather, drop_unread_caches
from fluxcompile.passes.capture import Source, capture, copy_graph
from fluxcompile.passes.choose_granularity import choose_granularity
from fluxcompile.passes.count_macs import count_macs
from fluxcompile.passes.describe_frames import describe_frames
from fluxcompile.passes.drop_identities import drop_identities
from fluxcompile.passes.emit_program import emit_graph
from fluxcompile.passes.fold_batch_norm import fold_batch_norm
from fluxcompile.passes.fold_constants import fold_constants
from fluxcompile.passes.fold_normalisation import fold_normalisation
from fluxcompile.passes.fold_slices import fold_slices
from fluxcompile.passes.fuse_activations import fuse_activations
from fluxcompile.passes.fuse_adaptive_pooling import fuse_adaptive_pooling
from fluxcompile.passes.fuse_attention import fuse_attention
from fluxcompile.passes.gate_changes import gate_changes
from fluxcompile.passes.hold_globals import hold_globals
from fluxcompile.passes.infer_domains import infer_domains
from fluxcompile.passes.insert_misses import insert_misses
from fluxcompile.passes.insert_motion_reindex import insert_motion_reindex
from fluxcompile.passes.isolate_dense_regions import isolate_dense_regions
from fluxcompile.passes.limit_spread import limit_spread
from fluxcompile.passes.lower_plan import lower_plan
from fluxcompile.passes.widen_cells import widen_cells
from fluxcompile.program import Layer, Program
from fluxcompile.verify import verify

Pass = Callable[..., int]

CAPTURED: tuple[Pass, ...] = (
    describe_frames,  # first: the folds below must see it
    drop_identities,  # an identity would hide a norm from its convolution
    fold_constants,  # tables must be constants before anything matches on them
    fold_batch_norm,
    fold_normalisation,  # after the norms, which also change the weights of a convolution
    fold_slices,  # after normalisation, which it would hide from the convolution
    fuse_adaptive_pooling,
    fuse_attention,
    fuse_activations,
    widen_cells,
)
ANALYSES: tuple[Pass, ...] = (
    infer_domains,
    count_macs,  # names the layers while there is one op for each
)
MASKED: tuple[Pass, ...] = (
    choose_granularity,
    hold_globals,  # before the masks, so that they see what is held
    gate_changes,  # the same
    limit_spread,  # the same
    insert_motion_reindex,  # before the masks and caches, which ask where values move
    insert_misses,
)
"""What every target starts from; the CPU's plan is lowered from here."""
BLOCKED: tuple[Pass, ...] = (
    cache_convolution,
    cache_pooling,
    cache_resize,
    cache_attention,
    cache_projection,
    cache_pointwise,
    isolate_dense_regions,  # after everything that can be blocked has been
    cancel_scatter_gather,  # last: it drops masks nobody reads, which a region still would
)
REQUIRED = {"describe_frames", "infer_domains", "count_macs", "insert_misses"}
"""What the others stand on; everything else can be left out with equal results."""


def pass_names() -> list[str]:
    """The passes `without=` takes, in order."""
    return [p.__name__ for p in (*CAPTURED, *MASKED, *BLOCKED) if p.__name__ not in REQUIRED]


def compile_model(
    model: Source,
    example: Any,
    *,
    frames: Frames | None,
    policy: Policy,
    without: Sequence[str],
    attention: str,
    outputs: Sequence[str],
) -> Program:
    """The program of a model; see `fluxcompile`."""
    unknown = [w for w in without if w not in pass_names()]
    if unknown:
        raise OptionError(f"without: no pass is called {', '.join(unknown)}; there are {', '.join(pass_names())}")
    log.setLevel(log_level())
    captured = capture(model, example, outputs)
    run = _Runner(set(without), {"attention": attention, "frames": frames})
    run(captured, "captured", CAPTURED)
    return _compiled(captured, run, captured.meta["template"], frames=frames, policy=policy)


def compile_part(module: GraphModule, whole: Program, template: Any, frames: Frames | None, policy: Policy) -> Program:
    """The program of a part of a net, a graph whose captured passes ran before; compiled as the whole was."""
    run = _Runner(set(whole.options.get("without", ())), {"attention": whole.options.get("attention", "exact")})
    return _compiled(module, run, template, frames=frames, policy=policy)


def _compiled(
    captured: GraphModule, run: "_Runner", template: Any, *, frames: Frames | None, policy: Policy
) -> Program:
    """What follows the captured passes."""
    attention = run.options["attention"]
    dense = copy_graph(captured)
    run(captured, "captured", ANALYSES)
    layers = captured.meta["layers"]
    blocked = captured
    run(blocked, "blocked", MASKED)
    constants: dict[str, Tensor] = {}
    with torch.no_grad():
        plan = lower_plan(blocked, constants, attention)
    run(blocked, "blocked", BLOCKED)
    drop_unread_caches(blocked)
    verify(blocked, "blocked", "the last pass")
    clean(dense)
    output(dense).args = (list(output(dense).args[0]),)  # type: ignore[arg-type]
    graphs = {"dense": emit_graph(dense, constants), "blocked": emit_graph(blocked, constants)}
    return Program(
        graphs=graphs,
        layers=_layers(blocked, layers),
        template=template,
        text=text(blocked),
        frames=asdict(frames) if frames else None,
        policy=policy.to_json(),
        plan=plan,
        options={"attention": attention, "without": sorted(run.without)},
        constants={k: v.detach().clone().contiguous().numpy() for k, v in constants.items()},
    )


class _Runner:
    """Runs passes in order, verifying and dumping after each."""

    def __init__(self, without: set[str], options: dict[str, Any]) -> None:
        self.without, self.options, self.count = without, options, 0

    def __call__(self, module: GraphModule, stage: str, passes: Sequence[Pass]) -> None:
        for one in passes:
            name = one.__name__
            if name in self.without:
                continue
            start = time.perf_counter()
            wanted = {k: v for k, v in self.options.items() if k in inspect.signature(one).parameters}
            with torch.no_grad():
                changed = one(module, **wanted)
            log.debug("%s: %d in %.0f ms", name, changed, 1000 * (time.perf_counter() - start))
            if verify_passes():
                verify(module, stage, name)
            self._dump(module, name)
        if not verify_passes():
            verify(module, stage, f"the {stage} passes")

    def _dump(self, module: GraphModule, name: str) -> None:
        folder = dump_folder()
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{self.count:02d}_{name}.txt"
            path.write_text(text(module) + os.linesep)
            self.count += 1


def _layers(module: GraphModule, layers: list[dict[str, Any]]) -> list[Layer]:
    """Each layer with the form the passes gave it."""
    forms: dict[int, str] = {}
    for node in module.graph.nodes:
        if "layer" in node.meta:
            lists = node.meta.get("list", ())
            forms[node.meta["layer"]] = "dense" if not lists else "tile" if "tiles" in str(lists[0].target) else "rows"
    found = []
    for i, layer in enumerate(layers):
        form = forms.get(i, "dense")
        reason = "" if form != "dense" else layer["reason"] or "its pass was left out"
        if reason == "no place":
            form, reason = "held", ""
        found.append(Layer(**{**layer, "form": form, "reason": reason}))
    return found
