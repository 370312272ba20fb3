"""Errors that a user can act on: one clear sentence, the mistake named, the valid choices listed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SparsightError(Exception):
    """A mistake in the input or the surroundings. The command line prints it as one line and exits with 2."""


def unknown(kind: str, name: str, valid: Iterable[str], limit: int = 12) -> SparsightError:
    """An error for a name that does not exist, with the nearest valid ones first.

    >>> str(unknown("concept", "smilling", ["smiling", "beard"]))
    "unknown concept 'smilling': did you mean 'smiling'? (valid: smiling, beard)"
    """
    names = sorted(dict.fromkeys(valid), key=lambda v: -difflib.SequenceMatcher(None, name.lower(), v.lower()).ratio())
    near = [v for v in names if difflib.SequenceMatcher(None, name.lower(), v.lower()).ratio() > 0.6]
    hint = f" did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(names[:limit]) + (f", and {len(names) - limit} more" if len(names) > limit else "")
    return SparsightError(f"unknown {kind} {name!r}:{hint} (valid: {shown or 'none'})")
