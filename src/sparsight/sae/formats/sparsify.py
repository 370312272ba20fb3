"""sparsify folders, which SAeUron's are too: cfg.json and sae.safetensors.

Read from eai-sparsify 1.3.3 and from cywinski/SAeUron: top-k of ReLU(encoder(x - b_dec)), then W_dec and + b_dec. SAeUron trains
with one top-k for a whole batch or image and takes k per position whenever it uses the SAE; so does this reader.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from sparsight.errors import SparsightError
from sparsight.files import atomic, write_json
from sparsight.sae.formats.plain import Plain, fold, require_expressible, to_sae
from sparsight.sae.formats.read import config_of, provenance, refuse, require_keys, site_in, tensors_of, whole
from sparsight.sae.model import SAE

NAME = "sparsify"
FILES = ("cfg.json", "sae.safetensors")
MORE_FILES: tuple[str, ...] = ()
ACTIVATIONS = {"topk": "topk"}  # theirs: ours
REFUSED = {
    "transcode": "a transcoder, which reads one activation and writes another",
    "skip_connection": "a linear path around the latents",
    "input_unit_norm": "a normalisation of each token by its own mean and spread",
    "signed": "latents that may be negative",
}
VALID = (
    "d_in", "num_latents", "expansion_factor", "k", "activation", "normalize_decoder", "multi_topk", "batch_topk",
    "sample_topk", *REFUSED,
)  # fmt: skip


def read(folder: Path) -> SAE:
    """The SAE of a sparsify or SAeUron folder, frozen.

    Raises `SparsightError` for transcoders, skip connections, per-token normalisation, signed latents and "groupmax".
    """
    path = folder / FILES[0]
    config = config_of(path)
    require_keys(config, VALID, path)
    refuse(config, REFUSED, path)
    activation = config.get("activation", "topk")
    if activation not in ACTIVATIONS:
        words = f"which a sparsight SAE cannot express (valid: {', '.join(ACTIVATIONS)})"
        raise SparsightError(f"{path} has activation {activation!r}, {words}")
    d_in = whole(config, "d_in", path)
    given = bool(config.get("num_latents"))  # 0 means that the expansion factor says it
    d_sae = whole(config, "num_latents", path) if given else d_in * whole(config, "expansion_factor", path)
    shapes = {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    found = tensors_of(folder / FILES[1], shapes)
    plain = Plain(found["encoder.weight"].t(), found["encoder.bias"], found["W_dec"], found["b_dec"])
    extra = provenance(NAME, config, site_in(folder))
    return to_sae(plain, ACTIVATIONS[activation], whole(config, "k", path), extra, str(folder))


def write(sae: SAE, folder: Path) -> None:
    """Write a TopK SAE as sparsify does, its input statistics folded into the weights and its `prefixes` left out.

    Raises `SparsightError` for other activations: the format has no thresholds, so not even BatchTopK has a place.
    """
    require_expressible(sae, tuple(ACTIVATIONS.values()), NAME)
    plain = fold(sae, pre_bias=True)
    tensors = {
        "encoder.weight": plain.W_enc.t().contiguous(), "encoder.bias": plain.b_enc,
        "W_dec": plain.W_dec, "b_dec": plain.b_dec,
    }  # fmt: skip
    with atomic(folder / FILES[1]) as temporary:
        save_file(tensors, temporary)
    config = {
        "activation": "topk", "expansion_factor": max(1, sae.config.d_sae // sae.config.d_in), "normalize_decoder": False,
        "num_latents": sae.config.d_sae, "k": sae.config.k, "multi_topk": False, "skip_connection": False,
        "transcode": False, "d_in": sae.config.d_in,
    }  # fmt: skip
    write_json(folder / FILES[0], config)
