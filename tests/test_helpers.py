"""The controls of the comparers that all other tests rely on: each must see what is wrong."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import TOLERANCE, Runner, assert_equal_numbers, assert_left_alone, assert_matches, captured, masked

WRONG: dict[str, Callable[[Tensor], object]] = {
    "one value": lambda x: x + (torch.arange(x.numel()).view(x.shape) == 3) * 10 * TOLERANCE[x.dtype] * x.abs().max(),
    "nan": lambda x: torch.where(x == x.max(), torch.nan, x),
    "shape": lambda x: x[None],
    "dtype": lambda x: x.to(torch.float16 if x.dtype != torch.float16 else torch.float32),
    "tree": lambda x: [x],
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_match(wrong: str, dtype: torch.dtype) -> None:
    x = torch.rand(3, 4).to(dtype)
    assert_matches({"a": x, "b": [x]}, {"a": x.clone(), "b": [x * (1 + TOLERANCE[dtype] / 2)]})
    with pytest.raises(AssertionError):
        assert_matches(WRONG[wrong](x), x)


def test_small_values_need_small_errors() -> None:
    """The tolerance is of the largest value, not of 1."""
    with pytest.raises(AssertionError):
        assert_matches(torch.full((3,), 2e-6), torch.full((3,), 1e-6))


def test_a_change_is_no_leaving_alone() -> None:
    def rename(module: torch.fx.GraphModule) -> int:
        next(iter(module.graph.nodes)).name = "other"
        return 0

    with pytest.raises(AssertionError):
        assert_left_alone(rename, captured(nn.ReLU(), (1, 3, 4, 4)))


def test_a_changed_graph_gives_other_numbers() -> None:
    """The graph is compared as a pass left it, not as it was captured."""
    model, x = nn.ReLU(), torch.randn(1, 3, 4, 4)
    module = captured(model, (1, 3, 4, 4))
    assert_equal_numbers(model, module, x)
    next(n for n in module.graph.nodes if n.op == "call_function").target = torch.ops.aten.sigmoid.default
    with pytest.raises(AssertionError):
        assert_equal_numbers(model, module, x)


def test_a_runner_keeps_caches() -> None:
    run, x = Runner(masked(nn.ReLU(), (1, 3, 4, 4))), torch.rand(1, 3, 4, 4)
    run(x)
    (cache,) = run.caches.values()
    assert torch.equal(cache, x)
