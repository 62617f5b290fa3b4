"""Import an ONNX file as a torch module whose forward is an fx graph of plain torch calls.

    /m/Shape   Shape(x)                  ->  (a constant)
    /m/conv/Conv  Conv(x, w, b, pads=[1, 1, 1, 1])  ->  %m_conv_Conv = conv2d(%x, @m.conv.weight, @m.conv.bias, ...)

Shapes are static: every value carries the shape that torch's meta kernels give, and whatever depends on constants and
shapes alone is computed here, by the same operator functions. float16 and bfloat16 are computed in float32: weights,
inputs, casts and outputs. Each fx node carries the ONNX node name in `meta["onnx_name"]`, and in two places that
`torch.export` keeps: `meta["custom"]["onnx_name"]`, and the module path in `meta["nn_module_stack"]`. Export the
module itself: inside another module torch looks only at that one's forward, and the names are lost.

Refused with an OnnxImportError: unknown operators and attributes, and whatever has no static shape
(NonMaxSuppression, Loop, Scan, NonZero or If on data).
"""

import inspect
from collections.abc import Sequence
from typing import Any

import onnx
import onnx.inliner
import torch
from torch import Tensor, fx

from fluxcompile.passes.onnx_file import Shapes, Source, declared, in_order, load, name_of, opset_of, to_tensor
from fluxcompile.passes.onnx_layout import LAYOUT
from fluxcompile.passes.onnx_patterns import PATTERNS
from fluxcompile.passes.onnx_pointwise import POINTWISE
from fluxcompile.passes.onnx_recorder import Origin, Recorder
from fluxcompile.passes.onnx_reductions import REDUCTIONS
from fluxcompile.passes.onnx_resize import RESIZE
from fluxcompile.passes.onnx_values import OnnxImportError, Operator, constant
from fluxcompile.passes.onnx_windows import WINDOWS

__all__ = ["OnnxImportError", "example_inputs", "import_onnx"]

OPERATORS: dict[str, Operator] = POINTWISE | LAYOUT | REDUCTIONS | WINDOWS | RESIZE
OUTSIDE = {"Loop": "a loop", "Scan": "a loop", "NonMaxSuppression": "a result whose size depends on the data"}


def import_onnx(source: Source, shapes: Shapes | None = None, outputs: Sequence[str] | None = None) -> fx.GraphModule:
    """The model as a module in eval mode; `shapes` fixes input shapes, `outputs` cuts it at other values."""
    model = load(source)
    return _Importer(model, opset_of(model)).module(declared(model, shapes or {}), outputs)


def example_inputs(source: Source, shapes: Shapes | None = None) -> tuple[Tensor, ...]:
    """Zeros of the shapes and types the model declares; a symbolic batch is 1."""
    inputs = declared(load(source, weights=False), shapes or {})
    return tuple(torch.zeros(shape, dtype=dtype) for shape, dtype in inputs.values())


