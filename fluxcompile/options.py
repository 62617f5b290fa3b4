"""Defaults and flags: the only place that reads the environment and the only home of default values."""

import logging
import math
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fluxcompile.errors import OptionError

log = logging.getLogger("fluxcompile")

TILE_PIXELS = 32
"""Frame pixels a tile spans on every map, where a map is fine enough."""


@dataclass(frozen=True)
class Frames:
    """What camera frames look like, so that a stream takes them as they come.

    The model sees (frame * scale - mean) / std per channel, as NCHW float32. `layout` is "hwc" or "chw".
    """

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "hwc"

    def __post_init__(self) -> None:
        if self.layout not in ("hwc", "chw"):
            raise OptionError(f'Frames: layout is {self.layout!r}; use "hwc" or "chw"')
        if not self.scale or not all(self.std):
            raise OptionError("Frames: scale and std must not be 0")


GATES = ("largest", "mean")
"""What of a cell's change a gate looks at."""


@dataclass(frozen=True)
class Policy:
    """What is recomputed. `exact=True` equals dense inference; every other knob is an approximation with a price.

    threshold: an input pixel counts as changed when any channel moved by more than this from the reference image,
        in the units of the model's input (of uint8 frames: grey levels).
    radius: how far a changed pixel may spread, in frame pixels, and into a quarter of a cell more on maps of cells
        larger than 16; None follows every window to the end. What misses in the background does not spread.
    residual: how far a block of 8 x 8 pixels may be from the reference image, its mean absolute difference in frame
        values; 0 looks at each pixel alone (`threshold`). With a task, of what is salient in its last outputs, over
        its weight there: what matters half as much may differ twice as much, up to `background`.
    background: the same for what is not salient; 0 makes no difference. What touches such a block within two blocks
        is held to `residual`.
    texture: pixels, down and across, by which texture in the background may be seen off: that times a block's own
        gradient is added to `background`.
    edge: the same for the outermost 16 pixels of the frame, where new things come in.
    support: how many of the 3 x 3 blocks around a block must miss for it to count, two more in the background.
    anchor: frames may be smaller than the net's input; they lie in its middle and move there as the camera moves.
    vectors: motion of each block of 16 x 16 pixels is looked for too, and what was salient follows it.
    freshness: the share of all blocks that are doubtful, the oldest and most salient, computed anew in each frame.
    budget_ms: time a frame may take; what misses by least is left for later. 0 knows no limit.
    exposure: with `residual`, frames are seen in the light of the reference image (gain and bias of each channel,
        fitted where both match) when more blocks match so; where hardly anything matches, the scene was cut.
    dense: the share of the frame's blocks that miss (are beyond `background`, where that is given) from which
        everything is computed anew: that is then the faster way.
    gate: a recomputed cell counts as changed when its largest change exceeds `gate` times the spread (standard
        deviation) of its map.
    gate_by: "largest", or "mean": what must exceed that is the mean change over the cell's channels, or that over 5 x 5
        cells at 0.4 of the gate; cells beside one that passes, pass too.
    """

    exact: bool = True
    threshold: float = 0.0
    radius: int | None = None
    gate: float = 0.0
    gate_by: str = "largest"
    residual: float = 0.0
    exposure: bool = False
    dense: float = 0.6
    background: float = 0.0
    texture: float = 0.5
    edge: float = 0.0
    support: int = 0
    anchor: bool = False
    vectors: bool = False
    freshness: float = 0.0
    budget_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.exact and (self.threshold or self.radius is not None or self.gate or self.residual):
            raise OptionError(
                "Policy: exact=True leaves no room for threshold, radius, gate or residual; pass exact=False"
            )
        if not self.residual:
            for name in ("exposure", "background", "edge", "support", "vectors", "freshness", "budget_ms"):
                if getattr(self, name):
                    raise OptionError(f"Policy: {name} goes by what residual measures; give residual too")
        if self.background and self.background < self.residual:
            raise OptionError("Policy: background is for what matters less; it must not be below residual")
        if self.threshold and self.residual:
            raise OptionError("Policy: threshold looks at pixels, residual at blocks; give one of them")
        for name in ("threshold", "radius", "gate", "residual", "background", "texture", "edge", "budget_ms"):
            knob = getattr(self, name) or 0
            if not (math.isfinite(knob) and knob >= 0):
                raise OptionError(f"Policy: {name} must not be negative and must be finite, got {knob}")
        if self.gate_by not in GATES:
            raise OptionError(f"Policy: gate_by is {self.gate_by!r}; use {' or '.join(GATES)}")
        for name in ("dense", "freshness"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"Policy: {name} is {getattr(self, name)}; it is a share of blocks, from 0 to 1")
        if not 0 <= self.support <= 7:
            raise OptionError(f"Policy: support is {self.support}; it counts blocks, from 0 to 7")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def behind_cut(self, pixels: float) -> "Policy":
        """Of a net's part behind a cut: what looks at pixels did so before, a radius is in cells of so many pixels."""
        radius = None if self.radius is None else math.ceil(self.radius / pixels)
        return Policy(exact=self.exact, gate=self.gate, gate_by=self.gate_by, radius=radius)

    def require_engine(self) -> None:
        """Refuse what an engine has no kernel for."""
        if self.gate and self.gate_by == "mean":
            raise OptionError(
                'Policy: gate_by="mean" looks around each cell, which engines cannot; use gate_by="largest", or a '
                'stream with backend="cpu", "cuda" or "reference"'
            )

    @property
    def words(self) -> str:
        """The policy as a reader of a table wants it: its name, and what differs from that."""
        if self.exact:
            return "exact"
        named = [name for name, policy in POLICIES.items() if policy == self]
        if named:
            return named[0]
        start = VIDEO if self.anchor or self.background else Policy(exact=False)
        begun = start.to_json()
        told = [f"{knob} {_word(value)}" for knob, value in self.to_json().items() if value != begun[knob]]
        return ", ".join([*(["video"] if start is VIDEO else []), *told]) or "equal pixels"


