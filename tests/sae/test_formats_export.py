"""SAEs written for other libraries: what is read there by their equations is what ours computes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from sae import peers
from sae.test_formats import close
from sparsight import SAE, SAEConfig, SparsightError, export_sae, import_sae
from sparsight.sae.config import ACTIVATIONS
from sparsight.sae.formats import detect_format


def ours(activation, pre_bias, **more):
    """An SAE whose statistics, biases and own parameters are all far from where they start."""
    sae = SAE(SAEConfig(peers.D, peers.M, activation, k=peers.K, pre_bias=pre_bias, **more), seed=1)
    sae.set_statistics(torch.linspace(-3, 3, peers.D), 0.6)
    with torch.no_grad():
        sae.b_enc.copy_(peers.numbers(peers.M, seed=2))
        sae.b_dec.copy_(peers.numbers(peers.D, seed=3))
        for seed, parameter in enumerate(sae.own.values()):
            parameter.copy_(0.5 * peers.numbers(*parameter.shape, seed=seed))
        if activation == "batchtopk":
            sae.threshold.fill_(0.7)
    sae.extra = {"site": "mid_block", "model": "toy"}
    return sae.requires_grad_(False)


def as_saelens(folder, x):
    config, w = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    assert config["metadata"]["hook_name"] == "mid_block" and config["normalize_activations"] == "none"
    assert w.keys() == peers.saelens_state(config["architecture"]).keys()
    product = (x - w["b_dec"] * config["apply_b_dec_to_input"]) @ w["W_enc"]
    z = {
        "standard": lambda: (product + w["b_enc"]).clamp_min(0),
        "topk": lambda: peers.best(product + w["b_enc"], config["k"]),
        "jumprelu": lambda: peers.above(product + w["b_enc"], w["threshold"]),
        "gated": lambda: peers.gate_and_size(product, w["b_gate"], w["r_mag"], w["b_mag"]),
    }[config["architecture"]]()
    return z, z @ w["W_dec"] + w["b_dec"]


def as_sparsify(folder, x):
    config, w = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae.safetensors")
    z = peers.best((x - w["b_dec"]) @ w["encoder.weight"].t() + w["encoder.bias"], config["k"])
    assert config["num_latents"] == peers.M and config["d_in"] == peers.D
    return z, z @ w["W_dec"] + w["b_dec"]


def as_sdxl_unbox(folder, x):
    config = json.loads((folder / "config.json").read_text())
    w = torch.load(folder / "state_dict.pth", weights_only=True)["state_dict"]
    assert w.keys() == peers.sdxl_unbox_state().keys() and config.keys() == peers.sdxl_unbox_config().keys()
    z = peers.best((x - w["pre_bias"]) @ w["encoder.weight"].t() + w["latent_bias"], config["k"])
    return z, z @ w["decoder.weight"].t() + w["pre_bias"]


def as_dictionary_learning(folder, x):
    trainer = json.loads((folder / "config.json").read_text())["trainer"]
    w, kind = torch.load(folder / "ae.pt", weights_only=True), trainer["dict_class"]
    b_dec = next(w[name] for name in ("b_dec", "decoder.bias", "decoder_bias") if name in w)
    encoder, decoder = (w["W_enc"], w["W_dec"]) if "W_enc" in w else (w["encoder.weight"].t(), w["decoder.weight"].t())
    product = (x if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else x - b_dec) @ encoder
    assert "k" not in w or int(w["k"]) == trainer["k"] == peers.K
    z = {
        "AutoEncoderNew": lambda: (product + w["encoder.bias"]).clamp_min(0),
        "AutoEncoderTopK": lambda: peers.best(product + w["encoder.bias"], trainer["k"]),
        "BatchTopKSAE": lambda: peers.above(product + w["encoder.bias"], w["threshold"]),
        "MatryoshkaBatchTopKSAE": lambda: peers.above(product + w["b_enc"], w["threshold"]),
        "JumpReluAutoEncoder": lambda: peers.above(product + w["b_enc"], w["threshold"]),
        "GatedAutoEncoder": lambda: peers.gate_and_size(product, w["gate_bias"], w["r_mag"], w["mag_bias"]),
    }[kind]()
    return z, z @ decoder + b_dec


READ_BY_HAND = {
    "saelens": as_saelens,
    "sparsify": as_sparsify,
    "sdxl_unbox": as_sdxl_unbox,
    "dictionary_learning": as_dictionary_learning,
}


@pytest.mark.parametrize("prefixes", [(), (5, 15)])
@pytest.mark.parametrize("pre_bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", READ_BY_HAND)
def test_an_exported_sae_computes_the_same_in_the_peers_equations(tmp_path, name, activation, pre_bias, prefixes):
    """Input statistics and biases end in the peer's weights, and every latent keeps its value."""
    sae, x = ours(activation, pre_bias, prefixes=prefixes), peers.inputs()
    if activation != "topk" and name in ("sparsify", "sdxl_unbox"):
        with pytest.raises(SparsightError, match=rf"{name} folder cannot hold .*'{activation}' \(valid: topk\)"):
            export_sae(sae, tmp_path / "out", name)
        assert not (tmp_path / "out").exists()
        return
    export_sae(sae, tmp_path / "out", name)
    z, y = READ_BY_HAND[name](tmp_path / "out", x)
    assert 0 < (z > 0).sum() < z.numel()
    close(z, sae.encode(x))
    close(y, sae(x))


