"""ATen ops that compute over dimensions, in ONNX: a rule takes the writer and a call of the op it is named after."""

import math

from fluxcompile.errors import ExportError
from fluxcompile.passes import trt_moves, trt_pointwise
from fluxcompile.passes.trt_call import Call
from fluxcompile.passes.trt_pointwise import Rule, number
from fluxcompile.passes.trt_writer import BOOL, FLOAT, INT64, Value, Writer

# --- reductions and norms ---


def reduction(kind: str) -> Rule:
    def rule(w: Writer, call: Call) -> Value:
        x, dims = w.cast(call["self"], call.dtype), call.get("dim")
        axes = range(len(x.shape)) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
        return w.reduce(kind, x, list(axes), bool(call.get("keepdim")))

    return rule


def extreme(kind: str) -> Rule:
    def rule(w: Writer, call: Call) -> Value:
        if call["dim"] is None:
            raise ExportError(f"{call.where}: over all dimensions has no lowering; flatten first and give dim")
        keep = bool(call["keepdim"])
        return w.op(kind, call["self"], shape=call.shape, dtype=INT64, axis=call["dim"], keepdims=int(keep))

    return rule


def softmax(w: Writer, call: Call) -> Value:
    return w.op("Softmax", call["self"], axis=call["dim"])


def normalised(w: Writer, x: Value, axes: list[int], eps: float) -> Value:
    middle = w.broadcast("Sub", x, w.reduce("ReduceMean", x, axes, keepdims=True))
    variance = w.reduce("ReduceMean", w.broadcast("Mul", middle, middle), axes, keepdims=True)
    return w.broadcast("Div", middle, w.op("Sqrt", w.broadcast("Add", variance, number(w, eps, FLOAT))))


def scaled(w: Writer, x: Value, call: Call, shape: list[int] | None = None) -> Value:
    for name, kind in (("weight", "Mul"), ("bias", "Add")):
        if call[name] is not None:
            x = w.broadcast(kind, x, w.reshape(call[name], shape) if shape else call[name])
    return x


def layer_norm(w: Writer, call: Call) -> Value:
    x, last = call["input"], len(call["normalized_shape"])
    rank = len(x.shape)
    return scaled(w, normalised(w, x, list(range(rank - last, rank)), call["eps"]), call)


def group_norm(w: Writer, call: Call) -> Value:
    x, groups = call["input"], call["num_groups"]
    n, c, *rest = x.shape
    split = w.reshape(x, [0, groups, -1], [n, groups, c // groups * math.prod(rest)])
    back = w.reshape(normalised(w, split, [2], call["eps"]), [0, c, *rest], x.shape)
    return scaled(w, back, call, [c, *[1] * len(rest)])


def batch_norm(w: Writer, call: Call) -> Value:
    x = call["input"]
    line = [x.shape[1], *[1] * (len(x.shape) - 2)]
    mean, variance = (w.reshape(call[name], line) for name in ("running_mean", "running_var"))
    spread = w.op("Sqrt", w.broadcast("Add", variance, number(w, call["eps"], FLOAT)))
    return scaled(w, w.broadcast("Div", w.broadcast("Sub", x, mean), spread), call, line)


# --- products ---


def linear(w: Writer, call: Call) -> Value:
    x = call["input"]
    y = w.op("MatMul", x, w.transposed_constant(call["weight"]), shape=call.shape)
    return y if call["bias"] is None else w.broadcast("Add", y, call["bias"])


def matmul(w: Writer, call: Call) -> Value:
    return w.op("MatMul", call["self"], call["other" if "other" in call else "mat2"], shape=call.shape)


def einsum(w: Writer, call: Call) -> Value:
    equation = call["equation"].replace(" ", "")
    return w.op("Einsum", *call["tensors"], shape=call.shape, equation=equation)


def attention(w: Writer, call: Call) -> Value:
    q, k, v = call["query"], call["key"], call["value"]
    if call["is_causal"]:
        raise ExportError(f"{call.where}: causal attention has no lowering; give the mask as a tensor")
    scale = call["scale"] if call["scale"] is not None else 1 / math.sqrt(q.shape[-1])
    rank = len(k.shape)
    turned = w.transpose(k, [*range(rank - 2), rank - 1, rank - 2])
    asked = w.broadcast("Mul", q, number(w, scale, FLOAT)) if scale != 1 else q
    score = w.op("MatMul", asked, turned, shape=[*call.shape[:-1], k.shape[-2]])
    mask = call["attn_mask"]
    if mask is not None and mask.dtype == BOOL:
        score = w.broadcast("Where", mask, score, number(w, -math.inf, FLOAT))
    elif mask is not None:
        score = w.broadcast("Add", score, mask)
    return w.op("MatMul", w.op("Softmax", score, axis=-1), v, shape=call.shape)


RULES: dict[str, Rule] = {
    **trt_moves.RULES,
    **trt_pointwise.RULES,
    "mean": reduction("ReduceMean"),
    "sum": reduction("ReduceSum"),
    "amax": reduction("ReduceMax"),
    "amin": reduction("ReduceMin"),
    "argmax": extreme("ArgMax"),
    "argmin": extreme("ArgMin"),
    "softmax": softmax,
    "_softmax": softmax,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "batch_norm": batch_norm,
    "linear": linear,
    "matmul": matmul,
    "bmm": matmul,
    "mm": matmul,
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
}
