"""Exports models to targets, whole and as the halves of a partition, and makes every check of each bundle.

    python benchmarks/bundles.py --clip CLIP [--models yolo11n,resnet-50] [--targets rtx] [--parts whole]

Writes out/bundles/bundles.json after each bundle, which is not made again, and bundles.md, a line a bundle. Checks that
look at the graph alone, not at the target, are made once for all targets whose bundles hold the same files.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from fluxcompile.bundle import Manifest
from fluxcompile.bundle_graphs import RTX, RTX_FIXED
from fluxcompile.check import CHECKS, OF_FILE, check, checks_of
from fluxcompile.errors import FluxError
from fluxcompile.net import Net
from fluxcompile.sources import net_of
from fluxcompile.targets import TARGETS

Row = dict[str, Any]
MODELS = {
    "yolo11n": ("yolo11n.onnx", "model.4.cv2.conv"),
    "yolo11n-pose": ("yolo11n-pose.onnx", "model.4.cv2.conv"),
    "sdpose-t": ("zoo:sdpose-t", "stem.5.layers.2.conv"),
    "deit-small": ("zoo:timm/deit_small_patch16_224", "patch_embed.proj"),
    "resnet-50": ("zoo:resnet-50", "trunk.stages.1.3.conv3.conv"),
}
"""By name: where the model is (a file lies in --weights), and the layer it is cut behind, where one map crosses."""
PARTS = ("whole", "edge", "cloud")
OF_BUNDLE = {c.name for c in (*CHECKS, *(c for _, c in OF_FILE)) if c.of_target}


@cache
def nets(name: str, weights: Path) -> dict[str, Net]:
    source, at = MODELS[name]
    whole = net_of(source if source.startswith("zoo:") else str(weights / source))
    halves = whole.partition(at=at)
    assert halves.edge is not None
    assert halves.cloud is not None
    return {"whole": whole, "edge": halves.edge, "cloud": halves.cloud}


def row_of(name: str, part: str, target: str, known: list[Row], given: argparse.Namespace) -> Row:
    """One bundle, written and checked; what is known of the same graph is taken over."""
    row: Row = {"model": name, "part": part, "target": target, "clip": given.clip.name}
    folder: Path = given.output / f"{name}-{part}-{target}"
    began = time.perf_counter()
    try:
        parts = nets(name, given.weights)
        after = parts["edge"] if part == "cloud" else None
        manifest = parts[part].export(target, folder, clip=given.clip, after=after)
        row["export_s"] = round(time.perf_counter() - began, 1)
        row["memory_mib"] = manifest.memory.total_bytes >> 20
        row["graph"] = graph_of(manifest)
        same = next((r["checks"] for r in known if r.get("graph") == row["graph"]), [])
        shared = [c for c in same if c["name"] not in OF_BUNDLE]
        taken = {c["name"] for c in shared}
        wanted = [c.name for c in checks_of(folder, bindings=given.bindings) if c.name not in taken]
        began = time.perf_counter()
        results = check(folder, only=wanted, bindings=given.bindings)
        row["check_s"] = round(time.perf_counter() - began, 1)
        row["checks"] = [r.to_json() for r in results] + shared
    except FluxError as e:
        row["error"] = str(e)
    if not given.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return row


def graph_of(manifest: Manifest) -> str:
    """A digest of every file but the target's own."""
    text = json.dumps({k: v for k, v in manifest.files.items() if k not in ("README.md", RTX, RTX_FIXED)})
    return sha256(text.encode()).hexdigest()


TITLES = (
    *("model", "part", "target", "passed", "skipped", "failed", "frames", "caches"),
    *("outputs off", "caches off", "export", "check"),
)


def table(rows: list[Row]) -> Iterator[str]:
    yield f"| {' | '.join(TITLES)} |"
    yield "|---" * len(TITLES) + "|"
    for row in rows:
        head = f"| {row['model']} | {row['part']} | {row['target']} |"
        if "error" in row:
            yield f"{head} not exported: {row['error']} |"
            continue
        marks = [c["passed"] for c in row["checks"]]
        golden = next(c for c in row["checks"] if c["name"] == "golden equals reference")
        counts = " | ".join(str(marks.count(mark)) for mark in (True, None, False))
        yield f"{head} {counts} | {played(golden['figures'])} | {row['export_s']} s | {row['check_s']} s |"


def played(found: dict[str, float]) -> str:
    """Frames, whether caches moved, and how far golden.onnx was off; nothing is known where it could not be run."""
    if not found:
        return "0 | - | - | -"
    moved = "move" if found["moved"] else "do not move"
    return f"{found['frames']} | {moved} | {found['outputs']:.1e} | {found['caches']:.1e}"


def arguments() -> argparse.Namespace:
    asked = argparse.ArgumentParser(description="Export and check models for every target.")
    asked.add_argument("--clip", type=Path, required=True, help="video whose frames are played")
    asked.add_argument("--weights", type=Path, default=Path("../shared/data/models"), help="folder of the .onnx files")
    for what, names in (("models", MODELS), ("targets", TARGETS), ("parts", PARTS)):
        asked.add_argument(f"--{what}", default=",".join(names), help="names, with commas between them")
    asked.add_argument("--bindings", type=Path, default=Path("build/bindings"), help="of `make bindings`")
    asked.add_argument("--keep", action="store_true", help="leave the bundles where they were written")
    asked.add_argument("-o", "--output", type=Path, default=Path("out/bundles"))
    given = asked.parse_args()
    given.bindings = {p.name: p for p in sorted(given.bindings.glob("*"))}
    return given


def main() -> None:
    given = arguments()
    given.output.mkdir(parents=True, exist_ok=True)
    path: Path = given.output / "bundles.json"
    rows: list[Row] = json.loads(path.read_text())["bundles"] if path.is_file() else []
    done = {(r["target"], r["model"], r["part"], r["clip"]) for r in rows}
    for target, name, part in product(*(text.split(",") for text in (given.targets, given.models, given.parts))):
        if (target, name, part, given.clip.name) in done:
            continue
        row = row_of(name, part, target, rows, given)
        rows.append(row)
        path.write_text(json.dumps({"bundles": rows}, indent=1) + "\n")
        *_, line = table([row])
        print(line, flush=True)
        for failed in (c for c in row.get("checks", ()) if c["passed"] is False):
            print(f"  {failed['name']}: {failed['detail']}", flush=True)
    (given.output / "bundles.md").write_text("\n".join(table(rows)) + "\n")
    sys.exit(any("error" in r or any(c["passed"] is False for c in r["checks"]) for r in rows))


if __name__ == "__main__":
    main()
