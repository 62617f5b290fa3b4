"""Tasks that run beside others."""

import asyncio
import contextlib
from typing import Any


async def end(task: "asyncio.Future[Any]") -> None:
    """Cancel it, and wait until it is gone."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
