"""sparsight: see inside diffusion models with sparse latents."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from sparsight.errors import SparsightError

try:
    __version__ = version("sparsight")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0"

# Where each public name lives. Imported on first use, so that `import sparsight` costs nothing.
_HOMES = {
    "sparsight.diffusion": ("DiffusionModel", "Loop", "Step", "Intervention", "invert", "sample", "walk"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from sparsight.diffusion import DiffusionModel, Intervention, Loop, Step, invert, sample, walk

__all__ = ["SparsightError", "__version__", *_HOME_OF]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'sparsight' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
