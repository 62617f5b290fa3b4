"""A page that shows a live run: what the camera sees and what cloud sees, each answer's latency, place and price.

One page, served by the camera's own process; numbers come as server-sent events, pictures with some of them. It asks
nothing of any other network.
"""

import asyncio
import base64
import html
import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from fluxcompile.panels import jpeg
from fluxcompile.play import boxes_in
from fluxcompile.runtime.cut_edge import CutEdge
from fluxcompile.runtime.edge import Answer, Edge
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.overlay import Seen, tinted

PICTURE_EVERY_S = 0.15
"""Between two pictures; numbers come with every answer."""
KEPT = 300
"""Answers that a page which is opened later is shown."""
MOST_WAITING = 50
"""Events that a page which does not read may leave; then it is closed."""


class LivePage:
    """The page of one edge. `show` is called with every answer, from the event loop."""

    def __init__(self, edge: Edge | CutEdge, title: str) -> None:
        self._edge, self._title = edge, title
        self._kept: deque[str] = deque(maxlen=KEPT)
        self._readers: set[asyncio.Queue[str]] = set()
        self._pictured_s = 0.0
        self._runner: Any = None

    async def start(self, host: str, port: int) -> int:
        """Serve; the port, which is another where 0 was asked for."""
        from aiohttp import web

        page = (Path(__file__).parent / "live.html").read_text().replace("{{ title }}", html.escape(self._title))

        async def index(request: web.Request) -> web.Response:
            return web.Response(text=page, content_type="text/html")

        application = web.Application()
        application.add_routes([web.get("/", index), web.get("/events", self._events)])
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        for reader in self._readers:
            reader.put_nowait("")
        if self._runner is not None:
            await self._runner.cleanup()

    def show(self, picture: Image, answer: Answer) -> None:
        """The next answer, and now and then its picture."""
        numbers = self._numbers(answer)
        self._kept.append(json.dumps(numbers))
        now_s = asyncio.get_running_loop().time()
        if self._readers and now_s - self._pictured_s >= PICTURE_EVERY_S:
            self._pictured_s = now_s
            numbers |= {"camera": _data(self._annotated(picture, answer))}
            view = None if self._edge.proxy is None else self._edge.proxy.coder.view
            if view is not None:
                numbers["cloud"] = _data(view)
        event = json.dumps(numbers)
        for reader in list(self._readers):
            if reader.qsize() < MOST_WAITING:
                reader.put_nowait(event)
            else:
                self._readers.discard(reader)

    def _numbers(self, answer: Answer) -> dict[str, Any]:
        link = None if self._edge.proxy is None else self._edge.proxy.link
        now_ms = self._edge.device.now_ms()
        mbps = link.estimate.seen(now_ms).mbps if link else None
        return {
            "seq": answer.seq,
            "place": answer.place,
            "fallback": answer.fallback,
            "latency_ms": round(answer.latency_ms, 2),
            "estimates": {place: round(ms, 2) for place, ms in answer.estimates.items()},
            "hit_ratio": round(answer.hit_ratio, 4),
            "work_share": round(answer.work_share, 4),
            "sent_bytes": answer.sent_bytes,
            "connected": bool(link and link.opened.is_set()),
            "rtt_ms": round(link.estimate.rtt_ms, 2) if link else None,
            "mbps": None if mbps is None or not np.isfinite(mbps) else round(mbps, 2),
        }

    def _annotated(self, picture: Image, answer: Answer) -> Image:
        """The camera's picture: what edge's caches make of it, and the boxes of the answer."""
        import cv2

        camera = self._edge.camera
        stats = camera.stream.stats
        view = picture.copy()
        if stats is not None and camera.stream.policy.anchor:
            view = tinted(picture, Seen.of(stats, picture.shape))
        boxes = boxes_in(answer.result)
        middle = [(n - m) // 2 for n, m in zip(camera.size, picture.shape[:2], strict=True)]
        for left, top, right, bottom in [] if boxes is None else boxes[:, :4]:
            corners = [(int(x) - middle[1], int(y) - middle[0]) for x, y in ((left, top), (right, bottom))]
            cv2.rectangle(view, corners[0], corners[1], (255, 255, 255), 2)
        return view

    async def _events(self, request: Any) -> Any:
        from aiohttp import web

        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        reader: asyncio.Queue[str] = asyncio.Queue()
        for event in self._kept:
            await response.write(f"data: {event}\n\n".encode())
        self._readers.add(reader)
        try:
            while reader in self._readers and (event := await reader.get()):
                await response.write(f"data: {event}\n\n".encode())
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._readers.discard(reader)
        return response


def _data(image: Image) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(image, 70)).decode()
