"""The compiled artifact: plain data, saved as JSON and safetensors in one file, never pickle.

Needs neither torch nor the compiler. A `.flux` file is a zip of `program.json`, `constants.safetensors` and
`manifest.json` (format number and SHA-256 of the other two).
"""

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from fluxcompile.errors import ProgramError

FORMAT = 1
"""Raised whenever an older fluxcompile could misread a new file."""


class Op(msgspec.Struct, omit_defaults=True):
    """One call. Arguments are JSON; {"%": name} is a value, {"@": name} a constant, {"dtype": "f32"} a type.

    `lists` are the (name, capacity) of the lists whose lengths over their capacities add up to the share of `macs` that
    a frame really costs; `layer` is the number of the layer it belongs to. `body` holds the ops of a dense region.
    """

    name: str
    op: str
    args: list[Any]
    kwargs: dict[str, Any] = {}
    type: str = ""
    path: str = ""
    macs: int = 0
    layer: int = -1
    lists: list[tuple[str, int]] = []
    body: "Graph | None" = None

    @property
    def reads(self) -> list[str]:
        """The values among its arguments."""
        return names_in([*self.args, *self.kwargs.values()])


def names_in(value: Any) -> list[str]:
    """The values that an op's arguments name, in order."""
    if isinstance(value, list | tuple):
        return [name for v in value for name in names_in(v)]
    return [value["%"]] if isinstance(value, dict) and "%" in value else []


