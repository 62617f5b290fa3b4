"""What each stage allows: run after every pass, so that a broken rewrite is named by the pass that made it."""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fluxcompile.errors import VerifyError
from fluxcompile.ir import fake_call, node_text, type_text

STAGES = {"captured": {"aten"}, "blocked": {"aten", "flux"}}


def verify(module: GraphModule, stage: str, after: str) -> None:
    """Raise VerifyError when the graph breaks the stage's rules; `after` names the pass that ran last."""
    try:
        module.graph.lint()
    except RuntimeError as e:
        raise VerifyError(f"after {after}: the graph is malformed: {e}") from e
    known: dict[Any, str] = module.meta.setdefault("verified", {})
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is not operator.getitem:
            _verify_target(node, stage, after)
        key = _signature(node)
        if key not in known:
            known[key] = type_text(fake_call(module, node.target, node.args, node.kwargs))
        if known[key] != type_text(node.meta.get("val")):
            raise VerifyError(f"after {after}: the operands give {known[key]}: {node_text(node)}")


def _verify_target(node: Node, stage: str, after: str) -> None:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in STAGES[stage]:
        raise VerifyError(f"after {after}: not allowed in a {stage} graph: {node_text(node)}")
    if target._schema.is_mutable:
        raise VerifyError(f"after {after}: changes its operand in place: {node_text(node)}")


def _signature(node: Node) -> Any:
    """Equal for calls that give the same type."""

    def plain(value: Any) -> Any:
        if isinstance(value, Node):
            found = value.meta.get("val")
            return (type_text(found), tuple(found.stride())) if isinstance(found, Tensor) else type_text(found)
        if isinstance(value, list | tuple):
            return tuple(map(plain, value))
        return (type(value), str(value))

    return node.target, plain(node.args), tuple((k, plain(v)) for k, v in node.kwargs.items())
