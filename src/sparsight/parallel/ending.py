"""How several processes end: with one error, told to all, and nobody left waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch.distributed as dist

from sparsight.errors import SparsightError

Given = ParamSpec("Given")
Made = TypeVar("Made")
LAST_WORDS = "sparsight/stopped"  # under this key of the processes' common store


class GoneError(SparsightError):
    """Another rank has ended, or does not answer."""


def several() -> bool:
    """Whether this process speaks with others through torch.distributed, which some builds of torch leave out."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def ends_together(work: Callable[Given, Made]) -> Callable[Given, Made]:
    """A function whose error on one rank ends it on all of them, each with a sentence that says why."""

    @wraps(work)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        try:
            return work(*args, **kwargs)
        except BaseException as error:
            if several():
                _leave(error)
            raise

    return run


def _leave(error: BaseException) -> None:
    """Say why, and hang up: whoever waits for this rank then hears that it is gone."""
    with suppress(Exception):  # the others may be gone, with what they kept
        if not isinstance(error, GoneError):
            words = str(error) if isinstance(error, SparsightError) else f"{type(error).__name__}: {first_line(error)}"
            _store().set(LAST_WORDS, f"rank {dist.get_rank()} stopped: {words}")
    with suppress(Exception):
        dist.destroy_process_group()


@contextmanager
def hearing() -> Iterator[None]:
    """Turn what torch says of a broken connection into the sentence of the rank that left."""
    try:
        yield
    except RuntimeError as error:
        words = "another process of this training is gone, or does not answer: the last checkpoint is kept"
        raise GoneError(_last_words() or words) from error


def _last_words() -> str | None:
    with suppress(Exception):  # the process that kept them may be the one that is gone
        store = _store()
        return store.get(LAST_WORDS).decode() if store.check([LAST_WORDS]) else None
    return None


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def first_line(error: BaseException) -> str:
    """What an error says, without the stack that torch appends."""
    return next(iter(str(error).splitlines()), "no more is known")
