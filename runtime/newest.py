"""A camera does not wait: of its frames the newest, however slow who takes them is."""

import threading
from collections.abc import Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Newest(Generic[T]):
    """Iterates over what a source gives, read in a thread of its own; what nobody took in time is dropped and counted.

    An error of the source is raised where its next item would have been.
    """

    def __init__(self, source: Iterator[T]) -> None:
        self.dropped = 0
        self._source = source
        self._changed = threading.Condition()
        self._items: list[T] = []
        self._ended = False
        self._error: Exception | None = None
        threading.Thread(target=self._read, name="camera", daemon=True).start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended)
            if self._items:
                return self._items.pop()
            if self._error is not None:
                raise self._error
            raise StopIteration

    def _read(self) -> None:
        error: Exception | None = None
        try:
            for item in self._source:
                with self._changed:
                    self.dropped += len(self._items)
                    self._items = [item]
                    self._changed.notify()
        except Exception as found:  # whatever it is, who takes the frames must hear of it
            error = found
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()
