"""What a piece of work costs: seconds, and rows through the denoiser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Meter:
    """Seconds and rows through the denoiser, by what they were spent on.

    On a processor seconds are those of the process, of all its cores: what else the machine does is not in them.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def of(self, model: Any, what: str) -> Iterator[None]:
        """Count what happens within the block."""
        clock = time.process_time if model.device.type == "cpu" else time.monotonic
        rows, began = [0], clock()

        def count(module: Any, arguments: tuple[Any, ...]) -> None:
            rows[0] += len(arguments[0])

        handle = model.denoiser.register_forward_pre_hook(count)
        try:
            yield
        finally:
            handle.remove()
            self.seconds[what] = self.seconds.get(what, 0.0) + clock() - began
            self.calls[what] = self.calls.get(what, 0) + rows[0]
