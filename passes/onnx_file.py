"""Read an ONNX file: the model, its opset, the static shapes of its inputs, its tensors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from fluxcompile.passes.onnx_values import TYPES, OnnxImportError

OLDEST_OPSET, NEWEST_OPSET = 9, onnx.defs.onnx_opset_version()

Source = str | Path | onnx.ModelProto
Shapes = Mapping[str, Sequence[int]]


def load(source: Source, weights: bool = True) -> onnx.ModelProto:
    if isinstance(source, onnx.ModelProto):
        return source
    path = Path(source)
    if not path.is_file():
        raise OnnxImportError(f"{path}: no such file; give the path of an .onnx file")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise OnnxImportError(
            f"{path}: not an ONNX file, or a truncated one ({error}); export or copy it again"
        ) from error
    if not model.graph.output:
        raise OnnxImportError(f"{path}: holds no graph with outputs; export or copy it again")
    if weights:
        try:
            onnx.load_external_data_for_model(model, str(path.parent))
        except Exception as error:
            raise OnnxImportError(
                f"{path}: its external weights cannot be read ({error}); put them beside it"
            ) from error
    return model


def opset_of(model: onnx.ModelProto) -> int:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise OnnxImportError(
            f"opset {opset or 'missing'}: supported are {OLDEST_OPSET} to {NEWEST_OPSET}; "
            "convert the file with onnx.version_converter or export it again"
        )
    return opset


def declared(model: onnx.ModelProto, shapes: Shapes) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of each input, in order; older files list the weights among the inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    for name in shapes:
        if name not in {value.name for value in inputs}:
            names = ", ".join(value.name for value in inputs)
            raise OnnxImportError(f"shapes: no input is called {name!r}; the inputs are {names}")
    return {value.name: (_shape(value, shapes.get(value.name)), _type(value)) for value in inputs}


def _type(value: onnx.ValueInfoProto) -> torch.dtype:
    kind = value.type.tensor_type.elem_type
    if kind not in TYPES:
        raise OnnxImportError(
            f"input {value.name!r} has ONNX type {kind}; only tensors of numbers or bools are supported"
        )
    return TYPES[kind]


def _shape(value: onnx.ValueInfoProto, given: Sequence[int] | None) -> tuple[int, ...]:
    tensor = value.type.tensor_type
    dims = list(tensor.shape.dim)
    advice = "give an example of the shape it is to have, like torch.zeros(1, 3, 640, 640)"
    if given is not None:
        if tensor.HasField("shape") and len(given) != len(dims):
            raise OnnxImportError(
                f"input {value.name!r} has rank {len(dims)}, shapes gives {tuple(given)}; give every axis"
            )
        return tuple(given)
    if not tensor.HasField("shape"):
        raise OnnxImportError(f"input {value.name!r} declares no shape; {advice}")
    sizes = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in dims]
    for i, dim in enumerate(dims):
        if sizes[i] <= 0 and i:
            label = dim.dim_param or "unnamed"
            raise OnnxImportError(
                f"input {value.name!r}: axis {i} ({label}) is dynamic, shapes must be static; {advice}"
            )
    return tuple(max(1, size) for size in sizes)


def to_tensor(proto: onnx.TensorProto) -> Tensor:
    if proto.data_type not in TYPES:
        name = onnx.TensorProto.DataType.Name(proto.data_type)
        raise OnnxImportError(
            f"constant {proto.name!r} has type {name}; only numbers up to 64 bits and bools are supported"
        )
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        raise OnnxImportError(f"constant {proto.name!r}: its data lies in another file; give the path, not the model")
    try:
        array = numpy_helper.to_array(proto)
    except Exception as error:
        raise OnnxImportError(f"constant {proto.name!r} is broken ({error}); export or copy the file again") from error
    if array.dtype.name in ("bfloat16", "uint16", "uint32"):
        array = array.astype(np.float32 if array.dtype.name == "bfloat16" else np.int64)
    return torch.from_numpy(np.array(array)).to(TYPES[proto.data_type])


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The values a node needs, those its subgraphs take from outside included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)
        yield from (value.name for value in attribute.g.output)


def in_order(graph: onnx.GraphProto, wanted: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes the wanted values need, each after those it reads; in the order of the file where that is one."""
    maker: dict[str, int] = {}
    for i, node in enumerate(graph.node):
        for name in node.output:
            if name and maker.setdefault(name, i) != i:
                twins = f"{name_of(graph.node[maker[name]])} and {name_of(node)}"
                raise OnnxImportError(f"{name!r} is made twice, by {twins}; the file is inconsistent: export it again")
    done: set[int] = set()
    open_: set[int] = set()
    order: list[int] = []
    stack = [maker[name] for name in wanted if name in maker]
    while stack:
        i = stack[-1]
        if i in done:
            stack.pop()
            continue
        open_.add(i)
        missing = [maker[name] for name in _reads(graph.node[i]) if name in maker and maker[name] not in done]
        if not missing:
            done.add(i)
            order.append(stack.pop())
        for j in missing:
            if j in open_:
                names = " and ".join(name_of(graph.node[k]) for k in (i, j))
                raise OnnxImportError(f"the graph is cyclic: {names} need each other's results; export the file again")
        stack.extend(missing)
    rank = {i: place for place, i in enumerate(sorted(order))}
    sorted_ = all(
        rank[maker[name]] < rank[i]
        for i in order
        for name in _reads(graph.node[i])
        if name in maker and maker[name] in rank
    )
    return [graph.node[i] for i in (sorted(order) if sorted_ else order)]


def name_of(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type}_{node.output[0]}"
