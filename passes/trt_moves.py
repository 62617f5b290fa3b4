"""ATen ops that only move data, in ONNX: a rule takes the writer and a call of the op it is named after.

The length of a list of tiles or rows is not known, so that shapes keep dimensions (0) wherever they can.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fluxcompile.errors import ExportError
from fluxcompile.passes.trt_call import Call
from fluxcompile.passes.trt_writer import BOOL, NUMPY, Value, Writer


def reshaped(w: Writer, call: Call) -> Value:
    """As the program says, -1 and all."""
    asked = next(call[name] for name in ("shape", "size") if name in call)
    return w.reshape(call["self"], asked, call.shape)


def joined(w: Writer, call: Call) -> Value:
    """flatten, unflatten, squeeze, unsqueeze: dimensions before the change are kept, one in it is left open."""
    x, out = call["self"], call.shape
    kept = 0
    while kept < min(len(x.shape), len(out)) and x.shape[kept] == out[kept]:
        kept += 1
    tail = list(out[kept:])
    if tail and "dim" not in call:  # flatten
        tail[0] = -1
    return w.reshape(x, [0] * kept + tail, out)


def squeezed(w: Writer, call: Call) -> Value:
    x = call["self"]
    dims = call["dim"] if "dim" in call else range(len(x.shape))
    listed = [d % len(x.shape) for d in ([dims] if isinstance(dims, int) else dims)]
    axes = [d for d in listed if x.shape[d] == 1]
    return w.op("Squeeze", x, w.ints(axes), shape=call.shape) if axes else x


def unsqueezed(w: Writer, call: Call) -> Value:
    return w.unsqueeze(call["self"], [call["dim"] % (len(call["self"].shape) + 1)])


def permuted(w: Writer, call: Call) -> Value:
    rank = len(call["self"].shape)
    return w.transpose(call["self"], [d % rank for d in call["dims"]])


def swapped(w: Writer, call: Call) -> Value:
    rank = len(call["self"].shape)
    a, b = (d % rank for d in ((call["dim0"], call["dim1"]) if "dim0" in call else (-2, -1)))
    order = list(range(rank))
    order[a], order[b] = b, a
    return w.transpose(call["self"], order)


def movedim(w: Writer, call: Call) -> Value:
    rank = len(call["self"].shape)
    sources, places = ([v] if isinstance(v, int) else v for v in (call["source"], call["destination"]))
    order = [i for i in range(rank) if i not in [s % rank for s in sources]]
    for place, source in sorted((p % rank, s % rank) for p, s in zip(places, sources, strict=True)):
        order.insert(place, source)
    return w.transpose(call["self"], order)


def expanded(w: Writer, call: Call) -> Value:
    x = call["self"]
    asked = [1 if n == -1 else n for n in call["size"]]  # Expand keeps what it is told to make 1
    return w.op("Expand", x, w.ints(asked), shape=call.shape) if x.shape != call.shape else x


def repeated(w: Writer, call: Call) -> Value:
    x, repeats = call["self"], call["repeats"]
    x = w.reshape(x, [1] * (len(repeats) - len(x.shape)) + list(x.shape))
    return w.op("Tile", x, w.ints(repeats), shape=call.shape)


def sliced(w: Writer, call: Call) -> Value:
    x, dim = call["self"], call["dim"] % len(call["self"].shape)
    start, end = call["start"] or 0, call["end"]
    return w.slice(x, dim, start, np.iinfo(np.int64).max if end is None else end, call["step"])


def selected(w: Writer, call: Call) -> Value:
    x, dim = call["self"], call["dim"] % len(call["self"].shape)
    return w.gather(x, w.constant(np.int64(call["index"] % x.shape[dim])), dim)


def narrowed(w: Writer, call: Call) -> Value:
    return w.slice(call["self"], call["dim"] % len(call["self"].shape), call["start"], call["start"] + call["length"])


def split(w: Writer, call: Call) -> list[Value]:
    """split, split_with_sizes and chunk: the sizes are those of the results."""
    x, dim, found, start = call["self"], call["dim"] % len(call["self"].shape), [], 0
    for _, shape in call.types:
        found.append(w.slice(x, dim, start, start + shape[dim]))
        start += shape[dim]
    return found


def unbound(w: Writer, call: Call) -> list[Value]:
    x, dim = call["self"], call["dim"] % len(call["self"].shape)
    return [w.gather(x, w.constant(np.int64(i)), dim) for i in range(x.shape[dim])]


def concatenated(w: Writer, call: Call) -> Value:
    parts = [w.cast(p, call.dtype) for p in call["tensors"] if p.shape != (0,)]
    return w.concat(parts, call["dim"])


def stacked(w: Writer, call: Call) -> Value:
    dim = call["dim"] % len(call.shape)
    return w.concat([w.unsqueeze(p, [dim]) for p in call["tensors"]], dim)


def index_selected(w: Writer, call: Call) -> Value:
    x, index = call["self"], call["index"]
    dim = call["dim"] % len(x.shape)
    if w.capacity is not None:  # a list that is not full points past the end
        index = w.broadcast("Min", index, w.constant(np.array(x.shape[dim] - 1, np.int32)))
    return w.gather(x, index, dim)


def rolled(w: Writer, call: Call) -> Value:
    x: Value = call["self"]
    for shift, dim in zip(call["shifts"], call["dims"], strict=True):
        n = x.shape[dim]
        cut = n - shift % n
        if cut != n:
            x = w.concat([w.slice(x, dim % len(x.shape), cut, n), w.slice(x, dim % len(x.shape), 0, cut)], dim)
    return x


def flipped(w: Writer, call: Call) -> Value:
    x: Value = call["self"]
    for dim in call["dims"]:
        x = w.gather(x, w.constant(np.arange(x.shape[dim])[::-1].copy()), dim % len(x.shape))
    return x


def pixel_shuffle(w: Writer, call: Call) -> Value:
    x = call["self"]
    return w.op("DepthToSpace", x, shape=call.shape, blocksize=call["upscale_factor"], mode="CRD")


def pixel_unshuffle(w: Writer, call: Call) -> Value:
    r, (_, c, h, width) = call["downscale_factor"], call["self"].shape
    x = w.reshape(call["self"], [-1, c, h // r, r, width // r, r], [call.shape[0], c, h // r, r, width // r, r])
    x = w.transpose(x, [0, 1, 3, 5, 2, 4])
    return w.reshape(x, [0, *call.shape[1:]], call.shape)


def padded(w: Writer, call: Call) -> Value:
    x = call["self"]
    pads = np.zeros((2, len(x.shape)), np.int64)
    for i, (before, after) in enumerate(zip(call["pad"][::2], call["pad"][1::2], strict=True)):
        pads[:, len(x.shape) - 1 - i] = before, after
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}.get(call["mode"])
    if mode is None:
        raise ExportError(f"{call.where}: pads in mode {call['mode']}; TensorRT knows constant, reflect and replicate")
    fill = w.constant(np.float32(call["value"] or 0)) if mode == "constant" else None
    operands = [w.ints(pads.reshape(-1).tolist()), *([w.cast(fill, x.dtype)] if fill else [])]
    return w.op("Pad", x, *operands, shape=call.shape, mode=mode)


def same(w: Writer, call: Call) -> Value:
    x: Value = call["self"]
    return x


def converted(w: Writer, call: Call) -> Value:
    return w.cast(call["self"], call.dtype)


def filled(w: Writer, call: Call) -> Value:
    """zeros, full and their like: a constant."""
    return w.constant(np.full(call.shape, call.get("fill_value", 0), NUMPY[call.dtype]))


def any_of(w: Writer, call: Call) -> Value:
    x = w.cast(call["self"], BOOL)
    dims: Sequence[int] = range(len(x.shape)) if "dim" not in call else [call["dim"]]
    return w.any(x, list(dims))


RULES: dict[str, Callable[[Writer, Call], Value | list[Value]]] = {
    "reshape": reshaped,
    "view": reshaped,
    "_unsafe_view": reshaped,
    "flatten": joined,
    "unflatten": joined,
    "squeeze": squeezed,
    "unsqueeze": unsqueezed,
    "permute": permuted,
    "transpose": swapped,
    "t": swapped,
    "mT": swapped,
    "numpy_T": swapped,
    "movedim": movedim,
    "expand": expanded,
    "repeat": repeated,
    "slice": sliced,
    "select": selected,
    "narrow": narrowed,
    "split": split,
    "split_with_sizes": split,
    "chunk": split,
    "unbind": unbound,
    "cat": concatenated,
    "concat": concatenated,
    "stack": stacked,
    "index_select": index_selected,
    "roll": rolled,
    "flip": flipped,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "pad": padded,
    "clone": same,
    "contiguous": same,
    "detach": same,
    "alias": same,
    "dropout": same,
    "to": converted,
    "_to_copy": converted,
    "type_as": converted,
    "zeros": filled,
    "zeros_like": filled,
    "full": filled,
    "new_zeros": filled,
    "any": any_of,
}
