"""dictionary_learning folders: config.json and ae.pt, whose class `trainer.dict_class` names.

Read from dictionary-learning 0.1.0: what its `load_dictionary` returns. `AutoEncoder` alone has its atoms rescaled to length 1
by its loader. `AutoEncoderNew` and `JumpReluAutoEncoder` subtract nothing before encoding, the others their decoder's bias.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.files import atomic, write_json
from sparsight.sae.formats.plain import WEIGHTS, Plain, fold, require_expressible, to_sae
from sparsight.sae.formats.read import Shapes, config_of, provenance, shape_of, tensors_of, whole
from sparsight.sae.matryoshka import blocks_of
from sparsight.sae.model import SAE

NAME = "dictionary_learning"
FILES = ("config.json", "ae.pt")
MORE_FILES: tuple[str, ...] = ()


class Form(NamedTuple):
    """A class of theirs: our activation, our names of its tensors by theirs, and whether it subtracts b_dec from x.

    What they call ".weight" is of a torch `Linear`, and the transpose of ours.
    """

    activation: str
    names: dict[str, str]
    pre_bias: bool = True


CUT_TO_K = ("topk", "batchtopk")
LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
SAME = {name: name for name in WEIGHTS}
CUT = {"threshold": "threshold"}
GATED = {
    "encoder.weight": "W_enc", "gate_bias": "b_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec",
    "r_mag": "r_mag", "mag_bias": "b_mag",
}  # fmt: skip
FORMS = {
    "AutoEncoder": Form("relu", LINEAR | {"bias": "b_dec"}),
    "AutoEncoderNew": Form("relu", LINEAR | {"decoder.bias": "b_dec"}, pre_bias=False),
    "AutoEncoderTopK": Form("topk", LINEAR | {"b_dec": "b_dec"}),
    "BatchTopKSAE": Form("batchtopk", LINEAR | {"b_dec": "b_dec"} | CUT),
    "MatryoshkaBatchTopKSAE": Form("batchtopk", SAME | CUT),
    "JumpReluAutoEncoder": Form("jumprelu", SAME | CUT, pre_bias=False),
    "GatedAutoEncoder": Form("gated", GATED),
}
WRITTEN = {
    "relu": "AutoEncoderNew", "topk": "AutoEncoderTopK", "batchtopk": "BatchTopKSAE", "jumprelu": "JumpReluAutoEncoder",
    "gated": "GatedAutoEncoder",
}  # fmt: skip


def read(folder: Path) -> SAE:
    """The SAE of a dictionary_learning folder, frozen: what their `load_dictionary` gives.

    The group sizes of MatryoshkaBatchTopKSAE become `prefixes`. A threshold below 0, which is that of a BatchTopK training
    that has not measured it yet, becomes 0: both keep what ReLU leaves. Raises `SparsightError` for classes not in `FORMS`.
    """
    config = config_of(folder / FILES[0])
    found = config.get("trainer")
    trainer: dict[str, Any] = found if isinstance(found, dict) else {}
    kind = trainer.get("dict_class")
    if kind not in tuple(FORMS):
        raise SparsightError(
            f"{folder / FILES[0]} has dict_class {kind!r}, which a sparsight SAE cannot express (valid: {', '.join(FORMS)})"
        )
    form, path = FORMS[kind], folder / FILES[1]
    tensors = _tensors(path, kind)
    plain = Plain.of({own: _turned(name, tensors[name]) for name, own in form.names.items()}, form.pre_bias)
    k = _k(path, trainer, tensors) if form.activation in CUT_TO_K else None
    prefixes = _prefixes(path, tensors["group_sizes"], len(plain.b_enc)) if "group_sizes" in tensors else ()
    extra = provenance(NAME, config, trainer.get("submodule_name"))
    plain = plain.unit_atoms() if kind == "AutoEncoder" else plain
    return to_sae(plain, form.activation, k, extra, str(folder), prefixes=prefixes)


def write(sae: SAE, folder: Path) -> None:
    """Write an SAE: ReLU as AutoEncoderNew, whose loader does not rescale the atoms, the others as the class of their name.

    BatchTopK with `prefixes` becomes MatryoshkaBatchTopKSAE; with other activations the prefixes have no place and are left out.
    """
    require_expressible(sae, WRITTEN, NAME)
    groups = [high - low for low, high in blocks_of(sae.config.prefixes, sae.config.d_sae)]
    nested = sae.config.activation == "batchtopk" and len(groups) > 1
    kind = "MatryoshkaBatchTopKSAE" if nested else WRITTEN[sae.config.activation]
    ours = fold(sae, FORMS[kind].pre_bias).tensors()
    state = {name: _turned(name, ours[own]).contiguous() for name, own in FORMS[kind].names.items()}
    if sae.config.activation in CUT_TO_K:  # -1 stands for a threshold that was never measured, as TopK's need not be
        state = {"k": torch.tensor(sae.config.k, dtype=torch.int), "threshold": torch.tensor(-1.0)} | state
    with atomic(folder / FILES[1]) as temporary:
        torch.save(state | ({"group_sizes": torch.tensor(groups)} if nested else {}), temporary)
    write_json(folder / FILES[0], {"trainer": _trainer(sae, kind, groups if nested else []), "buffer": {}})


def _trainer(sae: SAE, kind: str, groups: list[int]) -> dict[str, Any]:
    site = {"submodule_name": sae.extra["site"]} if "site" in sae.extra else {}
    k = {"k": sae.config.k} if sae.config.activation in CUT_TO_K else {}
    sizes = {"activation_dim": sae.config.d_in, "dict_size": sae.config.d_sae}
    return {"dict_class": kind} | sizes | k | ({"group_sizes": groups} if groups else {}) | site


def _linear(name: str) -> bool:
    return name.endswith(".weight")


def _turned(name: str, tensor: Tensor) -> Tensor:
    """A tensor that they call `name`, from their way of holding it to ours or back."""
    return tensor.t() if _linear(name) else tensor


def _tensors(path: Path, kind: str) -> dict[str, Tensor]:
    """Their tensors by their names, whose sizes the encoder tells."""
    names = FORMS[kind].names
    encoder = next(iter(names))
    rows, columns = shape_of(path, encoder)
    d_sae, d_in = (rows, columns) if _linear(encoder) else (columns, rows)
    sizes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    if FORMS[kind].activation == "batchtopk":
        sizes["threshold"] = ()
    shapes: Shapes = {name: sizes.get(own, (d_sae,))[:: -1 if _linear(name) else 1] for name, own in names.items()} | (
        {"group_sizes": (None,)} if kind == "MatryoshkaBatchTopKSAE" else {}
    )
    optional = {"topk": ("k", "threshold"), "batchtopk": ("k",)}.get(FORMS[kind].activation, ())
    return tensors_of(path, shapes, dict.fromkeys(optional, ()))


def _k(path: Path, trainer: dict[str, Any], tensors: dict[str, Tensor]) -> int:
    k = whole(trainer, "k", path.with_name(FILES[0]))
    if "k" in tensors and int(tensors["k"]) != k:
        raise SparsightError(f"{path} was made with k = {int(tensors['k'])}, but its {FILES[0]} says {k}")
    return k


def _prefixes(path: Path, groups: Tensor, d_sae: int) -> tuple[int, ...]:
    """The sizes of nested dictionaries, without the whole one, from how many latents each adds."""
    if groups.is_floating_point() or bool((groups < 1).any()) or int(groups.sum()) != d_sae:
        raise SparsightError(f"{path} has group sizes {groups.tolist()}, which are no parts of {d_sae} latents")
    return tuple(groups.cumsum(0)[:-1].tolist())
