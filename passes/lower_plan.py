"""Lower a net to a plan for the CPU: a list of kernels and masks over buffers of rows (see `program.Plan`).

    %conv2d = aten.conv2d(%x, @w, @b, stride=[2, 2], padding=[1, 1])     # misses: %miss_conv2d
    %silu = aten.silu(%conv2d)                                           # misses: %miss_conv2d
 ->
    m1 = window(m0, reads_y=@reads_32x3, reads_x=@reads_32x3, size=[64, 64])
    b1[0:32x32, 0:16] = conv2d(b0[0:64x64, 0:3], weight=@w, bias=@b, act=silu) rows m1

Reads the graph as `insert_misses` leaves it: every value still one op, with its mask. Gathers and scatters would be
pointer arithmetic here, so none is inserted; a value's buffer is its cache, recomputed in place in the rows that miss.
Reshapes, splits and concatenations are views (`plan_values`), activations and residuals go into the epilogue of the
convolution before. Left alone: an op no kernel knows. Runs of such ops become regions that torch computes whole when
anything they read changed.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fluxcompile.geometry import free_shape, has_rows, to_rows
from fluxcompile.ir import constant_value, inputs, op_name, output, shape
from fluxcompile.ops import flux
from fluxcompile.passes.emit_program import emit_op, plain_argument
from fluxcompile.passes.flow import domain, has_domain, layout
from fluxcompile.passes.plan_chains import find_chains
from fluxcompile.passes.plan_convolution import CONVOLUTIONS
from fluxcompile.passes.plan_masks import Masks
from fluxcompile.passes.plan_moves import MOVES
from fluxcompile.passes.plan_pointwise import POINTWISE
from fluxcompile.passes.plan_rolls import find_rolls
from fluxcompile.passes.plan_rows import ROWS
from fluxcompile.passes.plan_values import Part, Storage, Value, fresh, part_of, size_of
from fluxcompile.passes.plan_windows import WINDOWS
from fluxcompile.program import Graph, Input, Plan, Step

Rule = Callable[["Lowering", Node], "Value | None"]
RULES: dict[str, Rule] = {**CONVOLUTIONS, **WINDOWS, **ROWS, **MOVES, **POINTWISE}
DTYPES = {torch.float32: "f32", torch.uint8: "u8"}
"""What a buffer may hold."""
IDENTITY = (torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default)


def lower_plan(module: GraphModule, constants: dict[str, Tensor], attention: str = "exact") -> Plan | None:
    """The plan of a graph with masks; the constants it names are added to `constants`.

    None for a net whose inputs the kernels cannot read: neither float32 nor uint8.
    """
    images = inputs(module)
    if any(n.meta["val"].dtype not in DTYPES or not has_rows(layout(n)) for n in images):
        return None
    return Lowering(module, constants, attention).run()


class Lowering:
    """The plan as it grows, and what is known of the graph's values."""

    def __init__(self, module: GraphModule, constants: dict[str, Tensor], attention: str = "exact") -> None:
        self.module, self.constants, self.attention = module, constants, attention
        self.plan = Plan()
        self.masks = Masks(self)
        self.values: dict[Node, Value] = {}
        self.chains = find_chains(module)
        self.absorbed = {n for c in self.chains.values() for n in c.members if n is not c.last}
        self.region: list[Node] = []
        self.outside: set[Node] = set()
        """What regions compute or will."""

    def run(self) -> Plan:
        for node in inputs(self.module):
            self._input(node)
        for node in self.module.graph.nodes:
            if (
                node.op == "call_function"
                and has_domain(node)
                and node not in self.values
                and node not in self.absorbed
            ):
                self._lower(node)
        self._end_region()
        (results,) = output(self.module).args[:1]
        for i, node in enumerate(results):  # type: ignore[arg-type]
            self._output(i, node)
        self._bind()
        return self.plan

    # --- what rules call ---

    def step(self, op: str, *, node: Node | None = None, mask: int = -1, changed: int = -1, **args: Any) -> None:
        path, layer = (node.meta.get("path", ""), node.meta.get("layer", -1)) if node else ("", -1)
        self.plan.steps.append(Step(op, args, mask, changed, layer, path))

    def compute(
        self, op: str, node: Node, out: Value, *, gated: bool = True, source: Node | None = None, **args: Any
    ) -> Value:
        """Add the step that computes a node's value in the rows that miss; `source` names the layer it is."""
        changed = self._changed(node) if gated else -1
        self.step(
            op, node=source or node, mask=self.masks.of(node.meta["miss"]), changed=changed, out=part_of(out), **args
        )
        return out

    def constant(self, value: Tensor, name: str) -> str:
        """The name of a constant of the plan; equal ones of one name are shared."""
        name, n = f"plan.{name}", 0
        target = name
        while target in self.constants:
            old = self.constants[target]
            if old.dtype == value.dtype and old.shape == value.shape and torch.equal(old, value):
                return target
            n += 1
            target = f"{name}.{n}"
        self.constants[target] = value.contiguous()
        return target

    def weight(self, node: Node | None) -> dict[str, str] | None:
        """A constant of the graph as an argument."""
        if node is None:
            return None
        self.constants[str(node.target)] = constant_value(self.module, node)
        return {"@": str(node.target)}

    def tensor(self, node: Node) -> Tensor:
        return constant_value(self.module, node)

    def value(self, node: Any) -> Value | None:
        """A value that lies in a buffer, None for one that only torch holds or a constant."""
        return self.values.get(node)

    def copied(self, node: Node, source: Value, order: "np.ndarray[Any, Any] | None" = None) -> Value:
        """The value with its channels packed, in the order of its free dimensions or as `order` (channel of each) says.

        node: whose value it is, and so which rows change.
        """
        shape_ = free_shape(source.layout)
        order = np.arange(source.channels) if order is None else order
        out = Value(Storage(source.rows, source.channels), source.layout, order.reshape(shape_))
        table = np.empty(source.channels, dtype=np.int64)
        table[order] = source.index.reshape(-1)
        low = int(table.min())
        mask = self.masks.of(node.meta.get("changed", node.meta["miss"]))
        self.gather(mask, out, source, (table - low)[None], relative=True, low=low, width=int(table.max()) - low + 1)
        return out

    def gathered(self, node: Node, out: Value, source: Value, table: "np.ndarray[Any, Any]", fill: float) -> Value:
        """Rows made of pieces of other rows.

        table (rows, channels): positions row * channels + channel, -1 for `fill`.
        """
        mask = self.masks.of(node.meta["miss"])
        width = int(source.index.max()) - source.start + 1
        self.gather(mask, out, source, table, relative=False, low=source.start, width=width, fill=fill)
        return out

    def gather(
        self,
        mask: int,
        out: Value,
        source: Value,
        table: "np.ndarray[Any, Any]",
        *,
        relative: bool,
        low: int,
        width: int,
        fill: float = 0.0,
    ) -> None:
        """The step that copies pieces of rows; `low` and `width` are the channels of the source it may read."""
        length = _run_length(table, width)
        pieces = torch.from_numpy(np.ascontiguousarray(table[:, ::length]).astype(np.int32))
        name = self.constant(pieces, f"gather_{table.shape[0]}")
        seen = Part(source.storage, source.first, *size_of(source.layout), low, width)
        self.step("gather", mask=mask, out=part_of(out), x=seen, table={"@": name}, relative=relative, fill=fill)

    def rows_of(self, value: Value, rows: int) -> Part:
        """The first rows of a packed value as a column."""
        return Part(value.storage, value.first, rows, 1, value.start, value.channels)

    def copy_rows(self, node: Node, source: Value, to: Part, order: "np.ndarray[Any, Any]") -> None:
        """The rows of a node's value that changed, into the rows of `to`, channels in the given order."""
        mask = self.masks.of(node.meta.get("changed", node.meta["miss"]))
        if not source.packed or not np.array_equal(source.order, order):
            source = self.copied(node, source, order)
        self.step("pointwise", mask=mask, out=to, x=self.rows_of(source, source.rows), terms=[])

    # --- nodes ---

    def _lower(self, node: Node) -> None:
        if domain(node).parts:  # its parts are lowered, by what made them
            return
        found = None
        if has_rows(layout(node)):
            found = self._found(node)
        if found is not None:
            self.values[node] = found
            return
        chain = self.chains.pop(node, None)
        for member in chain.members if chain else [node]:
            maker: Any = member.args[0] if member.target is operator.getitem else member
            if maker not in self.outside:
                self.region.append(maker)
            if member is not maker:
                self.region.append(member)
            self.outside |= {maker, member}

    def _found(self, node: Node) -> Value | None:
        if node.target is operator.getitem:
            maker: Any = node.args[0]
            rule = RULES.get(op_name(maker.target).removeprefix("aten."))
        elif node in self.chains:
            rule = RULES.get(op_name(self.chains[node].members[0].target).removeprefix("aten."))
        elif node.target in IDENTITY:
            rule = _same
        else:
            rule = RULES.get(op_name(node.target).removeprefix("aten.").removeprefix("flux."))
        moves = rule in MOVES.values()  # of any type: the pixels of a frame, say, which lie in their buffer as floats
        if rule is None or not (moves or node.meta["val"].dtype == torch.float32) or self._needs_region(node):
            return None
        mark = len(self.plan.steps), len(self.plan.masks)
        found = rule(self, node)
        if found is None:  # steps it added before it gave up
            del self.plan.steps[mark[0] :]
            self.masks.forget(mark[1])
        return found

    def _needs_region(self, node: Node) -> bool:
        """An operand that no buffer holds."""
        members = self.chains[node].members if node in self.chains else [node]
        reads = {n for m in members for n in m.all_input_nodes if n not in members and n.op != "get_attr"}
        if node.target is operator.getitem:
            reads = set(node.args[0].all_input_nodes)  # type: ignore[union-attr]
            reads = {n for n in reads if n.op != "get_attr"}
        pending = {n for n in self.region if n in reads}
        if any(n not in self.values and not (n in pending and _fits(n)) for n in reads if has_domain(n)):
            return True
        if pending:
            self._end_region()
        return False

    def _changed(self, node: Node) -> int:
        gate = node.meta.get("changed")
        if gate is None:
            return -1
        self.masks.known[gate] = self.masks.new(gate.meta["val"].shape[0])
        return self.masks.known[gate]

    def _input(self, node: Node) -> None:
        reference = next(n for n in node.users if n.target is flux.merge.default)
        dtype = node.meta["val"].dtype
        self.masks.known[node.meta["miss"]] = mask = self.masks.new(layout(node).rows)
        value = fresh(layout(node), fixed=True)
        size = shape(node)
        rows = to_rows(np.arange(int(np.prod(size))).reshape(size), value.layout)
        flat = np.arange(rows.size)
        planar = not layout(node).is_global and np.array_equal(rows.T.reshape(-1), flat)
        args: dict[str, Any] = {"planar": planar, "dtype": DTYPES[dtype], "name": node.name}
        if not planar and not np.array_equal(rows.reshape(-1), flat):
            args["layout"] = str(value.layout)  # its places lie between its channels
        self.step("input", mask=mask, out=part_of(value), **args)
        self.values[reference] = value

    def _output(self, index: int, node: Any) -> None:
        value = self.values.get(node) if isinstance(node, Node) else None
        if value is None:
            self.step("result", index=index, value=plain_argument(self.module, node, self.constants))
            return
        size = shape(node)
        flat = to_rows(np.arange(int(np.prod(size))).reshape(size), value.layout)
        channels = np.empty(value.channels, dtype=np.int64)
        if not value.packed:
            value = self.copied(node, value)
        channels[value.order] = flat[0] - flat[0, 0]
        places = {"row_at": flat[:, 0], "channel_at": channels}
        args: dict[str, Any] = {
            k: {"@": self.constant(torch.from_numpy(np.ascontiguousarray(v)), k)} for k, v in places.items()
        }
        miss = node.meta.get("changed", node.meta["miss"])
        mask = (
            self.masks.of(miss)
            if value.rows == layout(node).rows
            else self.masks.seen(miss, layout(node), value.layout)
        )
        self.step("output", mask=mask, x=part_of(value), index=index, shape=list(size), **(args | _dtype_of(node)))

    # --- regions ---

    def _end_region(self) -> None:
        """Close the run of ops that torch computes: the next op reads from it, or the graph ends."""
        if not self.region:
            return
        nodes, self.region = self.region, []
        inside = set(nodes)
        reads = list(
            dict.fromkeys(n for m in nodes for n in m.all_input_nodes if n not in inside and n.op != "get_attr")
        )
        writes = [n for n in nodes if any(u not in inside for u in n.users)]
        operands, results = [], []
        for n in reads:
            operands.append(self._crossing(n))
        for n in writes:
            if _fits(n):
                self.values[n] = fresh(layout(n), fixed=True)
            results.append(self._crossing(n))
        body = Graph(
            [Input(n.name, "input", "f32", []) for n in reads],
            [emit_op(self.module, n, self.constants) for n in nodes],
            [{"%": n.name} for n in writes],
        )
        watched = list(dict.fromkeys(m for n in writes for m in _miss_of(n)))
        masks = [{"mask": self.masks.of(m)} for m in watched]
        self.plan.steps.append(
            Step(
                "region",
                {"operands": operands, "results": results, "misses": masks},
                path=nodes[0].meta.get("path", ""),
                body=body,
            )
        )

    def _crossing(self, node: Node) -> dict[str, Any]:
        """A value between buffers and torch: its name and, where a buffer holds it, its part, layout and order."""
        value = self.values.get(node)
        if value is None:
            return {"name": node.name}
        if not value.packed:
            value = self.copied(node, value)
        at = {"name": node.name, "shape": list(shape(node)), "layout": str(value.layout)}
        return {
            **at,
            "part": part_of(value),
            "order": {"@": self.constant(torch.from_numpy(value.order.copy()), "order")},
            **_dtype_of(node),
        }

    # --- the end ---

    def _bind(self) -> None:
        """Give every storage its place now that all are known."""
        buffers: dict[Storage, int] = {}
        storages: dict[Storage, None] = {}

        def number(part: Part) -> dict[str, Any]:
            root = part.storage.root()[0]
            storages[part.storage] = storages[root] = None
            if root not in buffers:
                buffers[root] = len(buffers)
                self.plan.buffers.append((root.rows, root.channels))
            return part.plain(buffers)

        def plain(value: Any) -> Any:
            if isinstance(value, Part):
                return number(value)
            if isinstance(value, list | tuple):
                return [plain(v) for v in value]
            if isinstance(value, float) and not math.isfinite(value):
                return {"float": str(value)}  # JSON has no word for it
            return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value

        for step in self.plan.steps:
            step.args = plain(step.args)
        seen = []
        for storage in storages:
            root, row, _ = storage.root()
            seen += [(buffers[root], row + first, at) for first, at in storage.seen]
        self.plan.rolls = find_rolls(self.plan, seen, self.constants)


