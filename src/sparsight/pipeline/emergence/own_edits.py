"""From a wish to an edit: the run's dictionary gives the latents, its SAE the atoms, its validation the strength."""

from __future__ import annotations

from typing import Any

from sparsight.errors import SparsightError
from sparsight.files import read_json
from sparsight.pipeline.emergence import edits
from sparsight.pipeline.emergence.asked import Move, Style
from sparsight.pipeline.emergence.recipe import EditConfig
from sparsight.pipeline.emergence.run import EmergenceRun, stream_name
from sparsight.pipeline.emergence.selection import dictionary_of, object_latents, style_latents
from sparsight.sae import SAE
from sparsight.steering import STAGES, ConceptEdit, Window, fraction_window, global_edit, spatial_edit, stage_window

Wish = Move | Style
WAYS = {"entries": "its own entry", "evidence": "evidence"}


def kind_of(asked: Wish) -> str:
    """The run's stage that calibrated such edits: "layout" or "style"."""
    return "layout" if isinstance(asked, Move) else "style"


def found_by(run: EmergenceRun, kind: str) -> dict[str, Any]:
    """What layout.json or style.json says; nothing where the run has not come that far, or only under another recipe."""
    path = run.folder / f"{kind}.json"
    return read_json(path) if path.exists() and run.finished(kind) else {}


def config_of(run: EmergenceRun, asked: Wish) -> EditConfig:
    """How the run edits: site, k, normaliser and scope as it calibrated them, or as its recipe says."""
    kind = kind_of(asked)
    own = found_by(run, kind).get("edit")
    return EditConfig(**{**own, "strengths": tuple(own["strengths"])}) if own else getattr(run.recipe, kind)


def strength_of(run: EmergenceRun, asked: Wish, stage: str) -> float:
    """What was asked for, or what the run chose on validation images for this stage."""
    if asked.strength is not None:
        return asked.strength
    chosen = found_by(run, kind_of(asked)).get("stages", {}).get(stage, {}).get("strength")
    if chosen is None:
        form = f"--move {asked.word}:{asked.place}:4" if isinstance(asked, Move) else f"--style {asked.word}:1"
        raise SparsightError(
            f"{run.folder} has chosen no strength for {kind_of(asked)} edits of the {stage} stage yet: say one, as in {form}"
        )
    return float(chosen)


def parts_of(
    run: EmergenceRun, asked: Wish, window: tuple[float, float] | None, steps: int
) -> list[tuple[str, Window]]:
    """The stages that an edit acts in, each with its part of the window; those in which no step falls are left out.

    Raises `SparsightError` for a window that holds no step at all.
    """
    default = stage_window("early" if isinstance(asked, Move) else "middle")
    whole = default if window is None else fraction_window(*window)
    found = []
    for stage in STAGES:
        own = stage_window(stage)
        low, high = max(own.low, whole.low), min(own.high, whole.high)
        if any(low <= t <= high for t, _ in run.model.pairs(steps)):
            found.append((stage, Window(low, high)))
    if not found:
        raise SparsightError(
            f"none of the {steps} steps lies in the window, timesteps {whole.low} to {whole.high}: widen it"
        )
    return found


def edit_of(run: EmergenceRun, asked: Wish, stage: str) -> tuple[ConceptEdit, str]:
    """The edit over the whole of a stage, and where its latents are from.

    Raises `SparsightError` for a word that no latent stands for, an unfit mask, another model, and missing parts.
    """
    config = config_of(run, asked)
    latents, found = latents_of(run, config, asked, stage)
    sae = sae_of(run, config, stage)
    strength = strength_of(run, asked, stage)
    common: dict[str, Any] = {"site": config.site, "beta": 1.0, "normaliser": config.normaliser, "scope": config.scope,
                              "window": stage_window(stage)}  # fmt: skip
    edit: ConceptEdit
    if isinstance(asked, Move):
        edit = spatial_edit(sae, latents, asked.region(run.model.site(config.site).grid), **common)
    else:
        edit = global_edit(sae, latents, **common)
    stream = stream_name(config.site, stage, "cond")
    if not (run.folder / "stores" / stream).exists():
        raise SparsightError(f"{run.folder} no longer holds the tokens of {stream}, which strengths are measured by")
    return edits.at_strength(edit, edits.tokens_of(run, config.site, stage), strength), found


def sae_of(run: EmergenceRun, config: EditConfig, stage: str) -> SAE:
    """The run's SAE for a stage, of this very model."""
    sae = run.sae(stream_name(config.site, stage, "cond"), config.k)
    made, here = sae.extra.get("model_hash"), run.model.fingerprint()
    if made and made != here:
        raise SparsightError(
            f"the run {run.folder} is of the model {sae.extra.get('model')} ({made}), but {run.model.name} is {here}"
        )
    return sae


def latents_of(run: EmergenceRun, config: EditConfig, asked: Wish, stage: str) -> tuple[list[int], str]:
    """The latents that stand for a word, chosen as the run chooses them for its own tests, and where they are from.

    Raises `SparsightError` where none does: it offers the nearest words.
    """
    dictionary, word = dictionary_of(run, config, stage), asked.word.lower()
    if isinstance(asked, Style) and word in run.world.styles:
        latents, found = style_latents(run, config, word, stage)
    else:
        latents, found = object_latents(run, config, word, stage), WAYS[config.by]
    if latents:
        return latents, found
    try:
        dictionary.find(asked.word)
    except SparsightError as error:
        raise SparsightError(f"at the {stage} stage: {error}") from None
    raise SparsightError(
        f"at the {stage} stage {asked.word!r} is less than {config.share:.0%} of every latent's entry that holds it: lower "
        f"{kind_of(asked)}.share in the recipe"
    )
