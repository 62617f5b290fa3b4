"""A page in headless Chromium, driven over its own debugging protocol."""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--remote-debugging-port=0",
)  # fmt: skip


def need_browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


class Page:
    """One tab. `errors` are what its console complained of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self.errors: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive(timeout=20)).data)
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])

    async def value(self, expression: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    async def until(self, expression: str, timeout_s: float = 20.0) -> Any:
        """What the expression gives as soon as it is true."""
        async with asyncio.timeout(timeout_s):
            while not (found := await self.value(expression)):
                await asyncio.sleep(0.1)
        return found

    async def screenshot(self, path: Path) -> None:
        found = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.asynccontextmanager
async def opened(url: str, folder: Path, width: int = 1150, height: int = 950) -> AsyncIterator[Page]:
    """The page at an address, in a browser of its own."""
    command = [need_browser(), *FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"]
    browser = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert browser.stderr is not None
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            port = ""
            while not port:
                line = (await browser.stderr.readline()).decode()
                assert line, "the browser ended before it listened"
                if "DevTools listening on" in line:
                    port = line.split(":")[2].split("/")[0]
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(tab for tab in await answer.json() if tab["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                await page.call("Runtime.enable")
                await page.call("Page.navigate", url=url)
                async with asyncio.timeout(None):
                    yield page
    finally:
        browser.kill()
        await browser.wait()
