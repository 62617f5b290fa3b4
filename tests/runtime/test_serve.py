"""Where a server has a camera's stream, and when it has no room."""

import asyncio
from types import SimpleNamespace
from typing import Any

from fluxcompile.remote import checker, policy_words
from fluxcompile.runtime.messages import Frame, Hello, Refusal, Welcome
from fluxcompile.runtime.serve import FULL, Server, _Connection
from fluxcompile.testbed.clock import run_virtually
from tests.remote import MOVING, small_net


class Pool:
    """Computes nothing, and says what it is told to."""

    def __init__(self) -> None:
        self.on_answer: Any = None
        self.on_computed: Any = None
        self.sessions: list[str] = []

    def open(self, session: str, policy: str, task: str) -> None:
        self.sessions.append(session)

    def close(self, session: str) -> None: ...
    def frame(self, session: str, frame: Frame) -> None: ...
    async def stop(self) -> None: ...


def served(*pools: Pool) -> Server:
    return Server(small_net().digest, pools, token="", check=checker(small_net()))


def hello(server: Server, camera: int) -> Welcome | Refusal:
    return server._admit(
        _Connection(SimpleNamespace(peer="here"), None),  # type: ignore[arg-type]
        Hello(1, b"", small_net().digest, policy_words(MOVING), "segment", str(camera)),
    )


async def works(pools: dict[Pool, float], seconds: float = 5.0) -> None:
    """Each stream of a pool takes so much of its time."""
    for _ in range(round(10 * seconds)):
        await asyncio.sleep(0.1)
        for pool, share in pools.items():
            for session in pool.sessions:
                pool.on_computed(session, 100 * share)


def test_cameras_that_come_at_once_are_shared_out() -> None:
    async def main() -> list[int]:
        pools = [Pool() for _ in range(3)]
        server = served(*pools)
        for camera in range(6):
            assert isinstance(hello(server, camera), Welcome)
        await server.drain()
        return [len(pool.sessions) for pool in pools]

    assert run_virtually(main()) == [2, 2, 2]


def test_the_next_goes_where_there_is_room_and_is_refused_where_there_is_none() -> None:
    """Both rules look at the same pool: the one that the camera would be in."""

    async def main() -> tuple[list[int], Welcome | Refusal]:
        heavy, light = Pool(), Pool()
        server = served(heavy, light)
        for camera in range(2):
            hello(server, camera)
        await works({heavy: 0.6, light: 0.1})
        for camera in range(2, 4):  # each should take as much as the others do on average
            assert isinstance(hello(server, camera), Welcome)
        await works({heavy: 0.6, light: 0.25})
        assert sum(server.loads()) > 1
        found = [len(heavy.sessions), len(light.sessions)]
        refused = hello(server, 4)
        await server.drain()
        return found, refused

    found, refused = run_virtually(main())
    assert found == [1, 3]
    assert isinstance(refused, Refusal)
    assert refused.code == "full"
    assert refused.retry_ms > 0
    assert 0 < FULL < 1
