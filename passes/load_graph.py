"""The plain data of a dense graph -> the captured graph it was emitted from (see `emit_program`).

    {"name": "conv2d", "op": "aten.conv2d.default", "args": [{"%": "x"}, {"@": "w"}, null, [2, 2]], ...}
 ->
    %conv2d: f32[1x16x32x32] = aten.conv2d(%x, @w, None, stride=[2, 2])

So that a net can be taken apart with nothing but its `.flux` at hand. An input that has a layout keeps it, over a grid
of its own.
"""

import operator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node

from fluxcompile.errors import ProgramError
from fluxcompile.geometry import parse_layout
from fluxcompile.ir import DTYPES, fake_call, type_text
from fluxcompile.ops import operator_of
from fluxcompile.passes.capture import assign
from fluxcompile.passes.flow import Domain
from fluxcompile.program import Op, Program, bind

TYPES = {word: dtype for dtype, word in DTYPES.items()}


def load_graph(program: Program) -> GraphModule:
    """The captured graph of a program, after the passes of its stage. Raises ProgramError for data that do not fit."""
    data = program.graphs["dense"]
    root, graph, mode = torch.nn.Module(), Graph(), FakeTensorMode(allow_non_fake_inputs=True)
    module = GraphModule(root, graph)
    module.meta = {"fake_mode": mode, "template": program.template}
    if program.frames:
        module.meta["frames_layout"] = program.frames["layout"]
    values: dict[str, Node] = {}
    for spec in data.inputs:
        values[spec.name] = node = module.graph.placeholder(spec.name)
        node.meta["role"] = spec.role
        with mode:
            node.meta["val"] = torch.empty(spec.shape, dtype=TYPES[spec.dtype])
        if spec.layout:
            node.meta["domain"] = Domain(parse_layout(spec.layout))
    constants: dict[str, Node] = {}

    def named(kind: str, name: str) -> Any:
        if kind == "%":
            return values[name]
        if kind == "@":
            if name not in constants:
                constants[name] = _constant(module, program, name)
            return constants[name]
        return TYPES[name] if kind == "dtype" else float(name)

    for op in data.ops:
        try:
            kwargs = {k: bind(v, named) for k, v in op.kwargs.items()}
            values[op.name] = _called(module, op, bind(op.args, named), kwargs)
        except (LookupError, TypeError, RuntimeError) as e:
            raise ProgramError(f"{op.path or op.name}: {op.op} does not fit ({e}); compile the model again") from e
    module.graph.output(bind(data.outputs, named))
    return module


def _constant(module: GraphModule, program: Program, name: str) -> Node:
    value = torch.from_numpy(program.constants[name])
    assign(module, name, value)
    node = module.graph.get_attr(name)
    node.meta["val"] = module.meta["fake_mode"].from_tensor(value)
    return node


def _called(module: GraphModule, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Node:
    target = operator.getitem if op.op == "getitem" else operator_of(op.op)
    if target is None:
        raise ProgramError(f"{op.name}: this torch ({torch.__version__}) has no operator {op.op}; use a newer torch")
    node = module.graph.create_node("call_function", target, tuple(args), kwargs, op.name)
    node.meta["val"] = fake_call(module, target, node.args, node.kwargs)
    if op.path:
        node.meta["path"] = op.path
    if type_text(node.meta["val"]) != op.type:
        raise ProgramError(f"{op.path or op.name}: {op.op} gives {type_text(node.meta['val'])}, expected {op.type}")
    return node
