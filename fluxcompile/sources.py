"""Where a model on the command line comes from: a file, an entry of the zoo, or a Python callable. Tasks likewise.

    net.flux                       a compiled program
    model.onnx, model.pt2          an exported model; it knows its shapes
    model.pt                       Ultralytics weights (the `ultralytics` extra; the file is a pickle: trust it first)
    zoo:resnet50                   our zoo, then torchvision, then timm; zoo:timm/resnet50 says which. Random weights
    package.module:callable        an nn.Module, or what returns one; looked up from the current folder too
    package.module:callable        of --task: a fluxcompile.tasks.Task, or what returns one

torch and what else a source needs are imported when that source is opened.
"""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxcompile.errors import FluxError
from fluxcompile.options import Frames

if TYPE_CHECKING:
    from fluxcompile.tasks import Task

IMAGENET = Frames(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PIXELS = {"unit": Frames(), "imagenet": IMAGENET, "raw": Frames(scale=1.0)}
"""How camera pixels become the model's input: 0 to 1, ImageNet's mean and deviation, or 0 to 255."""


class SourceError(FluxError):
    """A model or a task cannot be found or opened by the name it was given."""


LARGEST = 448
"""Pixels a side beyond which a timm model is built for fewer."""


@dataclass(frozen=True)
class Model:
    """What the compiler takes: a module or a path, the shape of its input, how its pixels come.

    `shapes` is None where the file itself knows.
    """

    module: Any
    shapes: Sequence[tuple[int, ...]] | None
    pixels: str = "unit"


def net_of(
    text: str,
    shapes: Sequence[tuple[int, ...]] | None = None,
    pixels: str | None = None,
    **options: Any,
) -> Any:
    """Return a compiled net; `pixels` None means that it takes tensors, "auto" what the source is known to want.

    options: as of `fluxcompile`.
    """
    if text.endswith(".flux"):
        if shapes or options:
            given = ", ".join(f"--{name}" for name in [*(["example"] if shapes else []), *options])
            raise SourceError(f"{text}: is compiled already; {given} belong to `fluxcompile compile`")
        path = _file(text)
        return _compiler("load")(path)
    return compile_model(text, find(text), shapes, pixels, **options)


def compile_model(
    text: str,
    model: "Model",
    shapes: Sequence[tuple[int, ...]] | None = None,
    pixels: str | None = None,
    **options: Any,
) -> Any:
    """Return the compiled net of what `text` stands for."""
    shapes = shapes or model.shapes
    if not shapes and not isinstance(model.module, Path):
        raise SourceError(f"{text}: a module does not know its input; say --example 1x3x640x640, or what it takes")
    example = _example(shapes) if shapes else None
    name = model.pixels if pixels == "auto" else pixels
    frames = None if name is None else PIXELS[name]
    return _compiler("fluxcompile")(model.module, example, frames=frames, **options)


def find(text: str) -> Model:
    """Return the model that a name on the command line stands for."""
    suffix = Path(text).suffix
    if text.startswith("zoo:"):
        return _from_zoo(text.removeprefix("zoo:"))
    if suffix in (".onnx", ".pt2"):
        return Model(_file(text), None)
    if suffix == ".pt":
        return _from_ultralytics(_file(text))
    if ":" in text and not Path(text).exists():
        return _from_python(text)
    if Path(text).exists():
        raise SourceError(f"{text}: what is this? A model is a .flux, .onnx, .pt2 or Ultralytics .pt file")
    raise SourceError(f"{text}: no such file; a model is a file, zoo:NAME or package.module:callable")


def named_task(text: str | None) -> "Task | None":
    """Return the task that a name on the command line stands for; None where nothing was named."""
    from fluxcompile.tasks import Task, task_of

    if text is None:
        return None
    if ":" not in text:
        return task_of([], text)
    found = _in_python(text)
    task = found if isinstance(found, Task) else _called(found)
    if not isinstance(task, Task):
        told = type(task).__name__
        raise SourceError(f"{text}: gave {told}, not a fluxcompile.tasks.Task; Task.custom(...) makes one")
    return task


def _compiler(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module("fluxcompile"), name)
    return found


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise SourceError(f"{text}: no such file")
    return path


def _example(shapes: Sequence[tuple[int, ...]]) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = tuple(torch.rand(shape, generator=generator) for shape in shapes)
    return tensors[0] if len(tensors) == 1 else tensors


def zoo_names() -> list[str]:
    """The entries of our own zoo."""
    return list(importlib.import_module("fluxcompile.models").ZOO)


def _from_zoo(name: str) -> Model:
    where, _, entry = name.rpartition("/")
    if where == "":
        zoo = importlib.import_module("fluxcompile.models")
        if entry in zoo.ZOO:
            return Model(zoo.build(entry), [zoo.ZOO[entry].input_shape], zoo.ZOO[entry].pixels)
    if where in ("", "torchvision"):
        models = import_torchvision().models
        if entry in models.list_models():
            takes = inspect.signature(models.get_model_builder(entry)).parameters
            # A backbone's weights would be fetched even where the model's own are not asked for.
            backbone = {"weights_backbone": None} if "weights_backbone" in takes else {}
            return Model(models.get_model(entry, weights=None, **backbone).eval(), [(1, 3, 224, 224)], "imagenet")
    if where in ("", "timm"):
        import_torchvision()
        import timm

        if timm.is_model(entry):
            told: Any = timm.get_pretrained_cfg(entry)
            channels, height, width = told.input_size
            fixed = told.fixed_input_size
            options: dict[str, Any] = {}
            if max(height, width) > LARGEST:  # a segmenter's 1024 pixels; the architecture is the same on fewer
                height, width = 224, 224
                options = {"img_size": (height, width)} if fixed else {}
            network: Any = timm.create_model(entry, pretrained=False, **options).eval()
            return Model(network, [(1, channels, height, width)], "imagenet")
    raise SourceError(f"zoo:{name}: no such model in {where or 'our zoo, torchvision or timm'}")


def import_torchvision() -> Any:
    """Import torchvision, also where its compiled operators do not fit this build of torch.

    They are box operators (nms) that no backbone runs; without a schema for them the import itself fails.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept_alive.append(library)
    return importlib.import_module("torchvision")


_kept_alive: list[Any] = []
"""Schemas vanish with the library object that defined them."""


def _from_ultralytics(path: Path) -> Model:
    if importlib.util.find_spec("torchvision"):
        import_torchvision()  # Ultralytics imports it the plain way
    return Model(path, [(1, 3, 640, 640)])


def _from_python(text: str) -> Model:
    import torch

    found = _in_python(text)
    module = found if isinstance(found, torch.nn.Module) else _called(found)
    if not isinstance(module, torch.nn.Module):
        raise SourceError(f"{text}: gave {type(module).__name__}, not an nn.Module")
    return Model(module.eval(), None)


def _called(found: Any) -> Any:
    """What a callable returns; what cannot be called is itself."""
    return found() if callable(found) else found


def _in_python(text: str) -> Any:
    """What `package.module:name` stands for; modules of the current folder are found too."""
    where, _, name = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name != where.split(".")[0] and error.name != where:
            raise
        raise SourceError(f"{text}: there is no Python module {where} here") from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise SourceError(f"{text}: {where} has no {name}")
        found = getattr(found, part)
    return found
