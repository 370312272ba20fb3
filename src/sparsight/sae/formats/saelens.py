"""SAELens folders: cfg.json and sae_weights.safetensors, of version 6 and of the versions before it.

Read from sae_lens 6.54.12. Its encoder is act((x - p b_dec) W_enc + b_enc) with p = `apply_b_dec_to_input`. A TopK SAE with
`rescale_acts_by_decoder_norm` ranks its latents by what they contribute, which atoms of length 1 express.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sparsight import __version__
from sparsight.errors import SparsightError
from sparsight.files import atomic, read_json, write_json
from sparsight.sae.formats.plain import Plain, fold, require_activation, to_sae
from sparsight.sae.formats.read import config_of, provenance, refuse, require_keys, tensors_of, whole
from sparsight.sae.model import SAE

NAME = "saelens"
FILES = ("cfg.json", "sae_weights.safetensors")
MORE_FILES = ("activation_scaler.json",)
# Ours: theirs, and the tensors that the activation adds. An activation that SAE learns is one line more.
ACTIVATIONS: dict[str, tuple[str, tuple[str, ...]]] = {"relu": ("standard", ()), "topk": ("topk", ())}
ARCHITECTURES = {theirs: (ours, more) for ours, (theirs, more) in ACTIVATIONS.items()}
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
)  # fmt: skip


def read(folder: Path) -> SAE:
    """The SAE of a SAELens folder, frozen.

    Raises `SparsightError` for architectures other than "standard" and "topk", for reshaped heads, and for input
    normalisations that are not one factor.
    """
    path = folder / FILES[0]
    config = _modern(config_of(path), path)
    if config["architecture"] not in ARCHITECTURES:
        raise SparsightError(
            f"{path} has architecture {config['architecture']!r}, which a sparsight SAE cannot express "
            f"(valid: {', '.join(ARCHITECTURES)})"
        )
    _refuse_what_differs(config, path)
    activation, more = ARCHITECTURES[config["architecture"]]
    plain = _plain(folder, config, more)
    if config.get("rescale_acts_by_decoder_norm", False):
        plain = plain.unit_atoms()
    k = whole(config, "k", path) if activation == "topk" else None
    extra = provenance(NAME, config, (config.get("metadata") or {}).get("hook_name"))
    return to_sae(plain, activation, k, extra, str(folder), _scale(folder, config))


def write(sae: SAE, folder: Path) -> None:
    """Write an SAE as sae_lens 6 does, its input statistics folded into the weights."""
    require_activation(sae, ACTIVATIONS, NAME)
    plain = fold(sae, sae.config.pre_bias, ACTIVATIONS[sae.config.activation][1])
    weights = {name: getattr(plain, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    with atomic(folder / FILES[1]) as temporary:
        save_file(weights | dict(plain.more), temporary)
    write_json(folder / FILES[0], _config(sae))


def _plain(folder: Path, config: dict[str, Any], more: tuple[str, ...]) -> Plain:
    path = folder / FILES[0]
    d_in, d_sae = whole(config, "d_in", path), whole(config, "d_sae", path)
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    found = tensors_of(folder / FILES[1], shapes | {name: (d_sae,) for name in more}, {"scaling_factor": (d_sae,)})
    factor = found.get("scaling_factor", torch.ones(1))
    if not torch.allclose(factor, torch.ones_like(factor)):  # early versions wrote it whether it was used or not
        raise SparsightError(
            f"{folder / FILES[1]} has a scaling_factor from fine-tuning, which a sparsight SAE cannot express"
        )
    pre_bias = bool(config.get("apply_b_dec_to_input", True))
    weights = {name: found[name] for name in shapes}
    return Plain(**weights, pre_bias=pre_bias, more={name: found[name] for name in more})


def _config(sae: SAE) -> dict[str, Any]:
    known = {"hook_name": sae.extra.get("site"), "model_name": sae.extra.get("model")}
    metadata = {"sae_lens_version": VERSION, "exported_by": f"sparsight {__version__}"}
    topk = {"k": sae.config.k, "rescale_acts_by_decoder_norm": False} if sae.config.activation == "topk" else {}
    return {
        "architecture": ACTIVATIONS[sae.config.activation][0], "d_in": sae.config.d_in, "d_sae": sae.config.d_sae,
        "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": sae.config.pre_bias, "normalize_activations": "none",
        "reshape_activations": "none", "metadata": metadata | {k: v for k, v in known.items() if v},
    } | topk  # fmt: skip


def _modern(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A config in the words of version 6. Older ones hold the whole training run, so their other keys are let through."""
    if "metadata" in config:
        require_keys(config, (*VALID, *TRAINING), path)
        return {"architecture": "standard"} | config
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
    refuse(config, {"finetuning_scaling_factor": "a factor for each latent, found by fine-tuning"}, path)
    if config.get("reshape_activations", "none") != "none":
        raise SparsightError(f"{path} reads attention heads (hook_z), which a sparsight SAE cannot express")
    normalise = config.get("normalize_activations") or "none"
    if normalise not in ("none", "expected_average_only_in"):
        raise SparsightError(
            f"{path} normalises its input by {normalise!r}, which a sparsight SAE cannot express "
            "(valid: none, expected_average_only_in with its activation_scaler.json)"
        )


def _scale(folder: Path, config: dict[str, Any]) -> float:
    """The factor of "expected_average_only_in", which only checkpoints still hold beside their weights; 1 otherwise."""
    if (config.get("normalize_activations") or "none") == "none":
        return 1.0
    path = folder / MORE_FILES[0]
    if not path.exists():
        raise SparsightError(
            f"{folder / FILES[0]} says that its input was scaled, but {MORE_FILES[0]} with the factor is missing: "
            "fold the factor with sae_lens first (fold_activation_norm_scaling_factor)"
        )
    factor = read_json(path).get("scaling_factor")
    if not isinstance(factor, float | int) or not 0 < factor < float("inf"):
        raise SparsightError(f"{path} needs a positive number under 'scaling_factor', not {factor!r}")
    return float(factor)
