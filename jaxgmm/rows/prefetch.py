"""Reading ahead while the last piece is computed on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .._base.precision import settings_here


class Steps(Iterator[Any]):
    """What steps give but for None, which stands for a step after which nothing is ready.

    `stop`, called in any thread, ends it after the step under way.
    """

    def __init__(self, steps: Iterator[Any]) -> None:
        self._steps, self._is_stopped = steps, False

    def __next__(self) -> Any:
        while not self._is_stopped:
            item = next(self._steps)
            if item is not None:
                return item
        raise StopIteration

    def stop(self) -> None:
        self._is_stopped = True

    def close(self) -> None:
        """End the steps where they stand, so that what they hold open is closed."""
        self._steps.close()  # pyright: ignore


def ahead(items: Steps) -> Iterator[Any]:
    """The same items, of which the next is made in a thread of its own while one is in use."""
    reader = ThreadPoolExecutor(1, "jaxgmm-reader", initializer=settings_here())
    end = object()
    coming = reader.submit(next, items, end)
    try:
        while (item := coming.result()) is not end:
            coming = reader.submit(next, items, end)
            yield item
    finally:
        # Who leaves early, or is interrupted, does not wait for a slow source: the thread ends after the block that it
        # is reading. It closes the source itself, since what is opened in a thread may be bound to it.
        items.stop()
        reader.submit(items.close)
        reader.shutdown(wait=coming.done())
