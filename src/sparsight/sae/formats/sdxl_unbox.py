"""sdxl-unbox folders (Surkov et al., arXiv 2410.22366): config.json and state_dict.pth.

Read from wendlerc/sdxl-unbox, whose SAE is OpenAI's: relu(topk(encoder(x - pre_bias) + latent_bias)), decoder + pre_bias, on a
block's update, raw. Its mean.pt and std.pt describe latents and take no part in encoding. The pickle is read with
`weights_only=True`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from sparsight.files import atomic, write_json
from sparsight.sae.formats.plain import Plain, fold, require_expressible, to_sae
from sparsight.sae.formats.read import config_of, provenance, require_keys, site_in, tensors_of, whole
from sparsight.sae.model import SAE

NAME = "sdxl_unbox"
FILES = ("config.json", "state_dict.pth")
MORE_FILES: tuple[str, ...] = ()
ACTIVATIONS = ("topk",)
VALID = ("n_dirs_local", "d_model", "k", "auxk", "dead_steps_threshold")
DEAD_STEPS = 10_000_000 // 4096  # their default: ten million tokens in batches of 4096


def read(folder: Path) -> SAE:
    """The SAE of an sdxl-unbox folder, frozen; its site is taken from the folder's name where it tells one."""
    path = folder / FILES[0]
    config = config_of(path)
    require_keys(config, VALID, path)
    d_in, d_sae = whole(config, "d_model", path), whole(config, "n_dirs_local", path)
    shapes = {
        "encoder.weight": (d_sae, d_in),
        "decoder.weight": (d_in, d_sae),
        "pre_bias": (d_in,),
        "latent_bias": (d_sae,),
    }
    found = tensors_of(folder / FILES[1], shapes, {"stats_last_nonzero": (d_sae,)}, inside="state_dict")
    plain = Plain(found["encoder.weight"].t(), found["latent_bias"], found["decoder.weight"].t(), found["pre_bias"])
    site = site_in(folder)
    extra = provenance(NAME, config, f"{site}:update" if site else None)
    return to_sae(plain, "topk", whole(config, "k", path), extra, str(folder))


def write(sae: SAE, folder: Path) -> None:
    """Write a TopK SAE as sdxl-unbox does, its input statistics folded into the weights and its `prefixes` left out."""
    require_expressible(sae, ACTIVATIONS, NAME)
    plain, d_sae = fold(sae, pre_bias=True), sae.config.d_sae
    state = {
        "encoder.weight": plain.W_enc.t().contiguous(), "decoder.weight": plain.W_dec.t().contiguous(),
        "pre_bias": plain.b_dec, "latent_bias": plain.b_enc, "stats_last_nonzero": torch.zeros(d_sae, dtype=torch.long),
    }  # fmt: skip
    with atomic(folder / FILES[1]) as temporary:
        torch.save({"state_dict": state}, temporary)
    config = {"n_dirs_local": d_sae, "d_model": sae.config.d_in, "k": sae.config.k}
    write_json(folder / FILES[0], config | {"auxk": None, "dead_steps_threshold": DEAD_STEPS})
