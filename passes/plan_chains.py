"""What the epilogue of a convolution takes over in a plan: an activation and a residual (see `lower_plan`)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.fx import GraphModule, Node

from fluxcompile.ir import argument, is_constant, op_name, shape
from fluxcompile.passes.flow import domain, has_domain, layout
from fluxcompile.passes.plan_values import Chain, Index, part_of

if TYPE_CHECKING:
    from fluxcompile.passes.lower_plan import Lowering

Term = list[Any]
"""[name, a, b, other]: see `kernels.cpu.pointwise`."""


def argument_or(node: Node, name: str) -> Any:
    try:
        return argument(node, name)
    except KeyError:
        return None


def _clamp(node: Node) -> Term | None:
    low, high = argument_or(node, "min"), argument_or(node, "max")
    if any(isinstance(v, Node) for v in (low, high)):
        return None
    return ["clamp", -np.inf if low is None else float(low), np.inf if high is None else float(high), None]


def _named(name: str, *arguments: str) -> Callable[[Node], Term | None]:
    def term(node: Node) -> Term:
        values = [float(argument(node, a)) for a in arguments]
        return [name, *values, *[0.0] * (2 - len(values)), None]

    return term


def _gelu(node: Node) -> Term:
    return ["gelu_tanh" if argument(node, "approximate") == "tanh" else "gelu", 0.0, 0.0, None]


def _elu(node: Node) -> Term | None:
    plain = argument(node, "scale") == 1 and argument(node, "input_scale") == 1
    return ["elu", float(argument(node, "alpha")), 0.0, None] if plain else None


def _bounded(node: Node) -> Term:
    return ["clamp", float(argument(node, "min_val")), float(argument(node, "max_val")), None]


ACTIVATIONS: dict[str, Callable[[Node], Term | None]] = {
    "relu": _named("relu"),
    "relu6": _named("relu6"),
    "silu": _named("silu"),
    "sigmoid": _named("sigmoid"),
    "tanh": _named("tanh"),
    "hardswish": _named("hardswish"),
    "hardsigmoid": _named("hardsigmoid"),
    "mish": _named("mish"),
    "leaky_relu": _named("leaky", "negative_slope"),
    "gelu": _gelu,
    "elu": _elu,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "hardtanh": _bounded,
    "neg": lambda node: ["scale", -1.0, 0.0, None],
}
"""Ops of one value; what they give is None where the kernels lack the setting."""


EPILOGUES = ("conv2d", "conv1d", "linear", "conv_transpose2d", "addmm")


def name_of(node: Node) -> str:
    return op_name(node.target).removeprefix("aten.")


def find_chains(module: GraphModule) -> dict[Node, Chain]:
    """Convolutions and products with what their epilogue takes over, by the node whose value they then compute."""
    chains = {}
    for node in module.graph.nodes:
        if node.op != "call_function" or not has_domain(node) or name_of(node) not in EPILOGUES:
            continue
        chain = _grown(node)
        if len(chain.members) > 1:
            chains[chain.last] = chain
    return chains


def _grown(node: Node) -> Chain:
    chain = Chain(node, members=[node])
    while True:
        user = _only_user(chain.last)
        if user is None:
            return chain
        term = _activation(user)
        if term is not None and chain.act is None and (chain.residual is None or chain.residual_first):
            chain.act = term
        elif name_of(user) == "add" and chain.residual is None and (other := _residual(chain.last, user)) is not None:
            chain.residual, chain.residual_first = other, chain.act is None
        else:
            return chain
        chain.last = user
        chain.members.append(user)


def _only_user(node: Node) -> Node | None:
    """The one op that reads a value, cell by cell, when nothing else does and no gate stands between."""
    users: list[Node] = [u for u in node.users if u.op != "call_function" or has_domain(u)]
    if len(users) != 1 or len(node.users) != 1 or "changed" in node.meta or not has_domain(users[0]):
        return None
    (user,) = users
    if (
        user.op != "call_function"
        or domain(user).parts
        or domain(user).layout != layout(node)
        or shape(user) != shape(node)
    ):
        return None
    return user


def _activation(node: Node) -> Term | None:
    found = ACTIVATIONS.get(name_of(node))
    term = found(node) if found else None
    return term if term is not None and term[0] != "scale" else None


def _residual(value: Node, add: Node) -> Node | None:
    if argument(add, "alpha") != 1:
        return None
    others: list[Any] = [a for a in add.args[:2] if a is not value]
    if len(others) != 1 or not isinstance(others[0], Node) or not has_domain(others[0]):
        return None
    other: Node = others[0]
    return other if layout(other) == layout(add) and shape(other) == shape(add) else None


def epilogue(lowering: "Lowering", node: Node, order: Index) -> dict[str, Any] | None:
    """The arguments of a convolution's epilogue, for a result whose channels lie as `order` says."""
    chain = lowering.chains.get(node)
    if chain is None:
        return {}
    found: dict[str, Any] = {"act": chain.act} if chain.act else {}
    if chain.residual is not None:
        value = lowering.value(chain.residual)
        if value is None or not value.packed or not np.array_equal(value.order, order):
            return None
        found |= {"residual": part_of(value), "residual_first": chain.residual_first}
    return found


def head_of(lowering: "Lowering", node: Node) -> Node:
    """The convolution or product a node's chain begins with."""
    chain = lowering.chains.get(node)
    return chain.members[0] if chain else node


def is_constant_or_none(value: Any) -> bool:
    return value is None or is_constant(value)