def types_in(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """The types a program's text names: "(f32[1x2], i64[])" are f32 of (1, 2) and i64 of ()."""
    found = re.findall(r"(\w+)\[([\dx]*)\]", text)
    return [(dtype, tuple(int(n) for n in dims.split("x") if n)) for dtype, dims in found]


def bind(value: Any, named: Callable[[str, str], Any]) -> Any:
    """An op's argument with every {kind: name} in it replaced by `named(kind, name)`."""
    if isinstance(value, list | tuple):
        return [bind(v, named) for v in value]
    if isinstance(value, dict):
        ((kind, name),) = value.items()
        return named(kind, name)
    return value


class Input(msgspec.Struct, omit_defaults=True):
    """An input of a graph; role is input, cache, fresh, threshold, motion, radius or gate."""

    name: str
    role: str
    dtype: str
    shape: list[int]
    layout: str = ""

    @property
    def type(self) -> str:
        """As an op's: f32[1x3x64x64]."""
        return f"{self.dtype}[{'x'.join(map(str, self.shape))}]"


class Graph(msgspec.Struct, omit_defaults=True):
    """Ops in order; `outputs` are arguments like an op's, `caches` pairs of (input, value it is fed from next)."""

    inputs: list[Input]
    ops: list[Op]
    outputs: list[Any]
    caches: list[tuple[str, str]] = []

    @property
    def kept(self) -> list[str]:
        """The values that are read when the last op is done."""
        return [*names_in(self.outputs), *(value for _, value in self.caches)]


class Step(msgspec.Struct, omit_defaults=True):
    """One step of a plan, named after the kernel or mask operation it runs.

    In `args`, {"map": [buffer, first row, height, width, first channel, channels]} is a part of a buffer, {"@": name} a
    constant, {"mask": i} a mask. `mask` lists the rows computed, `changed` receives those that came out other than they
    were. `body` holds the ops of a region that no kernel knows.
    """

    op: str
    args: dict[str, Any] = {}
    mask: int = -1
    changed: int = -1
    layer: int = -1
    path: str = ""
    body: "Graph | None" = None


class Rolls(msgspec.Struct, omit_defaults=True, frozen=True):
    """How a plan's maps roll with the camera: by multiples of `unit` frame pixels (y, x), whole cells of every map.

    `maps` are [buffer, first row, h, w]; `placed` are the steps whose values know where they lie, all rows of which are
    computed in the frame after a roll. Without a unit maps cannot roll, for a reason.
    """

    unit: list[int] = []
    maps: list[list[int]] = []
    placed: list[int] = []
    reason: str = ""


class Plan(msgspec.Struct, omit_defaults=True):
    """A frame for the CPU: buffers of (rows, channels) float32, masks of so many rows, steps in order."""

    buffers: list[tuple[int, int]] = []
    masks: list[int] = []
    steps: list[Step] = []
    rolls: Rolls = Rolls()

    def text(self) -> str:
        """The plan to read, a line a step."""
        return "\n".join(map(_step_text, self.steps))


def _step_text(step: Step) -> str:
    words = [f"{k}={_part_text(v)}" for k, v in step.args.items() if k != "out" and v is not None]
    head = _part_text(step.args["out"]) + " = " if "out" in step.args else ""
    tail = f" rows m{step.mask}" if step.mask >= 0 else ""
    tail += f" changed m{step.changed}" if step.changed >= 0 else ""
    return f"{head}{step.op}({', '.join(words)}){tail}" + (f"  # {step.path}" if step.path else "")


def _part_text(value: Any) -> str:
    match value:
        case {"map": [buffer, first, h, w, channel, channels]}:
            return f"b{buffer}[{first}:{h}x{w}, {channel}:{channel + channels}]"
        case {"@": name}:
            return f"@{name}"
        case {"mask": index}:
            return f"m{index}"
        case list():
            return "[" + ", ".join(map(_part_text, value)) + "]"
    return str(value)


class Layer(msgspec.Struct, omit_defaults=True):
    """What `explain()` says of one layer. `form` is tile, rows, held or dense; `reason` says why it is dense."""

    name: str
    op: str
    domain: str
    form: str
    macs: int
    reason: str = ""


SIDES = ("edge", "cloud")


class Part(msgspec.Struct, omit_defaults=True, frozen=True):
    """Which part of a partitioned net a program is.

    side: "edge" or "cloud". whole: a digest of the net and where it was cut, the same in both parts. boundary: names of
    the maps that cross. leaves: which of the whole's outputs this part gives, in order; `template` is their tree.
    frame_size: of the camera frames that the whole takes, if it does.
    """

    side: str
    whole: str
    boundary: list[str]
    leaves: list[int]
    template: Any
    frame_size: tuple[int, int] | None = None


class Program(msgspec.Struct, omit_defaults=True):
    """A compiled net: the blocked graph, the dense one it must equal, constants and what is known of each layer.

    `options` are what it was compiled with, so that its parts can be compiled alike.
    """

    graphs: dict[str, Graph]
    layers: list[Layer]
    template: Any
    text: str = ""
    frames: dict[str, Any] | None = None
    policy: dict[str, Any] = {}
    plan: Plan | None = None
    options: dict[str, Any] = {}
    part: Part | None = None
    constants: dict[str, npt.NDArray[Any]] = {}

    def digest(self) -> str:
        """SHA-256 of what it computes: the graphs, the plan and the constants, not the policy."""
        plain = msgspec.structs.replace(self, constants={}, policy={}, text="", layers=[])
        found = hashlib.sha256(msgspec.json.encode(plain))
        for name in sorted(self.constants):
            value = np.ascontiguousarray(self.constants[name])
            found.update(f"{name} {value.dtype.str} {value.shape}".encode())
            found.update(value.tobytes())
        return found.hexdigest()

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        return [tuple(i.shape) for i in self.graphs["dense"].inputs]

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of the camera frames (height, width, 3) that it takes, if it does."""
        match self.input_shapes:
            case [(height, width, 3)]:
                return height, width
        return None

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Of the leaves of the model's outputs that are tensors it computes."""
        graph = self.graphs["dense"]
        types = {op.name: op.type for op in graph.ops} | {i.name: i.type for i in graph.inputs}
        found = [types[leaf["%"]] for leaf in graph.outputs if isinstance(leaf, dict) and leaf.get("%") in types]
        return [shape for text in found for _, shape in types_in(text)]

    def save(self, path: str | Path) -> None:
        """Write a `.flux` file; a crash leaves the old one or none, never half of one."""
        path = Path(path)
        plain = msgspec.structs.replace(self, constants={})
        body = msgspec.json.encode(plain)
        tensors = safetensors.numpy.save(
            {k: np.ascontiguousarray(v).reshape(v.shape) for k, v in self.constants.items()}
        )
        manifest = {
            "format": FORMAT,
            "program.json": hashlib.sha256(body).hexdigest(),
            "constants.safetensors": hashlib.sha256(tensors).hexdigest(),
        }
        part = path.with_name(path.name + ".part")
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for name, data in (
                ("manifest.json", msgspec.json.encode(manifest)),
                ("program.json", body),
                ("constants.safetensors", tensors),
            ):
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
        part.replace(path)


def load_program(path: str | Path) -> Program:
    """Read a `.flux` file. Raises ProgramError when it is missing, truncated, altered or newer than this version."""
    path = Path(path)
    if not path.is_file():
        raise ProgramError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            manifest = msgspec.json.decode(archive.read("manifest.json"))
            found = manifest["format"]
            if found != FORMAT:
                raise ProgramError(
                    f"{path}: format {found}, this fluxcompile reads format {FORMAT}; "
                    f"{'upgrade fluxcompile' if found > FORMAT else 'compile the model again'}"
                )
            parts = {name: archive.read(name) for name in ("program.json", "constants.safetensors")}
    except (zipfile.BadZipFile, LookupError, ValueError, TypeError, EOFError, RuntimeError, zlib.error) as e:
        raise ProgramError(f"{path}: not a whole .flux file ({e}); compile the model again") from e
    for name, data in parts.items():
        if hashlib.sha256(data).hexdigest() != manifest.get(name):
            raise ProgramError(f"{path}: {name} was altered after it was saved; compile the model again")
    try:
        body = msgspec.json.decode(parts["program.json"])
        body["constants"] = {}
        program = msgspec.convert(body, Program)
        program.constants = safetensors.numpy.load(parts["constants.safetensors"])
    except (msgspec.MsgspecError, TypeError, safetensors.SafetensorError) as e:
        raise ProgramError(f"{path}: does not hold a program ({e}); compile the model again") from e
    return program
