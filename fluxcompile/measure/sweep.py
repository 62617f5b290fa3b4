"""The sweep: architectures the compiler has never seen, each compiled and held against dense inference.

Random weights, one short moving clip: an object crosses a textured scene, the camera pans by whole strides (the caches
are told so), one hard cut. What is measured for each: was it captured, how much of its work is blocked, and the
largest error of an exact stream over the range of the output; `regions` are the ops no CPU kernel knows.
"""

import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fluxcompile.errors import CaptureError, FluxError, OptionError, in_a_line
from fluxcompile.sources import SourceError, find, zoo_names

FRAMES = 12
PACKAGES = ("torchvision", "timm")
PAN = 32
"""Pixels the camera pans at once: one total stride of most nets."""


@dataclass
class Row:
    """What the sweep found of one model. `max_relative_error` is over the dense output's range, worst frame."""

    name: str
    captured: bool
    reason: str = ""
    blocked_mac_share: float = 0.0
    max_relative_error: float | None = None
    macs: int = 0
    compile_s: float = 0.0
    work_share: float = 0.0
    dense: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()


def names_from(packages: Sequence[str]) -> list[str]:
    """The default names of each package, and of our own zoo for "zoo"."""
    names = []
    for package in packages:
        if package == "zoo":
            names += zoo_names()
        elif package in PACKAGES:
            census = (resources.files("fluxcompile.measure") / "census.txt").read_text().split()
            names += [n for n in census if n.startswith(f"{package}/")]
        else:
            raise OptionError(f"no models are known of {package!r}; use {', '.join(PACKAGES)} or zoo")
    return names


def sweep(
    names: Sequence[str],
    *,
    backend: str = "reference",
    resume: Path | None = None,
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Measure each model, streams on one backend.

    With `resume`, a file of one JSON row a line, what stands there is not measured again.
    """
    known = {r.name: r for r in _rows(resume)} if resume else {}
    rows = []
    for name in names:
        row = known.get(name)
        if row is None:
            try:
                row = measure(name, backend)
            except Exception as e:  # one model must not end the sweep of the others; the row says what broke
                row = Row(name, False, in_a_line(e))
            if resume:
                with resume.open("a") as f:
                    f.write(json.dumps(asdict(row)) + "\n")
        rows.append(row)
        on_row(row)
    return rows


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows and how many of them are captured, blocked to 95 % and equal to dense."""
    ran = [r for r in rows if r.captured]
    return {
        "models": [asdict(r) for r in rows],
        "captured": len(ran),
        "blocked_95": sum(r.blocked_mac_share >= 0.95 for r in ran),
        "exact": sum(r.max_relative_error is not None and r.max_relative_error <= 1e-4 for r in ran),
    }


def _rows(path: Path) -> Iterator[Row]:
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            yield Row(**json.loads(line))
        except (ValueError, TypeError):
            continue  # the line an interrupted run was writing


def measure(name: str, backend: str = "reference") -> Row:
    """Compile one model and run it exactly over the clip."""
    import torch

    from fluxcompile.compiler import fluxcompile

    torch.manual_seed(0)
    try:
        model = find(f"zoo:{name}")
    except (SourceError, ImportError) as e:
        return Row(name, False, f"not found: {e}")
    shapes = [tuple(s) for s in model.shapes or ()]
    start = time.perf_counter()
    try:
        net = fluxcompile(model.module, tuple(torch.rand(s) for s in shapes))
    except CaptureError as e:
        return Row(name, False, str(e).split("\n")[0])
    except FluxError as e:
        return Row(name, False, f"compiler error: {e}".split("\n")[0])
    seconds = time.perf_counter() - start
    told = net.explain()
    dense = tuple(sorted({f"{x.op}: {x.reason}" for x in told.layers if x.form == "dense"}))
    row = Row(name, True, "", told.blocked_mac_share, None, told.total_macs, seconds, 0.0, dense[:5])
    stream, worst, work = net.stream(backend=backend), 0.0, []
    for frame, motion in moving_clip(shapes[0]):
        got, want = _leaves(stream(frame, motion=motion)), _leaves(net.dense(frame))
        worst = max(worst, *(relative_error(g, w) for g, w in zip(got, want, strict=True)))
        work.append(stream.stats.work_share if stream.stats else 1.0)
    row.max_relative_error, row.work_share = worst, sum(work[1:]) / len(work[1:])
    steps = net.program.plan.steps if net.program.plan else []
    row.regions = tuple(" ".join(op.op.split(".")[1] for op in s.body.ops if "." in op.op) for s in steps if s.body)
    del net, stream, model
    gc.collect()
    return row


def relative_error(got: Any, want: Any) -> float:
    """The largest difference over the range of what is wanted; of whole numbers and truths, 0 or infinite."""
    if not want.is_floating_point():
        return 0.0 if bool((got == want).all()) else float("inf")
    spread = float(want.max() - want.min()) or float(want.abs().max()) or 1.0
    error = float((got - want).abs().max()) / spread
    return error if error == error else float("inf")


def _leaves(tree: Any) -> list[Any]:
    from torch.utils import _pytree

    return [x for x in _pytree.tree_leaves(tree) if x is not None]


def moving_clip(shape: Sequence[int], frames: int = FRAMES, seed: int = 0) -> Iterator[tuple[Any, Any]]:
    """(frame, motion) pairs of `shape` (1, channels, h, w): an object, a pan in the middle, a cut near the end."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    channels, h, w = shape[-3:]

    def texture(rows: int, columns: int) -> Any:
        coarse = torch.rand((1, channels, rows // 8 + 2, columns // 8 + 2), generator=generator)
        fine = torch.rand((1, channels, rows, columns), generator=generator)
        return 0.8 * torch.nn.functional.interpolate(coarse, (rows, columns), mode="bilinear") + 0.2 * fine

    scene, thing = texture(h, w + 2 * PAN), texture(h // 5, w // 5)
    still = torch.zeros(2, -(-h // 16), -(-w // 16), dtype=torch.int32)
    left = 0
    for i in range(frames):
        motion = still
        if i in (frames // 3, 2 * frames // 3):
            left += PAN
            motion = still.clone()
            motion[1] = PAN
        if i == frames - 2:
            scene = texture(h, w + 2 * PAN)
        frame = scene[..., left : left + w].clone()
        y, x = (h // 8 + 5 * i) % (h - h // 5), (w // 8 + 7 * i) % (w - w // 5)
        frame[..., y : y + h // 5, x : x + w // 5] = thing
        yield frame.reshape(tuple(shape)), motion
