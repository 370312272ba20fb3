"""Recipes: YAML files that say a whole experiment. Every key is checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from sparsight.activations.harvest import HarvestConfig
from sparsight.concepts.learn import AlignConfig
from sparsight.errors import SparsightError, unknown
from sparsight.sae import TrainConfig


@dataclass(frozen=True)
class DataConfig:
    """How many images: for the SAE and the alignment (`train`), and unseen ones for SAE metrics and probes (`held_out`)."""

    train: int = 1000
    held_out: int = 256


@dataclass(frozen=True)
class SteerConfig:
    """How to steer and what to try.

    Runs of `steps` steps, stepping `mode`, edits in `low` ... `high`, the top `k` latents under `ranking`. `alphas` are
    tried from weak to strong; one alpha is one mean norm of the shift for every method. `sweep_k` x `sweep_alphas`
    is drawn on the first `sweep_images` test images.

    With `candidates` above 0 that many best latents are tried one by one on `screen` validation faces and put in the
    order of what they do there; 0 keeps the ranking's own order, as the paper does. With `refit` above 0 the columns of
    the latents that are steered are learned again, alone, in that many updates; 0 keeps the alignment's, as the paper.
    """

    steps: int = 50
    mode: str = "asymmetric"
    refine: int = 0
    low: int = 500
    high: int = 999
    k: int = 1
    ranking: str = "l2"
    candidates: int = 0
    screen: int = 12
    refit: int = 0
    alphas: tuple[float, ...] = (2, 4, 8, 16, 32, 64, 128)
    validation: int = 16
    test: int = 32
    sweep_k: tuple[int, ...] = (1, 2, 4, 8, 16)
    sweep_alphas: tuple[float, ...] = (4, 8, 16, 32, 64)
    sweep_images: int = 16


@dataclass(frozen=True)
class Recipe:
    """A whole experiment. `seed` is that of every stage (the stages' own are ignored). `precision` "bf16" runs the frozen
    networks under autocast; `threads` 0 means all cores.
    """

    name: str = "run"
    world: str = "avatars"
    concepts: tuple[str, ...] = ("Smiling",)
    seed: int = 0
    precision: str = "fp32"
    threads: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    harvest: HarvestConfig = field(default_factory=HarvestConfig)
    sae: TrainConfig = field(default_factory=TrainConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    steer: SteerConfig = field(default_factory=SteerConfig)

    def plain(self) -> dict[str, Any]:
        """The recipe as JSON-able values, defaults filled in."""
        return TypeAdapter(Recipe).dump_python(self, mode="json")


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
    values: dict[str, Any] = {"sae": {}}
    for option in options:
        _override(values, f"sae.{option}")
    return _build(values).sae


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
    _check_keys(Recipe(), values, "")
    try:
        recipe = TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SparsightError(
            f"recipe key {where!r} is wrong: {first['msg'].lower()}, not {first['input']!r}"
        ) from error
    if recipe.precision not in ("fp32", "bf16"):
        raise unknown("precision", recipe.precision, ("fp32", "bf16"))
    if not recipe.concepts:
        raise SparsightError("the recipe names no concept")
    return recipe


def _check_keys(defaults: Any, values: dict[str, Any], prefix: str) -> None:
    valid = {f.name: getattr(defaults, f.name) for f in fields(defaults)}
    for key, value in values.items():
        if key not in valid:
            raise unknown("recipe key", f"{prefix}{key}", [f"{prefix}{name}" for name in valid], limit=30)
        if is_dataclass(valid[key]):
            if not isinstance(value, dict):
                raise SparsightError(f"recipe key {prefix}{key!r} is a section and needs keys of its own")
            _check_keys(valid[key], value, f"{prefix}{key}.")


__all__ = ["DataConfig", "Recipe", "SteerConfig", "load_recipe", "recipe_names", "train_config"]
