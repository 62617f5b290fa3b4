"""Stands in for TensorRT for RTX: as the other, but types are the graph's, no plugins are known, and a GPU is named.

FAKE_RTX is its version.
"""

import enum
import os

import tensorrt  # noqa: TID251 - the stand-in beside it
from tensorrt import *  # noqa: F403, TID251

__version__ = os.environ.get("FAKE_RTX", "1.7.1")


class ComputeCapability(enum.IntEnum):
    SM75, SM86, SM89 = range(3)


class BuilderFlag(enum.IntEnum):
    TF32 = tensorrt.BuilderFlag.TF32


class Config(tensorrt.Config):
    num_compute_capabilities = 0

    def set_compute_capability(self, capability, index):
        assert 0 <= index < self.num_compute_capabilities
        self.capability = capability


class Builder(tensorrt.Builder):
    def create_builder_config(self):
        return Config()

    def build_serialized_network(self, network, config):
        assert config.capability in ComputeCapability
        return super().build_serialized_network(network, config)


class OnnxParser(tensorrt.OnnxParser):
    def parse_from_file(self, path):
        return super().parse_from_file(path) and not any(layer.kind == "flux" for layer in self.network.layers)