def _same(lowering: Lowering, node: Node) -> Value | None:
    (source,) = (n for n in node.all_input_nodes if has_domain(n))
    value = lowering.value(source)
    return Value(value.storage, layout(node), value.index, value.first) if value else None


def _fits(node: Node) -> bool:
    """Whether what a region gives can lie in a buffer."""
    if not has_domain(node) or domain(node).parts or node.meta["val"].dtype != torch.float32:
        return False
    return has_rows(layout(node))


def _dtype_of(node: Node) -> dict[str, str]:
    """The type of a value that its buffer holds as float32: bytes of a frame that were only moved."""
    dtype = node.meta["val"].dtype
    return {} if dtype == torch.float32 else {"dtype": DTYPES[dtype]}


def _miss_of(node: Node) -> list[Node]:
    found = node.meta["miss"]
    return list(found) if isinstance(found, list) else [found]


def _run_length(table: "np.ndarray[Any, Any]", width: int) -> int:
    """How many channels at a time a table copies: the longest length that divides every run within rows of `width`."""
    channels = table.shape[1]
    for length in range(min(channels, width), 1, -1):
        if channels % length:
            continue
        runs = table.reshape(table.shape[0], -1, length)
        first = runs[:, :, :1]
        whole = (runs == first + np.arange(length)).all(2, keepdims=True) & (first % width + length <= width)
        if np.where(first < 0, (runs < 0).all(2, keepdims=True), whole).all():
            return length
    return 1
