"""Drop ops that give back what they got.

    %d = aten.dropout(%x, p=0.1, train=False)
    %y = aten.relu(%d)
 ->
    %y = aten.relu(%x)

Also contiguous, clone, alias, detach, a cast to the type it already is, a reshape to the same shape, a pad or roll by
nothing, a whole slice, and assertions about metadata (they were true when the model was captured). A view becomes a
reshape: the order of memory is not the graph's business, and the copy that made the view possible may be gone.
"""

import torch
from torch.fx import GraphModule, Node

from fluxcompile.ir import argument, op_name

aten = torch.ops.aten

ALWAYS = {"contiguous", "clone", "alias", "detach", "lift_fresh", "lift_fresh_copy", "identity", "detach_copy"}
IF_SAME_TYPE = {"to", "_to_copy", "type_as", "float"}
IF_SAME_SHAPE = {"view", "_unsafe_view", "reshape", "flatten", "unflatten", "expand", "expand_as", "reshape_as",
                 "view_as", "squeeze", "slice"}  # fmt: skip


def drop_identities(module: GraphModule) -> int:
    count = 0
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        if op_name(node.target).removeprefix("aten.") == "_assert_tensor_metadata":
            module.graph.erase_node(node)
            count += 1
            continue
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
            node.args = (node.args[0], list(node.meta["val"].shape))
            node.kwargs = {}
            count += 1
        if _is_identity(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
            count += 1
    return count


def _is_identity(node: Node) -> bool:
    name = op_name(node.target).removeprefix("aten.")
    source = node.args[0] if node.args else None
    if not isinstance(source, Node) or not isinstance(source.meta.get("val"), torch.Tensor):
        return False
    was, now = source.meta["val"], node.meta["val"]
    if name in ALWAYS:
        return True
    if name in ("dropout", "feature_dropout", "alpha_dropout"):
        return not argument(node, "train")
    if not isinstance(now, torch.Tensor) or was.shape != now.shape or was.dtype != now.dtype:
        return False
    if name in ("pad", "constant_pad_nd"):
        return not any(argument(node, "pad"))
    if name == "roll":
        return not any(argument(node, "shifts"))
    return name in IF_SAME_TYPE or name in IF_SAME_SHAPE