@pytest.mark.parametrize("name", READ_BY_HAND)
def test_an_sae_that_is_told_t_stays_at_home(tmp_path, name):
    sae = ours("topk", True, t_edges=(200, 500))
    with pytest.raises(SparsightError, match=rf"t_edges=\[200, 500\]\), which a {name} folder cannot hold") as caught:
        export_sae(sae, tmp_path / "out", name)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    export_sae(sae, tmp_path / "out", "sparsight")
    assert torch.equal(import_sae(tmp_path / "out").encode(peers.inputs(), t=300), sae.encode(peers.inputs(), t=300))


def test_prefixes_are_written_where_the_format_has_a_place(tmp_path):
    """SAELens has its metadata, dictionary_learning a class; elsewhere they are left out."""
    for activation, name, kept in (
        ("batchtopk", "saelens", (5, 15)), ("topk", "saelens", (5, 15)), ("topk", "sparsify", ()),
        ("batchtopk", "dictionary_learning", (5, 15)), ("gated", "dictionary_learning", ()),
    ):  # fmt: skip
        folder = tmp_path / name / activation
        export_sae(ours(activation, True, prefixes=(5, 15, peers.M)), folder, name)
        assert import_sae(folder).config.prefixes == kept
    state = torch.load(tmp_path / "dictionary_learning" / "batchtopk" / "ae.pt", weights_only=True)
    assert state["group_sizes"].tolist() == peers.GROUPS
    lens = json.loads((tmp_path / "saelens" / "batchtopk" / "cfg.json").read_text())
    assert lens["architecture"] == "jumprelu"
    assert lens["metadata"]["training_architecture"] == "matryoshka_batchtopk"
    assert lens["metadata"]["training_architecture_details"] == {"k": peers.K, "matryoshka_widths": [5, 15, peers.M]}


def test_a_batchtopk_sae_comes_back_from_saelens_as_jumprelu(tmp_path):
    export_sae(ours("batchtopk", False), tmp_path, "saelens")
    again = import_sae(tmp_path)
    assert again.config.activation == "jumprelu" and again.config.prefixes == ()
    close(again.log_threshold.exp(), torch.full((peers.M,), 0.7))


def test_our_own_folders_are_a_format_too(tmp_path):
    sae, x = ours("topk", True), peers.inputs()
    sae.save_pretrained(tmp_path)
    assert detect_format(tmp_path) == "sparsight" and torch.equal(import_sae(tmp_path).encode(x), sae.encode(x))
