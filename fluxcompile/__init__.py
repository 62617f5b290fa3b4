"""fluxcompile: run vision models on video without computing the same thing twice.

from fluxcompile import fluxcompile, load
net = fluxcompile(model, example)
stream = net.stream()
for frame in video:
outputs = stream(frame)
"""

from typing import TYPE_CHECKING, Any

from fluxcompile.errors import (
    BoundaryError,
    CaptureError,
    FluxError,
    InputError,
    OptionError,
    ProfileError,
    ProgramError,
    VerifyError,
)
from fluxcompile.net import Explanation, Net, load
from fluxcompile.options import Frames, Policy
from fluxcompile.parts import Partition, load_partition

if TYPE_CHECKING:
    from fluxcompile.pipeline import fluxcompile, pass_names

__all__ = [
    "BoundaryError",
    "CaptureError",
    "Explanation",
    "FluxError",
    "Frames",
    "InputError",
    "Net",
    "OptionError",
    "Partition",
    "Policy",
    "ProfileError",
    "ProgramError",
    "VerifyError",
    "fluxcompile",
    "load",
    "load_partition",
    "pass_names",
]


def __getattr__(name: str) -> Any:
    """The compiler is imported on first use: loading a program needs no torch."""
    if name in ("fluxcompile", "pass_names"):
        from fluxcompile import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'fluxcompile' has no attribute {name!r}")
