"""The newest of what a source gives."""

import threading
from collections.abc import Iterator

import pytest

from fluxcompile.runtime.newest import Newest


class Source:
    """Gives a number whenever it is told to."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count, self.error = count, error
        self.go = threading.Semaphore(0)
        self.gone = threading.Semaphore(0)

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.go.acquire()
            yield number
            self.gone.release()
        self.go.acquire()
        if self.error is not None:
            raise self.error

    def give(self, count: int) -> None:
        for _ in range(count):
            self.go.release()
        for _ in range(count):
            self.gone.acquire()


def test_what_nobody_took_is_dropped() -> None:
    source = Source(6)
    newest = Newest(iter(source))
    source.give(1)
    assert next(newest) == 0
    source.give(4)
    assert next(newest) == 4
    assert newest.dropped == 3
    source.give(1)
    source.go.release()
    assert list(newest) == [5]


def test_the_end_and_its_error() -> None:
    source = Source(1, ValueError("the cable"))
    newest = Newest(iter(source))
    source.give(1)
    source.go.release()
    assert next(newest) == 0
    for _ in range(2):
        with pytest.raises(ValueError, match="the cable"):
            next(newest)
