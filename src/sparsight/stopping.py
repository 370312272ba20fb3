"""Being told to stop: SIGTERM (a scheduler's notice) and the first Ctrl-C are kept until work can be put down whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def told_to_stop() -> Iterator[Callable[[], signal.Signals | None]]:
    """Within the block SIGTERM and Ctrl-C only take note; the function that is yielded says which one came, or None.

    A second one acts at once, as it would have without the block. In a thread other than the main one, where Python
    does not deliver signals, nothing is changed.
    """
    heard: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}

    def listen(number: int, frame: Any) -> None:
        heard.append(signal.Signals(number))
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in SIGNALS:
        signal.signal(number, listen)
    try:
        yield lambda: heard[0] if heard else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: signal.Signals) -> NoReturn:
    """End as the signal would have ended the process: KeyboardInterrupt for Ctrl-C, exit code 143 for SIGTERM."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
