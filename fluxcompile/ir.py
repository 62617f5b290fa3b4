"""The graph as text, and the few ways a pass may build nodes.

    %x: f32[1x3x64x64] = input
    %conv2d: f32[1x16x32x32] = aten.conv2d(%x, @stem.weight, @stem.bias, stride=[2, 2])  # stem
    return [%conv2d]

Every node's `meta["val"]` is the fake value its operands give; `meta["path"]` the module it came from.
"""

import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node

DTYPES = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "b8",
    torch.complex64: "c64",
}


def type_text(value: Any) -> str:
    """f32[1x3x64x64], or a list of such."""
    if isinstance(value, Tensor):
        return f"{DTYPES.get(value.dtype, str(value.dtype))}[{'x'.join(map(str, value.shape))}]"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(type_text, value)) + ")"
    return type(value).__name__


def op_name(target: Any) -> str:
    """aten.conv2d, flux.tiles, getitem: without the overload, which the arguments show."""
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._schema.name.split('::')[1]}"
    if target is operator.getitem:
        return "getitem"
    return getattr(target, "__name__", str(target))


def schema_arguments(node: Node) -> list[Any]:
    schema: Any = getattr(node.target, "_schema", None)
    return list(schema.arguments) if schema else []


def argument(node: Node, name: str) -> Any:
    """An argument by its schema name, its default where export dropped it."""
    for i, a in enumerate(schema_arguments(node)):
        if a.name == name:
            if name in node.kwargs:
                return node.kwargs[name]
            if i < len(node.args):
                return node.args[i]
            return a.default_value
    raise KeyError(f"{op_name(node.target)} has no argument {name!r}")


def _argument_text(value: Any) -> str:
    if isinstance(value, Node):
        return f"@{value.target}" if value.op == "get_attr" else f"%{value.name}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_argument_text, value)) + "]"
    if isinstance(value, torch.dtype):
        return DTYPES.get(value, str(value))
    if isinstance(value, str):
        return '"' + value + '"'
    return str(value)


def _call_text(node: Node) -> str:
    names = [a.name for a in schema_arguments(node)]
    words = []
    for i, value in enumerate(node.args):
        plain = isinstance(value, Node) or (isinstance(value, list | tuple) and any(isinstance(v, Node) for v in value))
        if plain or i >= len(names) or value is None:
            words.append(_argument_text(value))
        else:
            words.append(f"{names[i]}={_argument_text(value)}")
    words += [f"{k}={_argument_text(v)}" for k, v in node.kwargs.items()]
    return f"{op_name(node.target)}({', '.join(words)})"


def node_text(node: Node) -> str:
    """One line of the text form."""
    if node.op == "output":
        return f"return {_argument_text(node.args[0])}"
    head = f"%{node.name}: {type_text(node.meta.get('val'))} = "
    path = f"  # {node.meta['path']}" if node.meta.get("path") else ""
    if node.op == "placeholder":
        return head + str(node.meta.get("role", "input"))
    if node.op == "call_module":
        return f"{head}{node.target}({', '.join(map(_argument_text, node.args))}){path}"
    return head + _call_text(node) + path


def text(module: GraphModule) -> str:
    """The deterministic text form of a graph; dense regions follow it, each under its name."""
    lines = [node_text(n) for n in module.graph.nodes if n.op != "get_attr"]
    for n in module.graph.nodes:
        if n.op == "call_module":
            body = getattr(module, str(n.target)).body
            lines += ["", f"{n.target}:", *("    " + line for line in text(body).splitlines())]
    return "\n".join(lines)


def fake_mode(module: GraphModule) -> FakeTensorMode:
    mode = module.meta.get("fake_mode")
    assert isinstance(mode, FakeTensorMode)
    return mode


def fake_arguments(args: Any) -> Any:
    """Arguments with every node replaced by its fake value."""
    return torch.fx.map_arg(args, lambda n: n.meta["val"])


def fake_call(module: GraphModule, target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The fake value a call gives."""
    with fake_mode(module), torch.no_grad():
        return target(*fake_arguments(args), **fake_arguments(kwargs))


def call(module: GraphModule, target: Any, *args: Any, path: str = "", **kwargs: Any) -> Node:
    """A new node at the graph's insertion point, with its fake value."""
    node = module.graph.create_node("call_function", target, args, kwargs, op_name(target).split(".")[-1])
    node.meta["val"] = fake_call(module, target, args, kwargs)
    if path:
        node.meta["path"] = path
    return node


def constant(module: GraphModule, value: Tensor, name: str) -> Node:
    """A node for a constant named after `name`; equal constants of one name are shared."""
    name = re.sub(r"\W", "_", name)
    target, n = name, 0
    while (old := getattr(module, target, None)) is not None:
        if (
            isinstance(old, Tensor)
            and old.dtype == value.dtype
            and old.shape == value.shape
            and torch.equal(old, value)
        ):
            break
        n += 1
        target = f"{name}_{n}"
    else:
        module.register_buffer(target, value.detach())
    known: list[Node] = list(module.graph.find_nodes(op="get_attr", target=target))
    if known:
        return known[0]
    first = next(iter(module.graph.nodes))
    with module.graph.inserting_before(first):
        node = module.graph.get_attr(target)
    with fake_mode(module):
        node.meta["val"] = fake_mode(module).from_tensor(value.detach())
    return node


def constant_value(module: GraphModule, node: Node) -> Tensor:
    """The tensor behind a get_attr node."""
    at: Any = module
    for name in str(node.target).split("."):
        at = getattr(at, name)
    assert isinstance(at, Tensor)
    return at


def operand(node: Node, index: int = 0) -> Node:
    """A positional argument that is a value."""
    found = node.args[index]
    assert isinstance(found, Node), f"{node.format_node()}: argument {index} is no value"
    return found


def is_constant(value: Any) -> bool:
    return isinstance(value, Node) and value.op == "get_attr"


def shape(node: Node) -> tuple[int, ...]:
    """The shape of a node's tensor."""
    return tuple(node.meta["val"].shape)


def add_input(module: GraphModule, name: str, value: Tensor, role: str) -> Node:
    """A new graph input after the others; `role` is what the text form calls it."""
    last = [n for n in module.graph.nodes if n.op == "placeholder"][-1]
    with module.graph.inserting_after(last):
        node = module.graph.placeholder(name)
    node.meta["role"] = role
    with fake_mode(module):
        node.meta["val"] = (
            torch.empty_like(value, device="cpu") if not isinstance(value, torch._subclasses.FakeTensor) else value
        )
    return node


def inputs(module: GraphModule, role: str = "input") -> list[Node]:
    return [n for n in module.graph.nodes if n.op == "placeholder" and n.meta.get("role", "input").split()[0] == role]


def output(module: GraphModule) -> Node:
    nodes: list[Node] = list(module.graph.nodes)
    return nodes[-1]


def replace(node: Node, new: Node) -> None:
    """All uses of `node` become uses of `new`, which takes over its path; `node` goes."""
    if node.meta.get("path") and not new.meta.get("path"):
        new.meta["path"] = node.meta["path"]
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def clean(module: GraphModule) -> None:
    """Dead nodes and constants nobody reads go."""
    module.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
    used = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    for name in [k for k, _ in module.named_buffers() if "." not in k and k not in used]:
        delattr(module, name)


def calls(module: GraphModule, targets: Iterable[Any]) -> list[Node]:
    """The nodes calling any of `targets`, in graph order."""
    wanted = set(targets)
    return [n for n in module.graph.nodes if n.op == "call_function" and n.target in wanted]
