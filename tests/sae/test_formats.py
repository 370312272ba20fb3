"""SAEs of other libraries: what is read encodes and decodes as it does there, and so does what is written."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

import sparsight
from sae import peers
from sparsight import SAE, SAEConfig, SparsightError, export_sae, import_sae
from sparsight.sae.formats import FORMATS, detect_format

CASES = {
    "saelens standard": ("saelens", peers.saelens),
    "saelens standard, no pre-bias": ("saelens", partial(peers.saelens, pre_bias=False)),
    "saelens topk": ("saelens", partial(peers.saelens, architecture="topk")),
    "saelens topk, rescaled": ("saelens", partial(peers.saelens, architecture="topk", rescale=True)),
    "saelens topk, rescaled, no pre-bias": (
        "saelens",
        partial(peers.saelens, architecture="topk", rescale=True, pre_bias=False),
    ),
    "saelens with an activation scaler": ("saelens", partial(peers.saelens, factor=0.37)),
    "sparsify": ("sparsify", peers.sparsify),
    "SAeUron": ("sparsify", partial(peers.sparsify, config=peers.saeuron_config())),
    "sdxl-unbox": ("sdxl_unbox", peers.sdxl_unbox),
    "dictionary_learning AutoEncoder": ("dictionary_learning", peers.dictionary),
    "dictionary_learning AutoEncoderNew": ("dictionary_learning", partial(peers.dictionary, kind="AutoEncoderNew")),
    "dictionary_learning TopK": ("dictionary_learning", partial(peers.dictionary, kind="AutoEncoderTopK")),
}
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_an_imported_sae_computes_what_the_peer_computes(tmp_path, case):
    name, build = CASES[case]
    x = peers.inputs()
    folder, z, y = build(tmp_path / "sae", x)
    assert detect_format(folder) == name
    sae = import_sae(folder)
    assert 0 < (z > 0).sum() < z.numel()
    close(sae.encode(x), z)
    close(sae.decode(z), y)
    close(sae(x), y)
    assert sae.extra["source_format"] == name and not any(p.requires_grad for p in sae.parameters())


@pytest.mark.parametrize("case", CASES)
def test_an_imported_sae_is_an_ordinary_one(tmp_path, case):
    """It saves and loads as any other, remembers its origin, and goes back to the format that it came from."""
    name, build = CASES[case]
    x = peers.inputs()
    folder, z, y = build(tmp_path / "sae", x)
    import_sae(folder).save_pretrained(tmp_path / "ours")
    again = SAE.from_pretrained(tmp_path / "ours")
    close(again.encode(x), z)
    assert again.extra["source_config"]
    export_sae(again, tmp_path / "back", name)
    assert detect_format(tmp_path / "back") == name
    back = import_sae(tmp_path / "back")
    close(back.encode(x), z)
    close(back(x), y)


def ours(activation, pre_bias):
    sae = SAE(SAEConfig(peers.D, peers.M, activation, k=peers.K, pre_bias=pre_bias), seed=1)
    sae.set_statistics(torch.linspace(-3, 3, peers.D), 0.6)
    with torch.no_grad():
        sae.b_enc.copy_(peers.numbers(peers.M, seed=2))
        sae.b_dec.copy_(peers.numbers(peers.D, seed=3))
    sae.extra = {"site": "mid_block", "model": "toy"}
    return sae.requires_grad_(False)


def as_saelens(folder, x):
    config, w = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    assert config["metadata"]["hook_name"] == "mid_block" and config["normalize_activations"] == "none"
    pre = (x - w["b_dec"] * config["apply_b_dec_to_input"]) @ w["W_enc"] + w["b_enc"]
    z = peers.best(pre, config["k"]) if config["architecture"] == "topk" else pre.clamp_min(0)
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
    w = torch.load(folder / "ae.pt", weights_only=True)
    if trainer["dict_class"] == "AutoEncoderNew":
        z = (x @ w["encoder.weight"].t() + w["encoder.bias"]).clamp_min(0)
        return z, z @ w["decoder.weight"].t() + w["decoder.bias"]
    assert trainer["dict_class"] == "AutoEncoderTopK" and int(w["k"]) == trainer["k"]
    z = peers.best((x - w["b_dec"]) @ w["encoder.weight"].t() + w["encoder.bias"], trainer["k"])
    return z, z @ w["decoder.weight"].t() + w["b_dec"]


READ_BY_HAND = {
    "saelens": as_saelens,
    "sparsify": as_sparsify,
    "sdxl_unbox": as_sdxl_unbox,
    "dictionary_learning": as_dictionary_learning,
}


@pytest.mark.parametrize("pre_bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "topk"])
@pytest.mark.parametrize("name", READ_BY_HAND)
def test_an_exported_sae_computes_the_same_in_the_peers_equations(tmp_path, name, activation, pre_bias):
    """Input statistics and biases end in the peer's weights, and every latent keeps its value."""
    sae, x = ours(activation, pre_bias), peers.inputs()
    if activation == "relu" and name in ("sparsify", "sdxl_unbox"):
        with pytest.raises(SparsightError, match=rf"{name} folder cannot hold .*'relu' \(valid: topk\)"):
            export_sae(sae, tmp_path / "out", name)
        assert not (tmp_path / "out").exists()
        return
    export_sae(sae, tmp_path / "out", name)
    z, y = READ_BY_HAND[name](tmp_path / "out", x)
    close(z, sae.encode(x))
    close(y, sae(x))


