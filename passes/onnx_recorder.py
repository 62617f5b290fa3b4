"""Record what the ONNX operators do into an fx graph, with shapes, names, and the ONNX node each call came from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import GraphAppendingTracer

from fluxcompile.passes.onnx_file import name_of
from fluxcompile.passes.onnx_values import Value


@dataclass(frozen=True)
class Origin:
    """The ONNX node that is being imported."""

    name: str
    op_type: str
    path: str

    @classmethod
    def of(cls, node: onnx.NodeProto) -> "Origin":
        name = name_of(node)
        return cls(name, node.op_type, _module_path(node, name))


def _module_path(node: onnx.NodeProto, name: str) -> str:
    """The module the node came from: torch's metadata, a path-like node name, the path of its weight, or its name."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
    weight = next((i.rpartition(".")[0] for i in node.input[1:] if "." in i and "/" not in i and "::" not in i), "")
    if "/" in name:
        path = name.strip("/").rpartition("/")[0] or name.strip("/")
    elif len(found := re.findall(r"'([^']*)'", scopes)) > 1 and found[-2]:
        path = found[-2]
    else:
        path = weight or name
    return _dotted(path.replace("/", "."))


def _dotted(name: str) -> str:
    """A name as module path: words joined by dots, none of which is taken by GraphModule itself."""
    words = [re.sub(r"\W", "_", word) for word in name.split(".") if word] or ["_"]
    return ".".join(f"{word}_" if hasattr(fx.GraphModule, word) or word == "training" else word for word in words)


class Recorder(GraphAppendingTracer):
    """Records what operators do to values, with shapes, names and origin."""

    def __init__(self, graph: fx.Graph) -> None:
        super().__init__(graph)
        self.root = nn.Module()
        self.origin: Origin | None = None
        self.names: dict[int, tuple[Tensor, str]] = {}  # the tensor is held, so that its id stays its own
        self.operands: dict[str, int] = {}  # the constants of this ONNX node and how many elements they have
        self.constants: dict[int, tuple[Tensor, fx.Node]] = {}

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: Any = None, type_expr: Any = None
    ) -> fx.Node:
        origin = self.origin
        label = re.sub(r"\W", "_", origin.name).strip("_") if origin and kind.startswith("call") else name
        node = super().create_node(kind, target, args, kwargs, label, type_expr)
        if origin and kind.startswith("call"):
            node.meta["onnx_name"] = origin.name
            node.meta["custom"] = {"onnx_name": origin.name}
            words = origin.path.split(".")
            prefixes = [".".join(words[:i]) for i in range(len(words) + 1)]
            node.meta["nn_module_stack"] = {path: (path, "onnx") for path in prefixes}
            node.meta["val"] = _meta_of(node)
        return node

    def proxy(self, node: fx.Node) -> Value:
        return Value(node, self)

    def create_arg(self, a: Any) -> Any:
        return self.constant(a) if isinstance(a, Tensor) else super().create_arg(a)

    def input(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Value:
        node = self.create_node("placeholder", re.sub(r"\W", "_", name), (), {})
        node.meta["val"] = torch.empty(shape, dtype=dtype, device="meta")
        return self.proxy(node)

    def constant(self, tensor: Tensor) -> fx.Node:
        """The node that reads a constant: one an operand, named after its initializer or the node it was made for."""
        if id(tensor) not in self.constants:
            target = self._register(self.name(tensor) or self._derived_name(tensor), tensor)
            node = self.create_node("get_attr", target, (), {}, target.replace(".", "_"))
            node.meta["val"] = torch.empty_like(tensor, device="meta")
            self.constants[id(tensor)] = (tensor, node)
        return self.constants[id(tensor)][1]

    def name(self, tensor: Tensor, name: str = "") -> str:
        """The name of a constant; the first one given stays."""
        if name:
            self.names.setdefault(id(tensor), (tensor, name))
        return self.names[id(tensor)][1] if id(tensor) in self.names else ""

    def _derived_name(self, tensor: Tensor) -> str:
        """The name of the operand it is another view of (a transposed weight), or the node's own."""
        same = [name for name, count in self.operands.items() if count == tensor.numel()]
        return same[0] if len(same) == 1 else f"{self.origin.path if self.origin else 'output'}.constant"

    def _register(self, name: str, tensor: Tensor) -> str:
        *path, leaf = _dotted(name).split(".")
        module, target = self.root, []
        for word in path:
            while word in module._parameters or word in module._buffers:
                word += "_"
            if word not in module._modules:
                module.add_module(word, nn.Module())
            module = module.get_submodule(word)
            target.append(word)
        unique, count = leaf, 0
        while hasattr(module, unique):
            count += 1
            unique = f"{leaf}_{count}"
        owned = tensor.clone(memory_format=torch.contiguous_format)  # never a view of another constant
        if owned.is_floating_point():
            module.register_parameter(unique, nn.Parameter(owned, requires_grad=False))
        else:
            module.register_buffer(unique, owned)
        return ".".join([*target, unique])


def _meta_of(node: fx.Node) -> Any:
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda operand: operand.meta["val"])
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)
