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
from fluxcompile.explanation import Explanation
from fluxcompile.net import Net, Partition, load, load_partition
from fluxcompile.options import Frames, Policy

if TYPE_CHECKING:
    from fluxcompile.compiler import fluxcompile
    from fluxcompile.pipeline import pass_names

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
    if name == "fluxcompile":
        from fluxcompile.compiler import fluxcompile

        return fluxcompile
    if name == "pass_names":
        from fluxcompile.pipeline import pass_names

        return pass_names
    raise AttributeError(f"module 'fluxcompile' has no attribute {name!r}")
