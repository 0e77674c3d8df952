"""Reading the next piece while the last one is computed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .._base.precision import settings_here


class Steps(Iterator[Any]):
    """The items of `steps` without None, which stands for a step after which nothing is ready.

    `stop`, called in any thread, ends the iteration after the current step.
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
        """Close the generator of the steps, so that what it holds open is closed."""
        self._steps.close()  # pyright: ignore


def ahead(items: Steps) -> Iterator[Any]:
    """The same items; a thread makes the next one while one is in use."""
    reader = ThreadPoolExecutor(1, "jaxgmm-reader", initializer=settings_here())
    end = object()
    coming = reader.submit(next, items, end)
    try:
        while (item := coming.result()) is not end:
            coming = reader.submit(next, items, end)
            yield item
    finally:
        # A caller that leaves early, or is interrupted, does not wait for a slow source: the thread ends after the
        # block that it is reading. It closes the source itself, since what a thread opens may be bound to that thread.
        items.stop()
        reader.submit(items.close)
        reader.shutdown(wait=coming.done())