def test_the_site_is_read_where_the_folder_tells_it(tmp_path):
    x, block = peers.inputs(), "unet.up_blocks.0.attentions.1"
    folder, *_ = peers.sdxl_unbox(tmp_path / f"{block}_k10_hidden5120_auxk256_bs4096_lr0.0001" / "final", x)
    assert import_sae(folder).extra["site"] == "up_blocks.0.attentions.1:update"
    folder, *_ = peers.sparsify(tmp_path / block, x)
    assert import_sae(folder).extra["site"] == "up_blocks.0.attentions.1"
    folder, *_ = peers.sparsify(tmp_path / "elsewhere", x)
    assert "site" not in import_sae(folder).extra
    folder, *_ = peers.saelens(tmp_path / "lens", x)
    assert import_sae(folder).extra["site"] == "mid_block"


def test_older_saelens_configs_are_understood(tmp_path):
    """Before version 6 the config was the whole training run, and TopK was a "standard" SAE with another activation."""
    x = peers.inputs()
    folder, z, _ = peers.saelens(tmp_path, x, architecture="topk")
    old = {
        "architecture": "standard", "d_in": peers.D, "d_sae": peers.M, "activation_fn_str": "topk", "lr": 1e-3,
        "activation_fn_kwargs": {"k": peers.K}, "hook_point": "blocks.8.hook_resid_pre", "normalize_activations": False,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(old))
    save_file(
        load_file(folder / "sae_weights.safetensors") | {"scaling_factor": torch.ones(peers.M)},
        folder / "sae_weights.safetensors",
    )
    sae = import_sae(folder)
    close(sae.encode(x), z)
    assert sae.extra["site"] == "blocks.8.hook_resid_pre"


def test_half_precision_weights_become_fp32(tmp_path):
    folder, *_ = peers.sparsify(tmp_path, peers.inputs())
    state = {k: v.to(torch.bfloat16) for k, v in load_file(folder / "sae.safetensors").items()}
    save_file(state, folder / "sae.safetensors")
    sae = import_sae(folder)
    assert sae.W_dec.dtype == torch.float32 and torch.equal(sae.W_dec, state["W_dec"].float())


def test_the_long_names_are_at_the_top():
    assert sparsight.SparseAutoencoder is SAE and sparsight.import_sae is import_sae
    assert set(FORMATS) == {"sparsight", *READ_BY_HAND}


def test_our_own_folders_are_a_format_too(tmp_path):
    sae, x = ours("topk", True), peers.inputs()
    sae.save_pretrained(tmp_path)
    assert detect_format(tmp_path) == "sparsight" and torch.equal(import_sae(tmp_path).encode(x), sae.encode(x))


def test_the_hub_is_asked_for_every_formats_files(tmp_path, monkeypatch):
    _, z, _ = peers.sparsify(tmp_path / "unet.mid_block", peers.inputs())
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr("sparsight.sae.hub.snapshot_download", download)
    close(import_sae("someone/saes", subfolder="unet.mid_block").encode(peers.inputs()), z)
    assert {f"unet.mid_block/{f}" for f in ("cfg.json", "sae.safetensors", "ae.pt")} <= set(asked["allow_patterns"])
