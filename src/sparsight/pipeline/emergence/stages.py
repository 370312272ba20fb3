"""The stages of an emergence run, in order. Each reads what the ones before it wrote, and writes into the run folder."""

from __future__ import annotations

from collections.abc import Callable

from sparsight.activations import harvest_streams
from sparsight.pipeline.emergence.dictionaries import annotate_stage, dictionary_stage
from sparsight.pipeline.emergence.evaluate import evaluate_stage
from sparsight.pipeline.emergence.gallery import write_gallery
from sparsight.pipeline.emergence.layout import layout_stage
from sparsight.pipeline.emergence.reading import read_stage
from sparsight.pipeline.emergence.run import EmergenceRun
from sparsight.pipeline.emergence.saes import train_stage
from sparsight.pipeline.emergence.style import style_stage


def harvest_stage(run: EmergenceRun) -> None:
    """Every stream to `stores/`, and the images to `images/`, from one pass over the prompts."""
    folder, images = run.own_folder("stores", "harvest"), run.own_folder("images", "harvest")
    total = sum(vars(run.recipe.prompts).values())
    harvest_streams(
        run.model, run.prompts, {folder / name: stream for name, stream in run.streams().items()},
        numbers=range(total), images_to=images, progress=run.report.update,
    )  # fmt: skip


def report_stage(run: EmergenceRun) -> None:
    """`gallery/`, the pictures that only the page needs, and `report.html`."""
    from sparsight.report import write_report

    write_gallery(run)
    write_report(run.folder)


WORK: dict[str, Callable[[EmergenceRun], None]] = {
    "harvest": harvest_stage, "train": train_stage, "annotate": annotate_stage, "dictionary": dictionary_stage,
    "read": read_stage, "layout": layout_stage, "style": style_stage, "evaluate": evaluate_stage,
    "report": report_stage,
}  # fmt: skip
