"""What is known of a net on a device: how long a frame takes by the blocks computed in it, and each layer's share.

Measured by `fluxcompile profile`, read from a JSON file, or named: `xavier-nx` and `rtx-3080` hold what the paper
measured (Table 1), no more: where no layers were measured, all of a frame's time is its layers', by their MACs.
"""

import math
from collections.abc import Collection, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np

from fluxcompile.errors import ProfileError
from fluxcompile.runtime.latency import BLOCK, Curve
from fluxcompile.runtime.transport import CODECS

FORMAT = 1
BESIDE = ("look", *CODECS, "decode")
"""What may be measured beside a net: looking at a frame, encoding one, decoding one of H.264."""
NAMED = "profiles.json"


class LayerProfile(msgspec.Struct):
    """One layer at each of the profile's `activities`: milliseconds, and the share of its cells that were computed."""

    ms: list[float]
    share: list[float]


class Profile(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """T(n) = a n^2 + b n + c milliseconds, of n blocks of `block` frame pixels a side; a dense frame where faster.

    Of a frame that was looked at before; `beside_ms` tells what that takes ("look"), and to encode ("h264", "jpeg",
    "raw") and decode one ("decode"), where it was measured. peer, peer_ms: the fastest dense runtime there, and what a
    frame takes it.

    source: who measured it, and how. frame: its (height, width). residual_ms, left_out_ms: how far the curve is off,
    root mean square, over the frames it was fitted to and over each when left out. activities: blocks of the frames
    that layers were timed in, ascending.
    """

    device: str
    net: str
    source: str
    frame: tuple[int, int]
    dense_ms: float
    a: float
    b: float
    c: float
    power_mw: float | None = None
    residual_ms: float | None = None
    left_out_ms: float | None = None
    num_frames: int | None = None
    activities: list[float] = []
    layers: dict[str, LayerProfile] = {}
    beside_ms: dict[str, float] = {}
    peer: str = ""
    peer_ms: float | None = None
    block: int = BLOCK
    format: int = FORMAT

    def __post_init__(self) -> None:
        numbers = (self.a, self.b, self.c, self.dense_ms)
        if not all(np.isfinite(v) and v >= 0 for v in numbers) or not self.dense_ms:
            raise ValueError(f"a, b, c must not be negative and dense_ms must be positive, got {numbers}")
        if unknown := set(self.beside_ms) - set(BESIDE):
            raise ValueError(f"beside_ms holds {', '.join(sorted(unknown))}; it may hold {', '.join(BESIDE)}")
        others = [*self.beside_ms.values(), *([] if self.peer_ms is None else [self.peer_ms])]
        if not all(np.isfinite(v) and v > 0 for v in others):
            raise ValueError(f"beside_ms and peer_ms must be positive, got {others}")
        if min(self.frame) < 1 or self.block < 1:
            raise ValueError(f"frame and block must be positive, got {self.frame} and {self.block}")
        if sorted(self.activities) != self.activities:
            raise ValueError("activities must ascend")
        for name, layer in self.layers.items():
            if len(layer.ms) != len(self.activities) or len(layer.share) != len(self.activities) or not layer.ms:
                raise ValueError(
                    f"layer {name} must have a time and a share for each of {len(self.activities)} activities"
                )

    @property
    def curve(self) -> Curve:
        return Curve(self.a, self.b, self.c)

    @property
    def of_best_dense(self) -> "Profile":
        """The same device, where dense frames are left to the fastest runtime that was measured."""
        return (
            self if self.peer_ms is None else msgspec.structs.replace(self, dense_ms=min(self.dense_ms, self.peer_ms))
        )

    @property
    def blocks(self) -> float:
        """Blocks of a whole frame."""
        return self.frame[0] * self.frame[1] / self.block**2

    def ms(self, blocks: float) -> float:
        """Of a frame in which so many blocks are computed; all of it where that is faster."""
        return min(self.curve.ms(blocks), self.dense_ms)

    def part_ms(self, macs: Mapping[str, int], names: Collection[str], blocks: float) -> float:
        """Of some of a net's layers (`macs` holds all), and of what every frame costs beside its layers."""
        times = self.layer_ms(macs, blocks)
        beside = self.ms(blocks) - sum(times.values())
        return beside + sum(times[name] for name in names) if names else 0.0

    def layer_ms(self, macs: Mapping[str, int], blocks: float) -> dict[str, float]:
        """Of each layer, together no more than the frame's; one that was not measured takes the time of its MACs."""
        measured_ms = {name: self.layers[name].ms for name in macs if name in self.layers}
        known = {name: float(np.interp(blocks, self.activities, ms)) for name, ms in measured_ms.items()}
        measured = sum(macs[name] for name in known)
        per_mac = sum(known.values()) / measured if measured else math.inf
        times = {name: known.get(name, per_mac * count) for name, count in macs.items()}
        if sum(times.values()) <= self.ms(blocks):
            return times
        weights = times if measured else macs
        scale = self.ms(blocks) / (sum(weights.values()) or 1)
        return {name: scale * weight for name, weight in weights.items()}

    def share(self, layer: str, blocks: float) -> float:
        """Of a layer's cells, those computed anew; the frame's own share where that was not measured."""
        if layer in self.layers:
            return float(np.interp(blocks, self.activities, self.layers[layer].share))
        return min(1.0, blocks / self.blocks)

    def save(self, path: str | Path) -> None:
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")


def load_profile(path: str | Path) -> Profile:
    """Read a profile; ProfileError for a file that is none."""
    path = Path(path)
    if not path.is_file():
        raise ProfileError(f"{path}: no such file; measure one with `fluxcompile profile`")
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Profile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise ProfileError(f"{path}: not a profile ({e}); measure it again with `fluxcompile profile`") from e
    if found.format != FORMAT:
        raise ProfileError(f"{path}: format {found.format}, this fluxcompile reads {FORMAT}; measure it again")
    return found


@lru_cache(maxsize=1)
def named_profiles() -> tuple[Profile, ...]:
    """What ships with fluxcompile."""
    text = files("fluxcompile.runtime").joinpath(NAMED).read_bytes()
    return tuple(msgspec.json.decode(text, type=list[Profile]))


def find_profile(text: str, net: str = "") -> Profile:
    """A profile by a path, `device/net`, or the device alone where one of its nets is what `net` is called by."""
    if text.endswith(".json"):
        return load_profile(text)
    device, _, wanted = text.partition("/")
    found = [p for p in named_profiles() if p.device == device]
    if not found:
        known = ", ".join(dict.fromkeys(p.device for p in named_profiles()))
        raise ProfileError(f"profile {text!r}: no device is called {device}; there are {known}, or the path of a .json")
    of = [p for p in found if p.net == wanted or (not wanted and net.lower().startswith(p.net))]
    if len(of) != 1:
        nets = ", ".join(f"{device}/{p.net}" for p in found)
        raise ProfileError(
            f"profile {text!r}: of which net? There are {nets}; or measure {net or 'yours'} with profile"
        )
    return of[0]
