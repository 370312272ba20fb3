"""SAELens folders: cfg.json and sae_weights.safetensors, of version 6 and of the versions before it.

Read from sae_lens 6.54.12. Its encoder is act((x - p b_dec) W_enc + b_enc) with p = `apply_b_dec_to_input`. A TopK SAE with
`rescale_acts_by_decoder_norm` ranks its latents by what they contribute, which atoms of length 1 express. BatchTopK is only
trained there: what is saved for use is JumpReLU with the same threshold for every latent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sparsight.errors import SparsightError
from sparsight.files import atomic, read_json, write_json
from sparsight.sae.formats import saelens_config as words
from sparsight.sae.formats.plain import Plain, fold, require_expressible, to_sae
from sparsight.sae.formats.read import config_of, provenance, tensors_of, whole
from sparsight.sae.model import SAE

NAME = "saelens"
FILES = ("cfg.json", "sae_weights.safetensors")
MORE_FILES = ("activation_scaler.json",)
VECTORS = {  # our names of the tensors (d_sae,) by theirs, for each architecture
    "standard": {"b_enc": "b_enc"},
    "topk": {"b_enc": "b_enc"},
    "jumprelu": {"b_enc": "b_enc", "threshold": "threshold"},
    "gated": {"b_gate": "b_enc", "r_mag": "r_mag", "b_mag": "b_mag"},
}


def read(folder: Path) -> SAE:
    """The SAE of a SAELens folder, frozen. What was trained as BatchTopK is "jumprelu" there and stays so.

    Matryoshka widths become `prefixes`, and a threshold below 0 becomes 0, which also keeps what ReLU leaves. Raises
    `SparsightError` for other architectures than those in `VECTORS`, for reshaped heads, and for input normalisations
    that are not one factor.
    """
    path = folder / FILES[0]
    config = words.understood(config_of(path), path)
    activation = words.ARCHITECTURES[config["architecture"]]
    plain, k = _plain(folder, config), None
    if activation == "topk":
        k = whole(config, "k", path)
        plain = plain.unit_atoms() if config.get("rescale_acts_by_decoder_norm", False) else plain
    extra = provenance(NAME, config, config["metadata"].get("hook_name"))
    prefixes = words.prefixes_in(config, path)
    return to_sae(plain, activation, k, extra, str(folder), _scale(folder, config), prefixes)


def write(sae: SAE, folder: Path) -> None:
    """Write an SAE as sae_lens 6 does, its input statistics folded into the weights.

    BatchTopK becomes "jumprelu" with its one threshold for every latent; `prefixes` become a record in the metadata.
    """
    require_expressible(sae, words.WRITTEN, NAME)
    ours = fold(sae, sae.config.pre_bias).tensors()
    state = {name: ours[name] for name in ("W_enc", "W_dec", "b_dec")}
    for theirs, own in VECTORS[words.WRITTEN[sae.config.activation]].items():
        state[theirs] = ours[own].expand(sae.config.d_sae).contiguous()
    with atomic(folder / FILES[1]) as temporary:
        save_file(state, temporary)
    write_json(folder / FILES[0], words.config_for(sae))


def _plain(folder: Path, config: dict[str, Any]) -> Plain:
    path, names = folder / FILES[0], VECTORS[config["architecture"]]
    d_in, d_sae = whole(config, "d_in", path), whole(config, "d_sae", path)
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    found = tensors_of(folder / FILES[1], shapes | dict.fromkeys(names, (d_sae,)), {"scaling_factor": (d_sae,)})
    factor = found.pop("scaling_factor", torch.ones(1))
    if not torch.allclose(factor, torch.ones_like(factor)):  # early versions wrote it whether it was used or not
        raise SparsightError(
            f"{folder / FILES[1]} has a scaling_factor from fine-tuning, which a sparsight SAE cannot express"
        )
    ours = {names.get(theirs, theirs): tensor for theirs, tensor in found.items()}
    return Plain.of(ours, bool(config.get("apply_b_dec_to_input", True)))


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
