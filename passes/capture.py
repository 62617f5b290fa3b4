"""Any model -> a graph module of functional ATen ops on static shapes (the *captured* stage).

`torch.export`, not decomposed, is the input level: it keeps conv2d, batch_norm, layer_norm and attention whole.
Parameters become constants by name, outputs a flat list beside a template of the model's own tree.

Left out on purpose: training mode, models that keep state of their own, shapes that depend on data.
"""

import copy
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from fluxcompile.errors import CaptureError
from fluxcompile.ir import fake_mode, inputs

aten = torch.ops.aten
MAY_ALIAS = {"reshape", "flatten", "contiguous", "to", "dropout", "chunk", "split", "unbind", "expand_as", "view_as",
             "reshape_as", "type_as"}  # fmt: skip
"""Ops whose result may share memory with their operand although their schema does not say so."""

Source = nn.Module | ExportedProgram | str | Path


def capture(source: Source, example: Any = None, outputs: Sequence[str] = ()) -> GraphModule:
    """The captured graph of a model; `meta` holds the output `template`, input names and the fake mode.

    `example`: the tensors the model is called with (a tensor, a tuple, or for files nothing). `outputs`: values of an
    .onnx file to end at. Raises CaptureError.
    """
    if outputs and not (isinstance(source, str | Path) and Path(source).suffix == ".onnx"):
        raise CaptureError("outputs: names values of an .onnx file; a module says itself what it returns")
    with _quiet():
        program = _exported(source, example, outputs)
        if not _is_plain(program):
            program = program.run_decompositions({})
    module = _unlifted(program)
    _require_static(module)
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch.export's own warnings and printed graphs: what matters of them is in our error."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _exported(source: Source, example: Any, outputs: Sequence[str]) -> ExportedProgram:
    if isinstance(source, ExportedProgram):
        return source
    if isinstance(source, str | Path):
        return _load_file(Path(source), example, outputs)
    if not isinstance(source, nn.Module):
        raise CaptureError(f"cannot compile a {type(source).__name__}; pass an nn.Module, an ExportedProgram or a path")
    program = _export(source, example)
    _require_same_again(source, _as_tuple(example))
    return program


def _load_file(path: Path, example: Any, outputs: Sequence[str]) -> ExportedProgram:
    if not path.is_file():
        raise CaptureError(f"{path}: no such file")
    if path.suffix == ".onnx":
        from fluxcompile.passes.import_onnx import example_inputs, import_onnx

        shapes = None if example is None else [tuple(t.shape) for t in _as_tuple(example)]
        named = _onnx_shapes(path, shapes) if shapes else None
        module = import_onnx(path, shapes=named, outputs=outputs)
        return _export(module, example_inputs(path, shapes=named))
    if path.suffix == ".pt2":
        try:
            program = torch.export.load(path)
        except Exception as e:
            raise CaptureError(f"{path}: not a .pt2 archive torch.export can load ({e}); export it again") from e
        if not isinstance(program, ExportedProgram):
            raise CaptureError(f"{path}: holds a {type(program).__name__}, not an ExportedProgram")
        return program
    if path.suffix == ".pt":
        return _export(_ultralytics(path), example)
    raise CaptureError(f"{path}: unknown kind of model file; use .onnx, .pt2, Ultralytics .pt, or pass an nn.Module")


