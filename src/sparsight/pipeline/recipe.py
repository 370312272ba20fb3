"""Recipes: YAML files that say a whole experiment. Every key is checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from sparsight.errors import SparsightError, unknown
from sparsight.pipeline.precision import PRECISIONS
from sparsight.sae import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """What every experiment is told. `experiment` says which it is, `seed` is that of every stage, `precision` "bf16"
    runs the frozen networks under autocast, "auto" does so where that is faster; `threads` 0 means all cores.
    """

    experiment: str = ""
    name: str = "run"
    world: str = ""
    seed: int = 0
    precision: str = "fp32"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)

    def plain(self) -> dict[str, Any]:
        """The recipe as JSON-able values, defaults filled in."""
        return TypeAdapter(type(self)).dump_python(self, mode="json")


def recipe_kinds() -> dict[str, type[Recipe]]:
    """The recipe of each experiment."""
    from sparsight.pipeline.casl.recipe import CaslRecipe
    from sparsight.pipeline.compare.recipe import CompareRecipe
    from sparsight.pipeline.emergence.recipe import EmergenceRecipe

    return {"casl": CaslRecipe, "emergence": EmergenceRecipe, "compare": CompareRecipe}


def recipe_names() -> list[str]:
    """Recipes that ship with the package."""
    return sorted(
        p.name.removesuffix(".yaml") for p in (files("sparsight") / "recipes").iterdir() if p.name.endswith(".yaml")
    )


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name or YAML path, with overrides such as `sae.expansion=64`.

    Raises `SparsightError` for an unknown recipe, key or value: one sentence that names the nearest valid keys.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in recipe_names():
            raise unknown("recipe", str(name_or_path), recipe_names())
        path = Path(str(files("sparsight") / "recipes" / f"{name_or_path}.yaml"))
    values = _read(path)
    for override in overrides:
        _override(values, override)
    return _build(values)


def train_config(options: Sequence[str]) -> TrainConfig:
    """The options of a training alone, each as NAME=VALUE, over the defaults of `TrainConfig`.

    Raises `SparsightError` for an unknown name or a value that cannot be.
    """
    from sparsight.pipeline.casl.recipe import CaslRecipe

    values: dict[str, Any] = {"sae": {}}
    for option in options:
        _override(values, f"sae.{option}")
    found = _build(values)
    assert isinstance(found, CaslRecipe)
    return found.sae


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise SparsightError(f"cannot read the recipe {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SparsightError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise SparsightError(f"{path} is no recipe: it must be a mapping of keys to values")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise SparsightError(f"override {override!r} must have the form key=value, such as sae.expansion=64")
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise SparsightError(f"{section!r} in override {override!r} is no section of a recipe")
    values[last] = yaml.safe_load(text)


def _build(values: dict[str, Any]) -> Recipe:
    kinds = recipe_kinds()
    experiment = values.get("experiment", "casl")
    if experiment not in kinds:
        raise unknown("experiment", str(experiment), kinds)
    kind = kinds[experiment]
    _check_keys(kind(), values, "")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SparsightError(
            f"recipe key {where!r} is wrong: {first['msg'].lower()}, not {first['input']!r}"
        ) from error


def _check_keys(defaults: Any, values: dict[str, Any], prefix: str) -> None:
    valid = {f.name: getattr(defaults, f.name) for f in fields(defaults)}
    for key, value in values.items():
        if key not in valid:
            raise unknown("recipe key", f"{prefix}{key}", [f"{prefix}{name}" for name in valid], limit=30)
        if is_dataclass(valid[key]):
            if not isinstance(value, dict):
                raise SparsightError(f"recipe key {prefix}{key!r} is a section and needs keys of its own")
            _check_keys(valid[key], value, f"{prefix}{key}.")
