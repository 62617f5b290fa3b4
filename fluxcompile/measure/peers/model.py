"""The model in the forms that libraries take, each made when it is first asked for."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.program import Program

Array = npt.NDArray[Any]


class Model:
    """A model and its example frames, which are the memory that peers read.

    `source` is a module, a path, or None where there is nothing but the program.
    """

    def __init__(self, source: Any, program: Program, frames: Sequence[Array]) -> None:
        self.source, self.program = source, program
        self.frames = tuple(np.ascontiguousarray(frame) for frame in frames)
        self.suffix = source.suffix if isinstance(source, Path) else ""

    @cached_property
    def tensors(self) -> tuple[Any, ...]:
        import torch

        return tuple(torch.from_numpy(frame) for frame in self.frames)

    @cached_property
    def module(self) -> Any:
        """A torch module that gives a flat tuple of tensors."""
        import torch

        if self.suffix == ".onnx":
            return flat(self._import_onnx())
        if self.suffix == ".pt2":
            return flat(_module(torch.export.load(self.source)))
        if isinstance(self.source, torch.nn.Module):
            return flat(self.source)
        return flat(_dense_graph(self.program, self.tensors))

    @cached_property
    def onnx(self) -> Path | bytes:
        """The file, or what the module is exported as."""
        if self.suffix == ".onnx":
            return Path(self.source)
        import torch

        with quiet(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(self.module, self.tensors, path, dynamo=False)
            return path.read_bytes()

    @cached_property
    def exported(self) -> Any:
        import torch

        with quiet():
            return torch.export.export(self.module, self.tensors, strict=False)

    def _import_onnx(self) -> Any:
        import onnx

        from fluxcompile.passes.import_onnx import import_onnx

        graph = onnx.load(str(self.source), load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer}
        names = [value.name for value in graph.input if value.name not in weights]
        return import_onnx(self.source, shapes={n: f.shape for n, f in zip(names, self.frames, strict=True)})


def flat(module: Any) -> Any:
    """A module that gives the leaves of another's outputs: what every exporter understands."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *frames: Any) -> Any:
            return tuple(x for x in torch.utils._pytree.tree_leaves(self.module(*frames)) if x is not None)

    flat = Flat()
    flat.training = False  # an exporter would switch the whole back to training when it is done
    return flat


def _dense_graph(program: Program, tensors: Sequence[Any]) -> Any:
    """The dense graph of a program as a plain torch module."""
    import torch

    from fluxcompile.runtime.execute import Executor, constants

    run = Executor(program.graphs["dense"], constants(program))
    names = [i.name for i in program.graphs["dense"].inputs]

    class Graph(torch.nn.Module):
        def forward(self, *frames: Any) -> Any:
            outputs, _ = run(dict(zip(names, frames, strict=True)))
            return tuple(outputs)

    with quiet():
        return _module(torch.export.export(Graph(), tuple(tensors), strict=False))


def _module(exported: Any) -> Any:
    """A plain module of an exported program: its own one refuses train() and eval(), which exporters call."""
    import torch

    module = exported.module()
    plain = torch.fx.GraphModule(module, module.graph)
    plain.training = False
    return plain


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters print and warn of; what matters of it is in their errors."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
