"""Making the next thing in the background while the present one is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

import torch

Plan = TypeVar("Plan")
Made = TypeVar("Made")


def ahead(make: Callable[[Plan], Made], plans: Iterator[Plan], stop: Event) -> Iterator[Made]:
    """`map(make, plans)` with the next result made in a thread: two results exist at most, if the reader drops his.

    An error of `make` or `plans` is raised at its place in the order. `stop` is set when the reader leaves; a `make`
    that looks at it and raises lets the reader go at once.
    """
    room: Semaphore = Semaphore(1)
    made: SimpleQueue[tuple[Made | None, BaseException | None]] = SimpleQueue()
    threads = torch.get_num_threads()

    def work() -> None:
        torch.set_num_threads(threads)  # a new thread has torch's default, and with it other roundings
        try:
            for plan in plans:
                room.acquire()
                if stop.is_set():
                    return
                made.put((make(plan), None))
            made.put((None, StopIteration()))
        except BaseException as error:
            made.put((None, error))

    worker = Thread(target=work, name="sparsight-prefetch", daemon=True)
    worker.start()
    try:
        while True:
            result, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            room.release()
            yield result  # type: ignore[misc]
            del result
    finally:
        stop.set()
        room.release()
        worker.join()
