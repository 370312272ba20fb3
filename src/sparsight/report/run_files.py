"""Read a run folder that others wrote. Only `metrics.json` is required; every other piece may be absent or broken."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from sparsight.errors import SparsightError
from sparsight.files import read_json

SCHEMA = 1


def dig(value: Any, *path: str) -> Any:
    """The entry at `path` of nested dicts, or None where any step of it is missing."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def number(value: Any) -> float | None:
    """`value` if it is a finite number, else None."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if ok else None


def mapping(value: Any) -> dict[str, Any]:
    """`value` if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    """`value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def find(value: Any, key: str) -> Any:
    """The plain value that belongs to the first `key`, breadth first; of an object, its own name."""
    level = [value]
    while level:
        for found in (v[key] for v in level if isinstance(v, dict) and key in v):
            if isinstance(found, dict):
                found = next((found[n] for n in ("name", "path", key) if isinstance(found.get(n), str)), None)
            if isinstance(found, list):
                found = ", ".join(map(str, found))
            if found is not None:
                return found
        level = [child for v in level for child in _children(v)]
    return None


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


@dataclass(frozen=True)
class RunFiles:
    """The files of the run in `root`, each read once and None (or empty) where it is missing."""

    root: Path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """metrics.json. Raises `SparsightError` where the run is not finished or was written by a later sparsight."""
        path = self.root / "metrics.json"
        if not path.is_file():
            what = "is not finished: it has no metrics.json yet" if self.root.is_dir() else "is no run folder"
            raise SparsightError(f"{self.root} {what}; run its recipe (again) to complete it, then write the report")
        metrics = read_json(path)
        if not isinstance(metrics, dict):
            raise SparsightError(f"{path} is not an object; run the recipe again to write it anew")
        if (number(metrics.get("schema")) or SCHEMA) > SCHEMA:
            raise SparsightError(f"{path} has schema {metrics['schema']}, newer than {SCHEMA}: update sparsight")
        return metrics

    @cached_property
    def run(self) -> dict[str, Any]:
        """run.json: command, seconds of each stage, versions."""
        return mapping(self.json("run.json"))

    @cached_property
    def recipe_text(self) -> str:
        """recipe.yaml as it was written, or else the recipe in metrics.json."""
        try:
            return (self.root / "recipe.yaml").read_text("utf-8")
        except (OSError, ValueError):
            recipe = self.metrics.get("recipe")
            return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True) if recipe else ""

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The recipe with its defaults filled in, or else what recipe.yaml says."""
        if mapping(self.metrics.get("recipe")):
            return mapping(self.metrics["recipe"])
        try:
            return mapping(yaml.safe_load(self.recipe_text))
        except yaml.YAMLError:
            return {}

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The lines of sae/log.jsonl that are whole."""
        try:
            lines = (self.root / "sae" / "log.jsonl").read_text("utf-8").splitlines()
        except (OSError, ValueError):
            return []
        return [entry for entry in map(_parsed, lines) if isinstance(entry, dict)]

    @property
    def date(self) -> str:
        """The day of the run: what run.json says, or else the day metrics.json was written."""
        said = next((self.run[k] for k in ("date", "finished", "started") if isinstance(self.run.get(k), str)), None)
        written = datetime.fromtimestamp((self.root / "metrics.json").stat().st_mtime, UTC)
        return said[:10] if said else f"{written:%Y-%m-%d}"

    def json(self, *parts: str) -> Any:
        """A JSON file of the run, or None."""
        path = self.path(*parts)
        try:
            return read_json(path) if path else None
        except SparsightError:
            return None

    def path(self, *parts: str) -> Path | None:
        """A file of the run, or None where it is absent. A name such as ``../x`` never leads out of the folder."""
        try:
            path = self.root.joinpath(*parts)
            inside = path.resolve().is_relative_to(self.root.resolve())
            return path if inside and path.is_file() else None
        except (OSError, ValueError):
            return None


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