def _onnx_shapes(path: Path, shapes: list[tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    fixed = {i.name for i in graph.initializer}
    names = [i.name for i in graph.input if i.name not in fixed]
    if len(names) != len(shapes):
        raise CaptureError(f"{path}: has {len(names)} inputs ({', '.join(names)}), the example has {len(shapes)}")
    return dict(zip(names, shapes, strict=True))


def _ultralytics(path: Path) -> nn.Module:
    try:
        from ultralytics import YOLO
    except ImportError as e:
        raise CaptureError(
            f"{path}: a .pt file is read by the ultralytics package; pip install fluxcompile[ultralytics], "
            "or export the model to .onnx first"
        ) from e
    model = YOLO(str(path)).model.float().eval()
    assert isinstance(model, nn.Module)
    return model


def _as_tuple(example: Any) -> tuple[Any, ...]:
    return tuple(example) if isinstance(example, list | tuple) else (example,)


def _export(model: nn.Module, example: Any) -> ExportedProgram:
    if example is None:
        raise CaptureError("an nn.Module needs an example input: fluxcompile(model, torch.zeros(1, 3, 640, 640))")
    training = next((name or "the model" for name, m in model.named_modules() if m.training), None)
    if training:
        raise CaptureError(f"{training} is in training mode; call model.eval() first")
    args = _as_tuple(example)
    for i, a in enumerate(args):
        if not isinstance(a, Tensor):
            raise CaptureError(f"example {i} is a {type(a).__name__}; examples are tensors")
    try:
        with torch.no_grad(), _as_it_was(model):
            return torch.export.export(model, args, strict=False)
    except Exception as e:
        where = _module_of(e.__traceback__, model)
        reason = str(e).strip().split("\n")[0] or type(e).__name__
        raise CaptureError(
            f"{where}: torch.export cannot capture it: {reason}\n"
            "Control flow or shapes that depend on data cannot be compiled: rewrite that module with torch.where or "
            "static shapes, or compile the part of the model before it."
        ) from e


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[list[str]]:
    """Afterwards the model has the attributes it had: what `forward` keeps for the next call would be fake tensors.

    The list has then the names of those that changed.
    """
    held = {name or type(model).__name__: vars(m) for name, m in model.named_modules()}
    held |= {f"{name}.{k}": v for name, at in held.items() for k, v in at.items() if isinstance(v, dict)}
    kept = [(name, attributes, dict(attributes)) for name, attributes in held.items()]
    lists = [(v, list(v)) for attributes in held.values() for v in attributes.values() if isinstance(v, list)]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, attributes, before in kept:
            changed += [f"{name}.{k}" for k, v in attributes.items() if k not in before or before[k] is not v]
            attributes.clear()
            attributes.update(before)
        for values, items in lists:
            values[:] = items


def _require_same_again(model: nn.Module, args: tuple[Tensor, ...]) -> None:
    """What a model keeps may save its next call work; it must not change what that gives."""
    results = list[list[Tensor]]()
    with torch.no_grad(), torch.random.fork_rng(devices=()), _as_it_was(model) as kept:
        for _ in range(2):
            torch.manual_seed(0)
            found = model(*(a.clone() for a in args))
            results.append([v.clone() for v in pytree.tree_leaves(found) if isinstance(v, Tensor)])
    first, again = results
    near = (a.shape == b.shape and torch.allclose(a, b, 1e-3, 1e-4, True) for a, b in zip(first, again, strict=False))
    if len(first) != len(again) or not all(near):
        raise CaptureError(
            f"{', '.join(kept[:3]) or type(model).__name__}: called again with the same input, the model gives another "
            "result; a stream computes every frame alike: make what it keeps inputs and outputs of forward()"
        )


def _module_of(trace: TracebackType | None, model: nn.Module) -> str:
    """The path of the innermost module of `model` a traceback passes through."""
    names = {id(m): name for name, m in model.named_modules()}
    where = ""
    while trace:
        at = trace.tb_frame.f_locals.get("self")
        where = names.get(id(at), where) if isinstance(at, nn.Module) else where
        trace = trace.tb_next
    return where or type(model).__name__


def _is_plain(program: ExportedProgram) -> bool:
    """Whether the graph is functional already, or its in-place ops can simply be renamed."""
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target is not operator.getitem:
            if not isinstance(node.target, torch._ops.OpOverload):
                return False
            if node.target._schema.is_mutable and not _can_rename(node):
                return False
        if node.op == "get_attr":
            return False
    return True


def _functional(target: Any) -> Any:
    """relu_ -> relu, add_.Tensor -> add.Tensor; None where there is none."""
    name = target._schema.name.split("::")[1]
    packet = getattr(aten, name[:-1], None) if target.namespace == "aten" and name.endswith("_") else None
    return getattr(packet, target._overloadname, None) if packet else None


def _can_rename(node: Node) -> bool:
    """An in-place op on a value of its own, of which no view was taken before."""
    base = node.args[0]
    if _functional(node.target) is None or not isinstance(base, Node) or base.op != "call_function":
        return False
    if base.target is operator.getitem or _is_view(base) or not isinstance(base.meta.get("val"), Tensor):
        return False
    if base.meta["val"].shape != node.meta["val"].shape or base.meta["val"].dtype != node.meta["val"].dtype:
        return False
    return not any(_is_view(user) for user in base.users if user is not node and user < node)


def _is_view(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return True
    if schema.is_mutable:
        return False
    name = schema.name.split("::")[1]
    return name in MAY_ALIAS or any(r.alias_info is not None for r in schema.returns)


def _unlifted(program: ExportedProgram) -> GraphModule:
    """The program's graph with parameters as named constants and user inputs as its only placeholders."""
    signature = program.graph_signature
    state: dict[str, Any] = {**program.state_dict, **program.constants}
    kinds = {s.arg.name: s for s in signature.input_specs}
    for spec in signature.output_specs:
        if spec.kind not in (OutputKind.USER_OUTPUT,):
            raise CaptureError(
                f"{spec.target}: the model changes a buffer or input of its own while it runs; fluxcompile keeps all "
                "state itself, so make forward() free of side effects"
            )
    root, graph = nn.Module(), Graph()
    env: dict[Node, Any] = {}
    renamed: dict[Node, Node] = {}
    native: dict[Node, Node] = {}  # functionalisation leaves the norm in a form of three results

    def latest(n: Any) -> Node:
        """Whoever changed the value in place last."""
        while n in renamed:
            n = renamed[n]
        return n  # type: ignore[no-any-return]

    def get(n: Node) -> Any:
        return env[latest(n)]

    for node in program.graph.nodes:
        if node.op == "placeholder":
            kind = kinds[node.name]
            if kind.kind == InputKind.USER_INPUT:
                if not isinstance(node.meta.get("val"), Tensor):
                    raise CaptureError(
                        f"input {node.name} is not a tensor; bind it with functools.partial or a wrapper"
                    )
                env[node] = graph.placeholder(node.name)
                env[node].meta["role"] = "input"
            else:
                name = kind.target or node.name
                value = state[name] if name in state else program.constants.get(node.name)
                if not isinstance(value, Tensor):
                    raise CaptureError(f"{name}: the model holds a {type(value).__name__} object, not a tensor")
                if value.dtype == torch.bfloat16:
                    raise CaptureError(f"{name}: the model computes in bfloat16; compile it in float32, model.float()")
                assign(root, name, value.detach())
                env[node] = graph.get_attr(name)
            env[node].meta["val"] = node.meta["val"]
        elif node.op == "call_function" and node.target is operator.getitem and node.args[0] in native:
            env[node] = native[node.args[0]]
        elif node.op == "call_function":
            target: Any = node.target
            args = torch.fx.map_arg(node.args, get)
            if getattr(target, "_schema", None) is not None and target._schema.is_mutable:
                renamed[latest(node.args[0])] = node
                target = _functional(target)
            kwargs = torch.fx.map_arg(node.kwargs, get)
            env[node] = graph.create_node("call_function", target, args, kwargs, node.name.rstrip("_"))
            env[node].meta["val"] = node.meta.get("val")
            env[node].meta["path"] = _path(node)
            if target is aten._native_batch_norm_legit_no_training.default:
                norm, args = env[node], env[node].args
                norm.target, norm.args = aten.batch_norm.default, (*args[:5], False, *args[5:7], False)
                norm.meta["val"], native[node] = norm.meta["val"][0], norm
        elif node.op == "output":
            flat = [get(v) if isinstance(v, Node) else v for v in node.args[0]]
            graph.output(flat)
    module = GraphModule(root, graph)
    module.meta["fake_mode"] = next(
        n.meta["val"].fake_mode for n in graph.nodes if isinstance(n.meta.get("val"), FakeTensor)
    )
    spec = program.call_spec.out_spec
    flat_out = next(iter(reversed(graph.nodes))).args[0]
    module.meta["template"] = template(pytree.tree_unflatten(list(range(len(flat_out))), spec))
    return module


def assign(root: nn.Module, name: str, value: Tensor) -> None:
    """root.a.b.c = value, with plain modules in between."""
    *parents, leaf = name.split(".")
    at = root
    for p in parents:
        if not hasattr(at, p):
            at.add_module(p, nn.Module())
        at = getattr(at, p)
    at.register_buffer(leaf, value)


def _path(node: Node) -> str:
    """The module a node came from, as the caller wrote it: layer1.0.conv1."""
    stack = node.meta.get("nn_module_stack") or {}
    path = ""
    for value in stack.values():
        path = value[0] if isinstance(value, tuple) else str(value)
    for prefix in ("L['self'].", "L['self']"):
        path = path.removeprefix(prefix)
    return path.replace("_modules['", "").replace("']", "").strip(".")


def template(tree: Any) -> Any:
    """The model's output tree as plain data: {"dict": ...}, {"list": ...}, {"tuple": ...} or a leaf's index."""
    if isinstance(tree, dict):
        return {"dict": {str(k): template(v) for k, v in tree.items()}}
    if isinstance(tree, list):
        return {"list": [template(v) for v in tree]}
    if isinstance(tree, tuple):
        return {"tuple": [template(v) for v in tree]}
    if tree is None or isinstance(tree, int):
        return tree
    if hasattr(tree, "__dict__"):
        return {"dict": {k: template(v) for k, v in vars(tree).items()}}
    raise CaptureError(f"the model returns a {type(tree).__name__}; return tensors in lists, tuples or dicts")


def _require_static(module: GraphModule) -> None:
    for node in module.graph.nodes:
        values = node.meta.get("val")
        for v in values if isinstance(values, list | tuple) else [values]:
            if isinstance(v, Tensor) and any(not isinstance(s, int) for s in v.shape):
                raise CaptureError(
                    f"{node.meta.get('path') or node.name}: the shape {tuple(v.shape)} depends on data "
                    f"({node.target}); only static shapes can be compiled: leave such post-processing out of the model"
                )
    for node in inputs(module):
        if node.meta["val"].dim() == 4 and node.meta["val"].shape[0] != 1:
            raise CaptureError(
                f"input {node.name} has batch {node.meta['val'].shape[0]}; "
                "a stream is one camera: use an example of batch 1"
            )
    assert fake_mode(module)


def copy_graph(module: GraphModule) -> GraphModule:
    """A copy that shares the constants; a pass may rewrite it without touching the original."""
    graph = Graph()
    memo: dict[Node, Node] = {}
    result = graph.graph_copy(module.graph, memo)
    new_out = graph.output(result)
    for old, new in memo.items():
        new.meta = copy.copy(old.meta)
    new_out.meta = copy.copy(next(iter(reversed(module.graph.nodes))).meta)
    out = GraphModule(module, graph)
    out.meta = dict(module.meta)
    return out
