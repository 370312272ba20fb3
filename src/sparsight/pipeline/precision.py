"""Which precision a run has: "auto" is settled once, when it begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsight.pipeline.recipe import Recipe

PRECISIONS = ("auto", "fp32", "bf16")


def settled(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with "auto" replaced: by what the run in `folder` began with, else by what is fast here.

    So a run that goes on upon another machine does not begin again.
    """
    if recipe.precision != "auto":
        return recipe
    return replace(recipe, precision=_begun(folder) or ("bf16" if multiplies_bf16() else "fp32"))


def multiplies_bf16() -> bool:
    """Whether this processor has instructions for bfloat16; without them autocast takes more than twice as long as fp32."""
    import torch

    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch that will do
    return any(value is True for name, value in known.items() if "bf16" in name)


def _begun(folder: Path) -> str | None:
    from sparsight.pipeline.recipe import load_recipe

    path = folder / "recipe.yaml"
    return load_recipe(path).precision if path.exists() else None
