"""A whole experiment: a recipe in, a run folder out, each stage resumable."""

from sparsight.pipeline.recipe import Recipe, load_recipe, recipe_names
from sparsight.pipeline.run import Run, run_recipe

__all__ = ["Recipe", "Run", "load_recipe", "recipe_names", "run_recipe"]
