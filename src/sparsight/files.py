"""Files that are either whole or not there: atomic writes, JSON, content digests."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sparsight.errors import SparsightError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the name `path` only if the block ends without an error.

    A full disk or a missing permission becomes a `SparsightError` that names the file.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # a temporary file is private, its successor is not
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # the writer of safetensors reports a full disk in its own words
        raise SparsightError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what writers of `folder` that were killed left unfinished; only for one that nobody else is writing to."""
    for pattern in (".*.part", ".tmp??????"):  # ours, and those of safetensors
        for left in Path(folder).glob(pattern):
            left.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", "utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a `SparsightError` that names it."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError as error:
        raise SparsightError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise SparsightError(f"{path} is not readable JSON: {error}") from error


def digest(value: Any) -> str:
    """Sixteen hex digits of SHA-256 over a JSON-able value, the same on every machine."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