class _Importer:
    def __init__(self, model: onnx.ModelProto, opset: int) -> None:
        self.model = onnx.inliner.inline_local_functions(model) if model.functions else model
        self.opset = opset
        self.recorder = Recorder(fx.Graph())
        self.values: dict[str, Tensor] = {}
        self.maker: dict[str, onnx.NodeProto] = {}

    def module(
        self, inputs: dict[str, tuple[tuple[int, ...], torch.dtype]], outputs: Sequence[str] | None
    ) -> fx.GraphModule:
        graph = self.model.graph
        for name, (shape, dtype) in inputs.items():
            self.values[name] = self.recorder.input(name, shape, dtype)  # type: ignore[assignment]  # a Value acts as one
        own = [value.name for value in graph.output]
        wanted = list(outputs or own)
        known = {name for node in graph.node for name in node.output} | set(own)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise OnnxImportError(
                f"outputs: no value is called {', '.join(unknown)}; the file's own are {', '.join(own)}"
            )
        with torch.no_grad():
            self.run(graph, wanted)
            results = tuple(self.value(name, "the output") for name in wanted)
        self.recorder.origin = None
        recorded = self.recorder.graph
        recorded.output(self.recorder.create_arg(results if len(results) > 1 else results[0]))
        for pattern in PATTERNS:
            pattern(recorded)
        recorded.eliminate_dead_code()
        for node in recorded.nodes:
            node.meta.pop("val", None)
        recorded.lint()
        return fx.GraphModule(self.recorder.root, recorded, "OnnxModel").eval()

    def run(self, graph: onnx.GraphProto, wanted: Sequence[str]) -> None:
        if graph.sparse_initializer:
            raise OnnxImportError("the file has sparse constants, which are not supported; export it with dense ones")
        for proto in graph.initializer:
            self.values[proto.name] = tensor = to_tensor(proto)
            if "::" not in proto.name and not proto.name.isdigit():
                self.recorder.name(tensor, proto.name)
        for node in in_order(graph, wanted):
            self.maker |= dict.fromkeys(node.output, node)
            self.recorder.origin = Origin.of(node)
            try:
                self.node(node)
            except Exception as error:
                raise OnnxImportError(f"{self.where(node)}: {_reason(error)}") from error

    def where(self, node: onnx.NodeProto) -> str:
        domain = f"{node.domain}." if node.domain else ""
        return f"{name_of(node)} ({domain}{node.op_type}, opset {self.opset})"

    def value(self, name: str, reader: str) -> Tensor:
        if name in self.values:
            return self.values[name]
        if name in self.maker:
            raise OnnxImportError(
                f"{reader} reads {name!r}, an output of {self.where(self.maker[name])} that is not supported"
            )
        raise OnnxImportError(f"{reader} reads {name!r}, which nothing makes; the file is truncated or inconsistent")

    def node(self, node: onnx.NodeProto) -> None:
        if node.op_type == "If" and node.domain in ("", "ai.onnx"):
            return self.branch(node)
        operator = self.operator(node)
        signature = inspect.signature(operator)
        attributes = {attribute.name: _attribute(attribute) for attribute in node.attribute}
        inputs = [self.value(name, "the node") if name else None for name in node.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        extra = {"opset": self.opset, "outputs": len(node.output)}
        attributes |= {name: value for name, value in extra.items() if name in signature.parameters}
        try:
            bound = signature.bind(*inputs, **attributes)
        except TypeError as error:
            raise OnnxImportError(
                f"{error}: not an input or attribute we know; re-export, or report the model"
            ) from error
        self.name_operands(bound)
        result = operator(*bound.args, **bound.kwargs)
        results = result if isinstance(result, list) else [result]
        self.values.update((name, value) for name, value in zip(node.output, results, strict=False) if name)

    def operator(self, node: onnx.NodeProto) -> Operator:
        if node.domain in ("", "ai.onnx"):
            if node.op_type in OUTSIDE:
                raise OnnxImportError(f"{OUTSIDE[node.op_type]} has no static graph; {self.cut_before(node)}")
            if node.op_type in OPERATORS:
                return OPERATORS[node.op_type]
        raise OnnxImportError(
            f"unknown operator {node.op_type!r} of domain {node.domain or 'ai.onnx'!r}; re-export without it, or "
            f"{self.cut_before(node)}"
        )

    def cut_before(self, node: onnx.NodeProto) -> str:
        """Advice: the values that are computed and the node reads."""
        names = [name for name in node.input if name in self.maker]
        return f"end the model before it: outputs={names}" if names else "end the model before it, by outputs=[...]"

    def name_operands(self, bound: inspect.BoundArguments) -> None:
        """A constant that the exporter gave a number for a name is called after its role: `model.9.cv1.conv.weight`."""
        recorder = self.recorder
        assert recorder.origin
        tensors = {role: value for role, value in bound.arguments.items() if isinstance(value, Tensor)}
        recorder.operands = {
            recorder.name(value, f"{recorder.origin.path}.{role}"): value.numel() for role, value in tensors.items()
        }

    def branch(self, node: onnx.NodeProto) -> None:
        condition = bool(constant(self.value(node.input[0], "the node"), "the condition").item())
        (body,) = [a.g for a in node.attribute if a.name == ("then_branch" if condition else "else_branch")]
        names = [value.name for value in body.output]
        self.run(body, names)
        self.values.update((out, self.value(name, "the branch")) for out, name in zip(node.output, names, strict=True))


def _reason(error: Exception) -> str:
    if isinstance(error, OnnxImportError):
        return str(error)
    return (
        f"torch cannot do this ({type(error).__name__}: {error}); shapes and attributes of the file do not fit together"
    )


def _attribute(attribute: onnx.AttributeProto) -> Any:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return to_tensor(attribute.t)
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value
