"""The peers' own packages, where they are installed, read what we write and write what we read."""

import json
from importlib import import_module

import pytest
import torch

from sae import peers
from sae.test_formats import close
from sae.test_formats_export import ours
from sparsight import SparsightError, export_sae, import_sae
from sparsight.sae.config import ACTIVATIONS


def shake(module):
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.add_(0.3 * peers.numbers(*parameter.shape, seed=index))
    return module


def lens_class(lens, activation):
    """SAELens' class for use of an activation, its config's, and what that wants besides the sizes."""
    more = {"k": peers.K, "rescale_acts_by_decoder_norm": True} if activation == "topk" else {}
    name = {"relu": "Standard", "topk": "TopK", "gated": "Gated"}.get(activation, "JumpReLU")
    return getattr(lens, f"{name}SAE"), getattr(lens, f"{name}SAEConfig"), more


@pytest.mark.parametrize("pre_bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sae_lens(tmp_path, activation, pre_bias):
    lens, x = pytest.importorskip("sae_lens"), peers.inputs()
    kind, config, more = lens_class(lens, activation)
    theirs = shake(kind(config(d_in=peers.D, d_sae=peers.M, apply_b_dec_to_input=pre_bias, **more)))
    theirs.save_model(tmp_path / "theirs")
    close(import_sae(tmp_path / "theirs").encode(x), theirs.encode(x).detach())
    close(import_sae(tmp_path / "theirs")(x), theirs(x).detach())
    sae = ours(activation, pre_bias, prefixes=(5, 15))
    export_sae(sae, tmp_path / "ours", "saelens")
    loaded = lens.SAE.load_from_disk(tmp_path / "ours")
    assert isinstance(loaded, kind)
    close(loaded.encode(x).detach(), sae.encode(x))
    close(loaded(x).detach(), sae(x))


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("widths", [[], [5, 15, peers.M]])
def test_sae_lens_trains_batchtopk_and_saves_jumprelu(tmp_path, widths, rescale):
    """What it saves for use is read; the checkpoint of its training is not."""
    lens, x = pytest.importorskip("sae_lens"), peers.inputs()
    name = "MatryoshkaBatchTopK" if widths else "BatchTopK"
    more = {"rescale_acts_by_decoder_norm": rescale} | ({"matryoshka_widths": widths} if widths else {})
    config = getattr(lens, f"{name}TrainingSAEConfig")(d_in=peers.D, d_sae=peers.M, k=peers.K, **more)
    trained = shake(getattr(lens, f"{name}TrainingSAE")(config))
    trained.topk_threshold.fill_(0.4)
    trained.save_model(tmp_path / "checkpoint")
    with pytest.raises(SparsightError, match="save_inference_model"):
        import_sae(tmp_path / "checkpoint")
    trained.save_inference_model(tmp_path / "theirs")
    theirs, sae = lens.SAE.load_from_disk(tmp_path / "theirs"), import_sae(tmp_path / "theirs")
    close(sae.encode(x), theirs.encode(x).detach())
    close(sae(x), theirs(x).detach())
    assert sae.config.activation == "jumprelu" and sae.config.prefixes == tuple(widths[:-1])


@pytest.mark.parametrize("name", ["Standard", "JumpReLU", "Gated"])
def test_checkpoints_of_sae_lens(tmp_path, name):
    """A training's checkpoint has more in its config, and loads as the SAE for use does."""
    lens, x = pytest.importorskip("sae_lens"), peers.inputs()
    config = getattr(lens, f"{name}TrainingSAEConfig")(d_in=peers.D, d_sae=peers.M)
    trained = shake(getattr(lens, f"{name}TrainingSAE")(config))
    trained.save_model(tmp_path)
    close(import_sae(tmp_path).encode(x), lens.SAE.load_from_disk(tmp_path).encode(x).detach())


def test_sparsify(tmp_path):
    sparsify, x = pytest.importorskip("sparsify"), peers.inputs()
    theirs = shake(sparsify.SparseCoder(peers.D, sparsify.SparseCoderConfig(num_latents=peers.M, k=peers.K)))
    theirs.save_to_disk(tmp_path / "theirs")
    export_sae(ours("topk", False), tmp_path / "ours", "sparsify")
    for folder in ("theirs", "ours"):
        loaded, sae = sparsify.SparseCoder.load_from_disk(tmp_path / folder), import_sae(tmp_path / folder)
        code = loaded.encode(x)
        close(sae.encode(x), torch.zeros(len(x), peers.M).scatter(1, code.top_indices, code.top_acts).detach())
        close(sae(x), loaded(x).sae_out.detach())
    close(import_sae(tmp_path / "ours").encode(x), ours("topk", False).encode(x))


# Their class: its module, what it is made with, and the SAE of ours that is written as it (AutoEncoder is only read).
DICTIONARIES = {
    "AutoEncoder": ("dictionary", {}, ("relu", ())),
    "AutoEncoderNew": ("dictionary", {}, ("relu", ())),
    "AutoEncoderTopK": ("trainers.top_k", {"k": peers.K}, ("topk", (5, 15))),
    "BatchTopKSAE": ("trainers.batch_top_k", {"k": peers.K}, ("batchtopk", ())),
    "MatryoshkaBatchTopKSAE": (
        "trainers.matryoshka_batch_top_k",
        {"k": peers.K, "group_sizes": peers.GROUPS},
        ("batchtopk", (5, 15)),
    ),
    "JumpReluAutoEncoder": ("dictionary", {}, ("jumprelu", ())),
    "GatedAutoEncoder": ("dictionary", {}, ("gated", (5, 15))),
}


@pytest.mark.parametrize("pre_bias", [True, False])
@pytest.mark.parametrize("kind", DICTIONARIES)
def test_dictionary_learning(tmp_path, kind, pre_bias):
    pytest.importorskip("dictionary_learning.dictionary")
    module, options, (activation, prefixes) = DICTIONARIES[kind]
    library, utils = (import_module(f"dictionary_learning.{name}") for name in (module, "utils"))
    theirs, x = shake(getattr(library, kind)(peers.D, peers.M, **options)), peers.inputs()
    if activation == "batchtopk":
        theirs.threshold.fill_(0.8)
    (tmp_path / "theirs").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "theirs" / "ae.pt")
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({"trainer": {"dict_class": kind, **options}}))
    made = ours(activation, pre_bias, prefixes=prefixes)
    export_sae(made, tmp_path / "ours", "dictionary_learning")
    for folder in ("theirs", "ours"):
        loaded, _ = utils.load_dictionary(str(tmp_path / folder), "cpu")
        sae = import_sae(tmp_path / folder)
        assert kind == "AutoEncoder" or type(loaded) is type(theirs)
        close(sae.encode(x), loaded.encode(x).detach())
        close(sae(x), loaded.decode(loaded.encode(x)).detach())
    close(loaded.encode(x).detach(), made.encode(x))
    close(loaded(x).detach(), made(x))
