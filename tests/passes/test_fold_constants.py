"""What does not depend on the input is computed once."""

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.errors import CaptureError
from fluxcompile.ir import text
from fluxcompile.passes.fold_constants import fold_constants
from tests.helpers import Do, assert_equal_numbers, assert_left_alone, captured, state_of

X = torch.rand(1, 4, 6)


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(8, 3))
        self.register_buffer("index", torch.tensor([[0, 2, 4, 6, 1, 7]]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[self.index].permute(0, 2, 1).sum(1, keepdim=True)


def test_rewrites() -> None:
    model = Table()
    before = state_of(model)
    module = captured(model, (1, 4, 6))
    assert fold_constants(module) == 1
    assert_expected_inline(
        text(module),
        """\
%x: f32[1x4x6] = input
%add: f32[1x4x6] = aten.add(%x, @sum_1)
return [%add]""",
    )
    assert_equal_numbers(model, module, X)
    assert_left_alone(fold_constants, module)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


FOLDED = {
    "arange": lambda x: x + torch.arange(6),
    "several results": lambda x: x + torch.arange(12.0).chunk(2)[1],
    "used twice": lambda x: (x + torch.ones(6) * 2) * (torch.ones(6) * 2).sum(),
    "an output": lambda x: (x, torch.arange(6) + 1),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folds(name: str) -> None:
    model = Do(FOLDED[name])
    module = captured(model, (1, 4, 6))
    assert fold_constants(module) >= 1
    assert all(n.all_input_nodes for n in module.graph.nodes if n.op == "call_function")
    assert any(n.op == "get_attr" for n in module.graph.nodes)
    assert_equal_numbers(model, module, X)
    assert_left_alone(fold_constants, module)


def test_what_depends_on_the_input_is_left_alone() -> None:
    assert_left_alone(fold_constants, captured(nn.Linear(6, 3), (1, 4, 6)))


@pytest.mark.parametrize("draw", [lambda x: x + torch.rand(6), lambda x: x + F.dropout(torch.ones(6), 0.5, True)])
def test_random_numbers_are_refused(draw: object) -> None:
    with pytest.raises(CaptureError, match=r"parts|draws random numbers; make inference deterministic"):
        fold_constants(captured(Do(draw), (1, 4, 6)))  # type: ignore[arg-type]


def test_a_table_cast_to_the_type_of_a_value() -> None:
    """Only the type of the value is read (Ultralytics makes its anchors so)."""
    model = Do(lambda x: x + torch.arange(8).type_as(x))
    module = captured(model, (1, 3, 4, 8))
    assert fold_constants(module) == 1
    assert "aten.type_as" not in text(module)
    assert_equal_numbers(model, module, torch.rand(1, 3, 4, 8))
