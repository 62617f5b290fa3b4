"""Runs the engine of this bundle over the sample frames: compares with what they should give, or takes the time.

    python3 run.py --check
    python3 run.py --bench 200

For your own frames: `session = engine.Session(folder)`, then `session(feed)` for each, as here.
"""

from __future__ import annotations  # JetPack 5 has Python 3.8

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fluxcompile.runtime.cudart import EngineError
    from fluxcompile.runtime.engine import Session
else:
    from cudart import EngineError
    from engine import Session

HERE = Path(__file__).resolve().parent

TOLERANCE = 1e-3
"""In float32: kernels sum in another order than the machine the samples are from."""
SPREAD = 2
"""How many times what fewer bits cost in ONNX Runtime they may cost here, where they round at other places."""


def samples(manifest: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each frame's feed, and the results it should give."""
    kept = np.load(HERE / "samples.npz")
    levels = {t["name"]: t["levels"] for t in manifest["inputs"] if t["levels"]}
    for at in range(manifest["frames"]):
        feed = {}
        for tensor in manifest["inputs"]:
            name = tensor["name"]
            if tensor["role"] != "cache":
                value = kept[f"{name}.{at}"]
                feed[name] = value.astype(np.float32) / np.float32(levels[name]) if name in levels else value
        yield feed, {name: kept[f"{name}.{at}"] for name in dict.fromkeys(manifest["results"])}


def check(session: Session) -> bool:
    """Whether the results of all frames are those of the samples, at most and in the mean."""
    loss = session.manifest["loss"]
    allowed = {what: max(TOLERANCE, SPREAD * loss[what]) for what in ("most", "rms")}
    found = {"most": 0.0, "rms": 0.0}
    for at, (feed, wanted) in enumerate(samples(session.manifest)):
        results = session(feed)
        apart = [difference(results[name], wanted[name]) for name in wanted]
        for what, values in zip(found, zip(*apart)):  # noqa: B905 - Python 3.8
            found[what] = max(found[what], *values)
        print(f"frame {at}: {max(most for most, _ in apart):.2e} of the largest value")
    if session.manifest["capacity"]:
        print(f"{session.overflows} frames did not fit the lists of fixed length and ran with the others")
    passed = all(found[what] <= allowed[what] for what in found)
    verdict = "passed" if passed else "FAILED"
    for what, of in (("most", "the largest value"), ("rms", "the root mean square")):
        print(f"{verdict}: {what} {found[what]:.2e} of {of}, allowed {allowed[what]:.1e}")
    return passed


def difference(found: Any, wanted: Any) -> tuple[float, float]:
    """The largest over the largest value, and the root mean square over that of the values."""
    found, wanted = (x.astype(np.float64) for x in (found, wanted))
    if not np.isfinite(found).all():
        return float("inf"), float("inf")
    error = found - wanted
    most = np.abs(error).max(initial=0.0) / max(np.abs(wanted).max(initial=0.0), 1e-6)
    return float(most), float(np.sqrt((error**2).sum() / max((wanted**2).sum(), 1e-12)))


def bench(session: Session, count: int) -> None:
    """Milliseconds a frame over the samples played again and again, copies included."""
    clip = [feed for feed, _ in samples(session.manifest)]
    took_ms = []
    for at in range(count):
        began = time.perf_counter()
        session(clip[at % len(clip)])
        took_ms.append(1000 * (time.perf_counter() - began))
    p10, p50, p90 = np.percentile(took_ms[len(clip) :] or took_ms, (10, 50, 90))
    print(f"{count} frames: p10 {p10:.2f} ms, p50 {p50:.2f} ms, p90 {p90:.2f} ms; {1000 / p50:.0f} frames a second")


def main() -> None:
    asked = argparse.ArgumentParser(description="Run this bundle's engine over its sample frames.")
    asked.add_argument("--check", action="store_true", help="compare results with the samples'")
    asked.add_argument("--bench", type=int, metavar="FRAMES", help="time so many frames")
    given = asked.parse_args()
    if not given.check and not given.bench:
        asked.error("say --check or --bench FRAMES")
    try:
        session = Session(HERE)
        passed = check(session) if given.check else True
        if given.bench:
            bench(session, given.bench)
    except EngineError as error:
        sys.exit(f"error: {error}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
