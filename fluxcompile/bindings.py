"""Which names TensorRT's Python bindings have, read from the bindings alone, and which names a script takes from them.

The bindings install from the package index where the library they load does not. Ten functions of it are all they ask
for when they are loaded; a stand-in that has these, compiled on the spot, lets Python list their classes.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fluxcompile.errors import EngineError

SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins"),
    *("_ZN11nvuffparser15createUffParserEv", "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi"),
    *("_ZN14nvcaffeparser117createCaffeParserEv", "_ZN14nvcaffeparser123shutdownProtobufLibraryEv"),
)
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin", "libnvparsers")
LIST = """
import json, sys
sys.path.insert(0, sys.argv[1])
from tensorrt_bindings import tensorrt as trt
names = [n for n in dir(trt) if not n.startswith("__")]
names += [f"{n}.{m}" for n in names if isinstance(getattr(trt, n), type) for m in dir(getattr(trt, n))]
print(json.dumps(names + ["__version__", "nptype"]))
"""
"""nptype and the version are Python around the bindings, not of them."""


def names_in(folder: Path) -> set[str]:
    """The names that the bindings in a folder of packages have: "Builder", "Builder.create_network"."""
    binding = folder / "tensorrt_bindings" / "tensorrt.so"
    if not binding.is_file():
        raise EngineError(f"{folder}: holds no tensorrt_bindings; pip install --target {folder} tensorrt-bindings")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise EngineError("the stand-in for TensorRT's library takes a C compiler, and there is none")
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "stand_in.c"
        source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in SYMBOLS))
        for library in LIBRARIES:
            for major in (8, 10):
                out = Path(place) / f"{library}.so.{major}"
                subprocess.run(
                    [compiler, "-shared", "-fPIC", "-w", f"-Wl,-soname,{out.name}", "-o", out, source], check=True
                )
        run = subprocess.run(
            [sys.executable, "-c", LIST, str(folder)],
            env=os.environ | {"LD_LIBRARY_PATH": place},
            capture_output=True,
            text=True,
        )
    if run.returncode:
        raise EngineError(f"{folder}: the bindings cannot be loaded: {run.stderr.strip().splitlines()[-1]}")
    return set(json.loads(run.stdout))


def names_of(module: Any) -> set[str]:
    """The same of a library that can be imported here."""
    names = [n for n in dir(module) if not n.startswith("__")]
    members = [f"{n}.{m}" for n in names if isinstance(getattr(module, n), type) for m in dir(getattr(module, n))]
    return {*names, *members, "__version__"}


def names_used(script: Path) -> set[str]:
    """What a script takes from TensorRT: `module.X.Y`, and members of variables that it annotates as `trt.Class`."""
    tree = ast.parse(script.read_text())
    classes: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            classes |= _annotated(node.target, node.annotation)
        elif isinstance(node, ast.arg) and node.annotation is not None:
            classes |= _annotated(ast.Name(node.arg), node.annotation)
    found = set(classes.values())
    for node in ast.walk(tree):
        path = _path(node)
        if path[:1] in (["module"], ["trt"]) and len(path) > 1:
            found.add(".".join(path[1 : 2 if path[1].startswith("__") else 3]))
        elif len(path) > 1 and ".".join(path[:-1]) in classes:
            found.add(f"{classes['.'.join(path[:-1])]}.{path[-1]}")
    return found


def _annotated(target: ast.expr, annotation: ast.expr) -> dict[str, str]:
    """The class a variable is said to be of."""
    text = ast.unparse(annotation).strip("'\"").removesuffix(" | None")
    return {".".join(_path(target)): text.removeprefix("trt.")} if text.startswith("trt.") else {}


def _path(node: ast.AST) -> list[str]:
    """["a", "b", "c"] of `a.b.c`; nothing of what is more than names."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return [node.id, *parts] if isinstance(node, ast.Name) else []
