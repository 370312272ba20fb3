"""One self-contained page from a finished run folder. This room reads files; it measures nothing."""

from sparsight.report.page import write_report

__all__ = ["write_report"]
