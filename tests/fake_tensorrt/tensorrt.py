"""Stands in for TensorRT's Python package: what it builds runs golden.onnx in ONNX Runtime, on the fake CUDA's memory.

FAKE_TENSORRT is its version, FAKE_FAULT a number that is added to every output.
"""

import ctypes
import enum
import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

__version__ = os.environ.get("FAKE_TENSORRT", "10.3.0")
_cuda = ctypes.CDLL("libcudart.so")


class DataType(enum.Enum):
    FLOAT, HALF, INT32, INT64, BOOL = "float32", "float16", "int32", "int64", "bool"


float32, float16 = DataType.FLOAT, DataType.HALF
_TYPES = {1: DataType.FLOAT, 6: DataType.INT32, 7: DataType.INT64, 9: DataType.BOOL}


class BuilderFlag(enum.IntEnum):
    FP16, INT8, TF32, PREFER_PRECISION_CONSTRAINTS = range(4)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class TensorFormat(enum.IntEnum):
    LINEAR = 0


class LayerType(enum.IntEnum):
    CONSTANT, OTHER = range(2)


class Logger:
    INFO, WARNING = range(2)

    def __init__(self, severity):
        pass


class Tensor:
    def __init__(self, name, dtype, shape=()):
        self.name, self.dtype, self.shape = name, dtype, tuple(shape)


class Layer:
    def __init__(self, node):
        self.name, self.type, self.precision = node.name, LayerType.OTHER, None
        self.kind = node.domain
        self.outputs = [Tensor(name, float32) for name in node.output]
        self.output_types = {}
        self.num_outputs = len(self.outputs)

    def get_output(self, index):
        return self.outputs[index]

    def set_output_type(self, index, dtype):
        self.output_types[index] = dtype


class Network:
    def __init__(self):
        self.path, self.inputs, self.outputs, self.layers = "", [], [], []

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))
    num_layers = property(lambda self: len(self.layers))

    def get_input(self, index):
        return self.inputs[index]

    def get_output(self, index):
        return self.outputs[index]

    def get_layer(self, index):
        return self.layers[index]


class Config:
    def __init__(self):
        self.flags = {BuilderFlag.TF32}

    def set_memory_pool_limit(self, pool, size):
        assert size > 0

    def set_flag(self, flag):
        self.flags.add(flag)

    def clear_flag(self, flag):
        self.flags.discard(flag)


class Builder:
    def __init__(self, logger):
        pass

    def create_network(self, flags):
        assert flags == (0 if __version__.startswith("10") else 1), "EXPLICIT_BATCH before TensorRT 10 and only then"
        return Network()

    def create_builder_config(self):
        return Config()

    def build_serialized_network(self, network, config):
        bound = {t.name: t.dtype.value for t in (*network.inputs, *network.outputs)}
        about = {
            "path": network.path,
            "types": bound,
            "flags": sorted(f.name for f in config.flags),
            "wide": sorted(
                {n.name.split("/")[0] for n in network.layers if n.precision == n.output_types.get(0) == float32}
            ),
            "names": sorted({n.name.split("/")[0] for n in network.layers}),
        }
        return json.dumps(about).encode()


class OnnxParser:
    num_errors = 1

    def __init__(self, network, logger):
        self.network = network

    def get_error(self, index):
        return "a node that is no plugin"

    def parse_from_file(self, path):
        model = onnx.load(path, load_external_data=False)
        if model.functions:
            return False
        network = self.network
        network.path = path
        for found, values in ((network.inputs, model.graph.input), (network.outputs, model.graph.output)):
            for value in values:
                tensor = value.type.tensor_type
                found.append(Tensor(value.name, _TYPES[tensor.elem_type], [d.dim_value for d in tensor.shape.dim]))
        network.layers = [Layer(node) for node in model.graph.node]
        return True


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        try:
            return Engine(json.loads(plan))
        except ValueError:
            return None


class Engine:
    def __init__(self, about):
        self.about, path = about, Path(about["path"])
        model = onnx.load(str(path))
        model.functions.extend(onnx.load(str(path.with_name("golden.onnx")), load_external_data=False).functions)
        asked = onnxruntime.SessionOptions()
        asked.log_severity_level = 3
        asked.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), asked)
        self.bound = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.shapes = {t.name: t.shape for t in self.bound}
        self.num_io_tensors = len(self.bound)

    def get_tensor_name(self, index):
        return self.bound[index].name

    def get_tensor_dtype(self, name):
        return DataType(self.about["types"][name])

    def get_tensor_shape(self, name):
        return self.shapes[name]

    def create_execution_context(self):
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine, self.addresses, self.recorded = engine, {}, {}
        self.launch = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda graph: self.run(self.recorded[graph]))
        _cuda.fake_on_launch(self.launch)

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer

    def execute_async_v3(self, stream):
        graph = _cuda.fake_capturing()
        if graph:
            self.recorded[graph] = dict(self.addresses)
        else:
            self.run(self.addresses)
        return True

    def run(self, addresses):
        def view(name):
            dtype, shape = np.dtype(self.engine.about["types"][name]), self.engine.shapes[name]
            size = int(np.prod(shape)) * dtype.itemsize
            held = (ctypes.c_char * size).from_address(addresses[name])
            return np.frombuffer(held, dtype).reshape(shape)

        session = self.engine.session
        feed = {}
        for given in session.get_inputs():
            value = view(given.name)
            feed[given.name] = value.astype(np.float32) if value.dtype == np.float16 else value
        names = [o.name for o in session.get_outputs()]
        fault = float(os.environ.get("FAKE_FAULT", "0"))
        for name, value in zip(names, session.run(names, feed)):  # noqa: B905 - Python 3.8
            view(name)[...] = value + fault if value.dtype == np.float32 else value
