"""`fluxcompile()`, the front door: a model compiled to a net."""

from collections.abc import Sequence
from typing import Any

from fluxcompile.net import Net
from fluxcompile.options import Frames, Policy, policy_of
from fluxcompile.passes.capture import Source
from fluxcompile.pipeline import compile_model


def fluxcompile(
    model: Source,
    example: Any = None,
    *,
    frames: Frames | None = None,
    policy: Policy | str | None = None,
    without: Sequence[str] = (),
    attention: str = "exact",
    outputs: Sequence[str] = (),
) -> Net:
    """Compile a vision model for video.

    model: an nn.Module in eval mode, an ExportedProgram, or a path to .onnx, .pt2 or an Ultralytics .pt.
    example: a tensor (or tuple of them) of the shapes and dtypes the net will be called with, batch 1; files know
        their own. The caller's model is not changed.
    frames: what camera frames look like; the stream then takes uint8 images and normalisation is folded in.
    policy: the default policy of the net's streams, also in words ("video"); exact when not given.
    without: names of passes to leave out (see `pass_names()`); results stay equal.
    attention: how global attention is recomputed, "exact", "incremental" or "active" (see `cache_attention`).
    outputs: values of an .onnx file by name, where it is to end instead of at its own outputs: before a suppression of
        boxes, say, whose result has no shape of its own.

    Raises CaptureError for a model that cannot be captured, OptionError for a setting that means nothing.
    """
    wanted = Policy() if policy is None else policy_of(policy)
    program = compile_model(
        model, example, frames=frames, policy=wanted, without=without, attention=attention, outputs=outputs
    )
    return Net(program)
