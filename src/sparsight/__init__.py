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
    "sparsight.diffusion": (
        "Conditioning",
        "DiffusionModel",
        "Intervention",
        "Loop",
        "Step",
        "generate",
        "invert",
        "sample",
        "walk",
    ),
    "sparsight.activations": (
        "HarvestConfig",
        "LiveStore",
        "PromptStream",
        "Store",
        "Stream",
        "harvest",
        "harvest_part",
        "harvest_streams",
    ),
    "sparsight.prompts": ("Prompts",),
    "sparsight.sae": (
        "SAE",
        "SAEConfig",
        "SparseAutoencoder",
        "TrainConfig",
        "evaluate_sae",
        "export_sae",
        "import_sae",
        "list_saes",
        "train_sae",
    ),
    "sparsight.concepts": (
        "AlignConfig",
        "Alignment",
        "Concept",
        "ConceptDictionary",
        "ConceptReader",
        "align",
        "build_dictionary",
        "probe_accuracy",
    ),
    "sparsight.steering": (
        "Direction",
        "Window",
        "casl_steer",
        "choose_alpha",
        "controls",
        "global_edit",
        "spatial_edit",
        "stage_window",
        "steer_together",
    ),
    "sparsight.metrics": ("Interval", "counterfactual_gain", "editing_precision"),
    "sparsight.worlds": ("load_world",),
    "sparsight.pipeline": ("Recipe", "Run", "load_recipe", "run_recipe"),
    "sparsight.report": ("write_report",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from sparsight.activations import (
        HarvestConfig,
        LiveStore,
        PromptStream,
        Store,
        Stream,
        harvest,
        harvest_part,
        harvest_streams,
    )
    from sparsight.concepts import (
        AlignConfig,
        Alignment,
        Concept,
        ConceptDictionary,
        ConceptReader,
        align,
        build_dictionary,
        probe_accuracy,
    )
    from sparsight.diffusion import (
        Conditioning,
        DiffusionModel,
        Intervention,
        Loop,
        Step,
        generate,
        invert,
        sample,
        walk,
    )
    from sparsight.metrics import Interval, counterfactual_gain, editing_precision
    from sparsight.pipeline import Recipe, Run, load_recipe, run_recipe
    from sparsight.prompts import Prompts
    from sparsight.report import write_report
    from sparsight.sae import (
        SAE,
        SAEConfig,
        SparseAutoencoder,
        TrainConfig,
        evaluate_sae,
        export_sae,
        import_sae,
        list_saes,
        train_sae,
    )
    from sparsight.steering import (
        Direction,
        Window,
        casl_steer,
        choose_alpha,
        controls,
        global_edit,
        spatial_edit,
        stage_window,
        steer_together,
    )
    from sparsight.worlds import load_world

__all__ = ["SparsightError", "__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'sparsight' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
