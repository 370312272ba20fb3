"""The peers' own packages, where they are installed, read what we write and write what we read."""

import json
from importlib import import_module

import pytest
import torch

from sae import peers
from sae.test_formats import close, ours
from sparsight import export_sae, import_sae


def shake(module):
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.add_(0.3 * peers.numbers(*parameter.shape, seed=index))
    return module


@pytest.mark.parametrize("pre_bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_sae_lens(tmp_path, activation, pre_bias):
    lens, x = pytest.importorskip("sae_lens"), peers.inputs()
    sizes = {"d_in": peers.D, "d_sae": peers.M, "apply_b_dec_to_input": pre_bias}
    if activation == "topk":
        config = lens.TopKSAEConfig(k=peers.K, rescale_acts_by_decoder_norm=True, **sizes)
        theirs = shake(lens.TopKSAE(config))
    else:
        theirs = shake(lens.StandardSAE(lens.StandardSAEConfig(**sizes)))
    theirs.save_model(tmp_path / "theirs")
    close(import_sae(tmp_path / "theirs").encode(x), theirs.encode(x).detach())
    close(import_sae(tmp_path / "theirs")(x), theirs(x).detach())
    sae = ours(activation, pre_bias)
    export_sae(sae, tmp_path / "ours", "saelens")
    loaded = lens.SAE.load_from_disk(tmp_path / "ours")
    close(loaded.encode(x).detach(), sae.encode(x))
    close(loaded(x).detach(), sae(x))


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


@pytest.mark.parametrize("kind", ["AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK"])
def test_dictionary_learning(tmp_path, kind):
    library, x = pytest.importorskip("dictionary_learning.dictionary"), peers.inputs()
    trainers, utils = map(import_module, ("dictionary_learning.trainers.top_k", "dictionary_learning.utils"))
    options = {"k": peers.K} if kind == "AutoEncoderTopK" else {}
    theirs = shake(getattr(trainers if options else library, kind)(peers.D, peers.M, **options))
    (tmp_path / "theirs").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "theirs" / "ae.pt")
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({"trainer": {"dict_class": kind, **options}}))
    export_sae(ours("topk" if options else "relu", False), tmp_path / "ours", "dictionary_learning")
    for folder in ("theirs", "ours"):
        loaded, _ = utils.load_dictionary(str(tmp_path / folder), "cpu")
        sae = import_sae(tmp_path / folder)
        close(sae.encode(x), loaded.encode(x).detach())
        close(sae(x), loaded.decode(loaded.encode(x)).detach())
