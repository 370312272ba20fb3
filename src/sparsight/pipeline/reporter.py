"""Where a run tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Where a run tells how far it is."""

    def start(self, stage: str) -> None:
        """A stage begins."""
        ...

    def update(self, done: int, total: int, text: str = "") -> None:
        """`done` of `total` parts of the stage are finished."""
        ...

    def finish(self, stage: str, seconds: float, cached: bool) -> None:
        """A stage has ended; `cached` says that it had been done before."""
        ...


class Silent:
    """A reporter that says nothing."""

    def start(self, stage: str) -> None:
        """Say nothing."""

    def update(self, done: int, total: int, text: str = "") -> None:
        """Say nothing."""

    def finish(self, stage: str, seconds: float, cached: bool) -> None:
        """Say nothing."""
