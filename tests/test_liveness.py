"""The memory that values take: types in text form, views, and what lives at once."""

import torch

from fluxcompile import fluxcompile
from fluxcompile.liveness import activation_bytes, type_bytes


def test_type_bytes() -> None:
    assert type_bytes("f32[1x16x8x8]") == 4096
    assert type_bytes("i64[]") == 8
    assert type_bytes("(f32[2x3], b8[4])") == 28


def test_what_lives_at_once() -> None:
    """Three maps of 4 KiB in a row, of which two live at once; a view of one takes nothing and keeps it alive."""

    class Chain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ((x + 1) * 2).relu()

    class Held(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = x + 1
            view = first.flatten(1)
            return ((first * 2).relu().flatten(1) - 3) * view

    example = torch.zeros(1, 1, 32, 32)
    assert activation_bytes(fluxcompile(Chain().eval(), example).program.graphs["dense"]) == (8192, 12288)
    assert activation_bytes(fluxcompile(Held().eval(), example).program.graphs["dense"]) == (12288, 20480)


def test_a_part_of_what_an_op_gives_keeps_all_of_it() -> None:
    """Two halves of what one op gave, 2 KiB each: all of it lives until the later half was read."""

    class Halves(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            early, late = x.split(1, dim=1)
            return early.relu() + late

    graph = fluxcompile(Halves().eval(), torch.zeros(1, 2, 16, 32)).program.graphs["dense"]
    assert [op.op for op in graph.ops].count("getitem") == 2
    assert activation_bytes(graph, views=("getitem",)) == (8192, 8192)
    assert activation_bytes(graph, views=()) == (8192, 12288)  # each half beside the whole
