"""The words of SAELens' cfg.json: what old and new ones mean, and the one that an SAE of ours gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsight import __version__
from sparsight.errors import SparsightError
from sparsight.sae.formats.read import refuse, require_keys
from sparsight.sae.matryoshka import blocks_of
from sparsight.sae.model import SAE

ARCHITECTURES = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}  # theirs: ours
WRITTEN = {ours: theirs for theirs, ours in ARCHITECTURES.items()} | {"batchtopk": "jumprelu"}
TRAINED = ("batchtopk", "matryoshka_batchtopk")  # architectures that only the checkpoint of a training has
VERSION = (
    "6.54.12"  # of sae_lens, whose layout this is; without a version of 6 or later it takes the folder for an old one
)
VALID = (
    "architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input", "normalize_activations",
    "reshape_activations", "metadata", "k", "rescale_acts_by_decoder_norm",
)  # fmt: skip
# What a checkpoint of a training adds; none of it changes what `encode` and `decode` do.
TRAINING = (
    "l1_coefficient", "lp_norm", "l1_warm_up_steps", "decoder_init_norm", "use_sparse_activations", "aux_loss_coefficient",
    "jumprelu_init_threshold", "jumprelu_bandwidth", "jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale",
    "jumprelu_ste_to_input", "l0_coefficient", "l0_warm_up_steps", "pre_act_loss_coefficient", "target_l0",
)  # fmt: skip


def understood(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A config in the words of version 6, with an architecture of `ARCHITECTURES` and a dictionary under "metadata".

    Raises `SparsightError` for what an SAE cannot express, and for keys that version 6 does not have.
    """
    modern = _modern(config, path)
    if not isinstance(modern["metadata"], dict):
        raise SparsightError(f"{path} has metadata {modern['metadata']!r}, which is no JSON object")
    _refuse_what_differs(modern, path)
    if "metadata" in config:  # older ones hold the whole training run, so their other keys are let through
        require_keys(modern, (*VALID, *TRAINING), path)
    return modern


def prefixes_in(config: dict[str, Any], path: Path) -> tuple[int, ...]:
    """The widths of a Matryoshka training, without the whole dictionary; () of any other."""
    training = config["metadata"].get("training_architecture_details")
    widths = (training.get("matryoshka_widths") if isinstance(training, dict) else None) or []
    if not isinstance(widths, list):
        raise SparsightError(f"{path} has matryoshka_widths {widths!r}, which is no list")
    return tuple(width for width in widths if width != config["d_sae"])


def config_for(sae: SAE) -> dict[str, Any]:
    """The cfg.json of an SAE whose input statistics are part of its weights."""
    known = {"hook_name": sae.extra.get("site"), "model_name": sae.extra.get("model")}
    metadata = {"sae_lens_version": VERSION, "exported_by": f"sparsight {__version__}"} | _training(sae)
    topk = {"k": sae.config.k, "rescale_acts_by_decoder_norm": False} if sae.config.activation == "topk" else {}
    return {
        "architecture": WRITTEN[sae.config.activation], "d_in": sae.config.d_in, "d_sae": sae.config.d_sae,
        "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": sae.config.pre_bias, "normalize_activations": "none",
        "reshape_activations": "none", "metadata": metadata | {k: v for k, v in known.items() if v},
    } | topk  # fmt: skip


def _training(sae: SAE) -> dict[str, Any]:
    """What their metadata say of a training: Matryoshka's widths end with the whole dictionary."""
    widths = [high for _, high in blocks_of(sae.config.prefixes, sae.config.d_sae)]
    details: dict[str, Any] = {"matryoshka_widths": widths} if len(widths) > 1 else {}
    if sae.config.activation != "batchtopk":
        return {"training_architecture_details": details} if details else {}
    name = "matryoshka_batchtopk" if details else "batchtopk"
    return {"training_architecture": name, "training_architecture_details": {"k": sae.config.k} | details}


def _modern(config: dict[str, Any], path: Path) -> dict[str, Any]:
    if "metadata" in config:
        return {"architecture": "standard"} | config | {"metadata": config["metadata"] or {}}
    modern = config | {"architecture": config.get("architecture", "standard")}
    activation = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    if activation == "topk":
        modern |= {"architecture": "topk", "k": (config.get("activation_fn_kwargs") or {}).get("k")}
    elif activation != "relu":
        raise SparsightError(
            f"{path} has activation {activation!r}, which a sparsight SAE cannot express (valid: relu, topk)"
        )
    hook = config.get("hook_name", config.get("hook_point", "")) or ""
    modern.setdefault("reshape_activations", "hook_z" if "hook_z" in hook else "none")
    return modern | {"metadata": {"hook_name": hook} if hook else {}}


def _refuse_what_differs(config: dict[str, Any], path: Path) -> None:
    architecture = config["architecture"]
    if architecture in TRAINED:
        raise SparsightError(
            f"{path} is a checkpoint of a {architecture} training, which still cuts whole batches: "
            "make a jumprelu SAE of it with sae_lens first (save_inference_model)"
        )
    if architecture not in tuple(ARCHITECTURES):
        valid = ", ".join(ARCHITECTURES)
        raise SparsightError(
            f"{path} has architecture {architecture!r}, which a sparsight SAE cannot express (valid: {valid})"
        )
    refuse(config, {"finetuning_scaling_factor": "a factor for each latent, found by fine-tuning"}, path)
    if config.get("reshape_activations", "none") != "none":
        raise SparsightError(f"{path} reads attention heads (hook_z), which a sparsight SAE cannot express")
    normalise = config.get("normalize_activations") or "none"
    if normalise not in ("none", "expected_average_only_in"):
        raise SparsightError(
            f"{path} normalises its input by {normalise!r}, which a sparsight SAE cannot express "
            "(valid: none, expected_average_only_in with its activation_scaler.json)"
        )
