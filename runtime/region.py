"""A region of a plan: ops that no kernel knows, run by torch between the kernels' steps."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import ProgramError
from fluxcompile.geometry import from_rows, parse_layout, to_rows
from fluxcompile.program import Program, Step
from fluxcompile.runtime.frame import DTYPES

Array = npt.NDArray[Any]


class Region:
    """Ops that no kernel knows, computed whole by torch when anything they read changed."""

    def __init__(
        self,
        program: Program,
        step: Step,
        operands: list[Any],
        results: list[Any],
        misses: list[int],
        env: dict[str, Any],
    ) -> None:
        assert step.body is not None
        names = ", ".join(dict.fromkeys(op.op.split(".")[1] if "." in op.op else op.op for op in step.body.ops))
        try:
            from fluxcompile.runtime.execute import Executor, constants
        except ModuleNotFoundError as e:
            raise ProgramError(
                f"{step.path or 'this net'}: {names} has no kernel on the CPU and runs through torch, which this "
                "machine has not; pip install fluxcompile[compile]"
            ) from e
        self._run = Executor(step.body, constants(program))
        self._operands, self._results, self._misses, self._env = operands, results, misses, env
        self.layers = [op.layer for op in step.body.ops if op.layer >= 0]
        self.ran = True

    def run(self, plan: Any, fresh: bool) -> None:
        self.ran = fresh or any(plan.any(m) for m in self._misses)
        if not self.ran:
            return
        outputs, _ = self._run({o["name"]: self._read(o) for o in self._operands})
        for result, value in zip(self._results, outputs, strict=True):
            if "part" in result:
                rows = to_rows(value.numpy(), parse_layout(result["layout"]))
                part = result["part"]
                part.reshape(rows.shape)[:, result["order"]] = rows
            else:
                self._env[result["name"]] = value

    def _read(self, operand: dict[str, Any]) -> Any:
        import torch

        if "part" not in operand:
            return self._env[operand["name"]]
        part = operand["part"]
        rows = part.reshape(-1, part.shape[2])[:, operand["order"]]
        value = from_rows(rows, parse_layout(operand["layout"])).astype(DTYPES[operand.get("dtype", "f32")])
        return torch.from_numpy(np.ascontiguousarray(value))