def _word(value: float | bool | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "none"
    return ("on" if value else "off") if isinstance(value, bool) else f"{value:g}"


VIDEO = Policy(
    exact=False, residual=1.0, radius=8, background=14.0, edge=14.0, support=4, dense=0.4, exposure=True, anchor=True
)
"""For detectors on camera frames (bytes)."""
CAREFUL = replace(VIDEO, residual=0.4, background=5.0, edge=5.0, texture=0.25, radius=16, support=3)
"""The same, closer to dense inference and dearer."""
BOLD = replace(VIDEO, residual=2.5, background=20.0, edge=20.0)
"""The same, cheaper and further from dense inference."""
POLICIES = {"exact": Policy(), "careful": CAREFUL, "video": VIDEO, "bold": BOLD}
"""The policies that have names."""


def policy_of(given: Policy | str) -> Policy:
    """A policy, or one in words as `parse_policy` takes them."""
    return parse_policy(given) if isinstance(given, str) else given


def parse_policy(text: str) -> Policy:
    """A policy of words with commas between them: a name it begins from, then knobs, `video,residual=3,radius=none`."""
    first, *words = [word.strip() for word in text.split(",")]
    if "=" in first:
        first, words = "", [first, *words]
    if first and first not in POLICIES:
        raise OptionError(f"policy {text!r}: {first!r} is no policy; use {', '.join(POLICIES)} or knob=value")
    start = POLICIES[first] if first else Policy(exact=False)
    kinds = {f.name: type(getattr(VIDEO, f.name)) for f in fields(Policy)}
    knobs: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in kinds:
            raise OptionError(f"policy {text!r}: there is no knob {name!r}; there are {', '.join(kinds)}")
        known = {"none": None, "on": True, "off": False, "true": True, "false": False}
        try:
            if kinds[name] is str:
                knobs[name] = value
            else:
                knobs[name] = known[value.lower()] if value.lower() in known else kinds[name](float(value))
        except ValueError as e:
            raise OptionError(f"policy {text!r}: {name} is {value!r}, which is no number") from e
    return replace(start, **knobs)


def dump_folder() -> Path | None:
    """FLUX_DUMP: a folder that gets the numbered text of the graph after each pass."""
    value = os.environ.get("FLUX_DUMP", "")
    return Path(value) if value else None


def verify_passes() -> bool:
    """FLUX_VERIFY: 1 (the default) checks the graph after every pass, 0 only at the end of each stage."""
    value = os.environ.get("FLUX_VERIFY", "1")
    if value not in ("0", "1"):
        raise OptionError(f"FLUX_VERIFY is {value!r}; use 0 or 1")
    return value == "1"


def log_level() -> int:
    """FLUX_LOG: debug, info, warning (the default) or error."""
    value = os.environ.get("FLUX_LOG", "warning").lower()
    levels = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
    if value not in levels:
        raise OptionError(f"FLUX_LOG is {value!r}; use one of {', '.join(levels)}")
    return levels[value]


def kernel_variant() -> str:
    """FLUX_VARIANT: the CPU kernels to use, as `fluxcompile.kernels.cpu.variants()` names them; the best by default."""
    return os.environ.get("FLUX_VARIANT", "")
