"""dictionary_learning folders: config.json and ae.pt, whose class `trainer.dict_class` names.

Read from dictionary-learning 0.1.0. `AutoEncoder` subtracts its bias before encoding, and its loader rescales atoms to length 1;
`AutoEncoderNew` subtracts nothing and its loader leaves the atoms alone; `AutoEncoderTopK` is top-k of ReLU(encoder(x - b_dec)).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sparsight.errors import SparsightError
from sparsight.files import atomic, write_json
from sparsight.sae.formats.plain import Plain, fold, require_activation, to_sae
from sparsight.sae.formats.read import config_of, provenance, shape_of, tensors_of, whole
from sparsight.sae.model import SAE

NAME = "dictionary_learning"
FILES = ("config.json", "ae.pt")
MORE_FILES: tuple[str, ...] = ()
ACTIVATIONS = {"relu": "AutoEncoderNew", "topk": "AutoEncoderTopK"}  # ours: the class that we write


def read(folder: Path) -> SAE:
    """The SAE of a dictionary_learning folder, frozen: what their `load_dictionary` gives.

    Raises `SparsightError` for classes other than AutoEncoder, AutoEncoderNew and AutoEncoderTopK.
    """
    config = config_of(folder / FILES[0])
    found = config.get("trainer")
    trainer: dict[str, Any] = found if isinstance(found, dict) else {}
    kind = trainer.get("dict_class")
    if kind not in READERS:
        raise SparsightError(
            f"{folder / FILES[0]} has dict_class {kind!r}, which a sparsight SAE cannot express (valid: {', '.join(READERS)})"
        )
    plain, k = READERS[kind](folder / FILES[1], trainer)
    site = trainer.get("submodule_name")
    return to_sae(plain, "relu" if k is None else "topk", k, provenance(NAME, config, site), str(folder))


def write(sae: SAE, folder: Path) -> None:
    """Write an SAE: ReLU as AutoEncoderNew, whose loader does not rescale the atoms, and TopK as AutoEncoderTopK."""
    require_activation(sae, ACTIVATIONS, NAME)
    topk = sae.config.activation == "topk"
    plain = fold(sae, pre_bias=topk)
    state = {
        "encoder.weight": plain.W_enc.t().contiguous(), "encoder.bias": plain.b_enc,
        "decoder.weight": plain.W_dec.t().contiguous(), "b_dec" if topk else "decoder.bias": plain.b_dec,
    }  # fmt: skip
    if topk:
        state |= {"k": torch.tensor(sae.config.k, dtype=torch.int), "threshold": torch.tensor(-1.0)}
    with atomic(folder / FILES[1]) as temporary:
        torch.save(state, temporary)
    write_json(folder / FILES[0], {"trainer": _trainer(sae), "buffer": {}})


def _trainer(sae: SAE) -> dict[str, Any]:
    site = {"submodule_name": sae.extra["site"]} if "site" in sae.extra else {}
    k = {"k": sae.config.k} if sae.config.activation == "topk" else {}
    sizes = {"activation_dim": sae.config.d_in, "dict_size": sae.config.d_sae}
    return {"dict_class": ACTIVATIONS[sae.config.activation]} | sizes | k | site


def _read(path: Path, bias: str, **optional: tuple[int, ...]) -> tuple[Plain, dict[str, torch.Tensor]]:
    d_sae, d_in = shape_of(path, "encoder.weight")
    shapes = {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,), "decoder.weight": (d_in, d_sae), bias: (d_in,)}
    found = tensors_of(path, shapes, optional)
    return Plain(found["encoder.weight"].t(), found["encoder.bias"], found["decoder.weight"].t(), found[bias]), found


def _autoencoder(path: Path, _: dict[str, Any]) -> tuple[Plain, None]:
    return _read(path, "bias")[0].unit_atoms(), None


def _autoencoder_new(path: Path, _: dict[str, Any]) -> tuple[Plain, None]:
    return _read(path, "decoder.bias")[0]._replace(pre_bias=False), None


def _autoencoder_topk(path: Path, trainer: dict[str, Any]) -> tuple[Plain, int]:
    plain, found = _read(path, "b_dec", k=(), threshold=())
    k = whole(trainer, "k", path.with_name(FILES[0]))
    if "k" in found and int(found["k"]) != k:
        raise SparsightError(f"{path} was made with k = {int(found['k'])}, but its {FILES[0]} says {k}")
    return plain, k


READERS: dict[str, Callable[[Path, dict[str, Any]], tuple[Plain, int | None]]] = {
    "AutoEncoder": _autoencoder, "AutoEncoderNew": _autoencoder_new, "AutoEncoderTopK": _autoencoder_topk,
}  # fmt: skip
