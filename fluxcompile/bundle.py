"""What lies in a bundle: a manifest with a hash of every other file, read back and checked.

*golden.onnx*, *plugin.onnx*, *weights.bin*: the graph with functions, and without; both read the weights.
*fixed.onnx*: where asked for, the graph with lists of fixed length, for most frames.
*rtx.onnx*, *rtx_fixed.onnx*: the same without plugins, where TensorRT for RTX runs.
*program.flux*: what they were lowered from, for `fluxcompile check`.
*samples.npz*: frames, and what golden.onnx makes of them.
*plugin/*: source of the plugins and their CMake file.
*build_engine.py*, *builder_tensorrt.py*, *builder_rtx.py*, *run.py*, *engine.py*, *cudart.py*: build, run and check
there, with TensorRT and numpy alone.
*runner.cpp*, *caches.txt*: the same runner in C++, and which output feeds which cache.
*README.md*: what to do on the target.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from fluxcompile.errors import BundleError
from fluxcompile.program import Input

FORMAT = 2
MANIFEST = "manifest.json"
FILES = (
    *("golden.onnx", "plugin.onnx", "weights.bin", "program.flux", "samples.npz"),
    *(
        "build_engine.py",
        "builder_tensorrt.py",
        "builder_rtx.py",
        "run.py",
        "engine.py",
        "cudart.py",
        "runner.cpp",
        "caches.txt",
        "README.md",
    ),
)
"""What no bundle is without; the plugins' source comes on top."""


class Tensor(msgspec.Struct, frozen=True):
    """An input or output of the engine; role is input, cache, motion, fresh, threshold, gate or output.

    half: whether it may be held as float16. levels: 0, or samples of it are whole numbers over so many.
    """

    name: str
    dtype: str
    shape: list[int]
    role: str
    half: bool = False
    levels: int = 0


class Kept(msgspec.Struct, frozen=True):
    """An op that has more bits than the rest of an engine, fp32 or fp16, and why."""

    precision: str
    why: str


class Loss(msgspec.Struct, frozen=True):
    """How far an engine's results are from float32: over their root mean square, and over their largest value.

    agreement: the task's `figure`, None where it found nothing to compare or there is no task.
    """

    rms: float = 0.0
    most: float = 0.0
    figure: str = ""
    agreement: float | None = None


class Memory(msgspec.Struct, frozen=True):
    """Estimated bytes on the device. State is every cache twice, as one frame's and the next's."""

    weights_bytes: int
    state_bytes: int
    activation_bytes: int
    workspace_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.state_bytes + self.activation_bytes + self.workspace_bytes


class Work(msgspec.Struct, frozen=True):
    """A layer and what it costs: lists are (place in the engine's output of counts, entries when all is new)."""

    name: str
    macs: int
    lists: list[tuple[int, int]]


class Manifest(msgspec.Struct, frozen=True):
    """Plain data that the scripts of the bundle read too. `caches` pairs an input with the output that feeds it next.

    frames_in: the program's own inputs, as a stream takes frames. capacity: the share of all tiles or rows that the
    lists of fixed.onnx have room for, 0 where there is none; overflow names its output that says they had not. work:
    the output that counts what lists hold, empty where there is none. unit: frame pixels by whose multiples every map
    can move, none where it cannot.
    kept: the ops that have more bits than the rest, by the part of a node's name before its slash. ranges: in int8, the
    largest magnitude over the clip of what the product of an op reads; the graph has the nodes that follow from it.
    loss: what fewer bits cost over the samples, by ONNX Runtime.
    """

    format: int
    fluxcompile: str
    target: dict[str, Any]
    precision: str
    opset: int
    inputs: list[Tensor]
    frames_in: list[Input]
    outputs: list[Tensor]
    results: list[str]
    caches: list[tuple[str, str]]
    capacity: float
    overflow: str
    work: str
    layers: list[Work]
    unit: list[int]
    frames: int
    template: Any
    policy: dict[str, Any]
    plugins: list[str]
    kept: dict[str, Kept]
    ranges: dict[str, float]
    loss: Loss
    memory: Memory
    licences: dict[str, str]
    files: dict[str, str]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> dict[str, str]:
    """The hash of every file of a bundle but its manifest."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {p.relative_to(folder).as_posix(): sha256(p) for p in paths}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    (folder / MANIFEST).write_bytes(text + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest as it was written; `broken_files` says whether it is still true."""
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder}: holds no {MANIFEST}; give the folder that `fluxcompile export -o` wrote")
    try:
        head = msgspec.json.decode(path.read_bytes())
        found = head["format"]
        if found != FORMAT:
            raise BundleError(f"{path}: format {found}, this fluxcompile reads {FORMAT}; export the program again")
        return msgspec.convert(head, Manifest)
    except (msgspec.MsgspecError, LookupError, TypeError) as e:
        raise BundleError(f"{path}: is truncated or altered ({e}); export the program again") from e


def broken_files(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with each file that is not as it was written."""
    found = []
    for name in dict.fromkeys((*FILES, *manifest.files)):
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif name not in manifest.files:
            found.append(f"{name} is not in the manifest")
        elif sha256(path) != manifest.files[name]:
            found.append(f"{name} was altered")
    return found


def require_whole(folder: Path, manifest: Manifest) -> None:
    """Raise BundleError for a bundle that is not as it was written."""
    broken = broken_files(folder, manifest)
    if broken:
        raise BundleError(f"{folder}: {'; '.join(broken)}; export the program again")
