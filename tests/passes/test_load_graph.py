"""A graph that became plain data becomes the graph again."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxcompile import Frames, ProgramError, fluxcompile
from fluxcompile.ir import text
from fluxcompile.passes.emit_program import emit_graph
from fluxcompile.passes.load_graph import load_graph
from fluxcompile.program import Program
from fluxcompile.verify import verify
from tests.helpers import Do, assert_equal_numbers, captured, seeded

SHAPE = (1, 3, 8, 8)


def program_of(model: nn.Module) -> Program:
    constants: dict[str, Tensor] = {}
    graph = emit_graph(captured(model, SHAPE), constants)
    return Program({"dense": graph}, [], 0, constants={k: v.numpy() for k, v in constants.items()})


def everything(x: Tensor, conv: nn.Module, norm: nn.Module) -> Any:
    """Results of several tensors, infinities, types, constants."""
    a, b = conv(x).chunk(2, 1)
    padded = F.pad(a, (1, 1), value=-torch.inf).amax(3).to(torch.float64)
    return norm(b) + torch.arange(8, dtype=torch.float32), padded, x


def plain(lines: str) -> str:
    """Without what no program says: where a tensor lies, and how."""
    return re.sub(r", (device|layout)=[\w.]+", "", lines)


def test_the_same_graph_and_numbers() -> None:
    model = seeded(lambda: Do(everything, nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(2)))
    module = load_graph(program_of(model))
    verify(module, "captured", "load_graph")
    assert plain(text(module)) == plain(text(captured(model, SHAPE)))
    assert_equal_numbers(model, module, torch.rand(SHAPE))


def test_what_a_net_was_compiled_from() -> None:
    """Frames and layouts of inputs are known again."""
    net = fluxcompile(nn.Conv2d(3, 4, 3).eval(), torch.zeros(SHAPE), frames=Frames())
    module = load_graph(net.program)
    assert module.meta["frames_layout"] == "hwc"
    assert text(module).splitlines()[0].endswith("u8[8x8x3] = input")


def test_data_that_do_not_fit_are_refused() -> None:
    program = program_of(nn.Conv2d(3, 4, 3))
    program.graphs["dense"].ops[0].type = "f32[1x4x9x9]"
    with pytest.raises(ProgramError, match=r"gives f32\[1x4x6x6\], expected f32\[1x4x9x9\]"):
        load_graph(program)
    program.graphs["dense"].ops[0].op = "aten.no_such_op.default"
    with pytest.raises(ProgramError, match="no operator"):
        load_graph(program)
    del program.constants["bias"]
    with pytest.raises(ProgramError, match="does not fit"):
        load_graph(program)
