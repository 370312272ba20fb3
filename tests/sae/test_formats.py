"""SAEs of other libraries: what is read encodes and decodes as it does there, and so does what is written."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

import sparsight
from sae import peers
from sparsight import SAE, export_sae, import_sae
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
    "saelens jumprelu": ("saelens", partial(peers.saelens, architecture="jumprelu")),
    "saelens jumprelu, no pre-bias": ("saelens", partial(peers.saelens, architecture="jumprelu", pre_bias=False)),
    "saelens jumprelu, scaled": ("saelens", partial(peers.saelens, architecture="jumprelu", factor=0.37)),
    "saelens gated": ("saelens", partial(peers.saelens, architecture="gated")),
    "saelens gated, no pre-bias": ("saelens", partial(peers.saelens, architecture="gated", pre_bias=False)),
    "saelens gated, scaled": ("saelens", partial(peers.saelens, architecture="gated", factor=0.37)),
    "sparsify": ("sparsify", peers.sparsify),
    "SAeUron": ("sparsify", partial(peers.sparsify, config=peers.saeuron_config())),
    "sdxl-unbox": ("sdxl_unbox", peers.sdxl_unbox),
    "dictionary_learning AutoEncoder": ("dictionary_learning", peers.dictionary),
    "dictionary_learning AutoEncoderNew": ("dictionary_learning", partial(peers.dictionary, kind="AutoEncoderNew")),
    "dictionary_learning TopK": ("dictionary_learning", partial(peers.dictionary, kind="AutoEncoderTopK")),
    "dictionary_learning BatchTopK": ("dictionary_learning", partial(peers.dictionary, kind="BatchTopKSAE")),
    "dictionary_learning BatchTopK, threshold not measured": (
        "dictionary_learning",
        partial(peers.dictionary, kind="BatchTopKSAE", threshold=-1.0),
    ),
    "dictionary_learning Matryoshka": (
        "dictionary_learning",
        partial(peers.dictionary, kind="MatryoshkaBatchTopKSAE"),
    ),
    "dictionary_learning JumpReLU": ("dictionary_learning", partial(peers.dictionary, kind="JumpReluAutoEncoder")),
    "dictionary_learning Gated": ("dictionary_learning", partial(peers.dictionary, kind="GatedAutoEncoder")),
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
    close(sae.encode_latents(x, [7, 2]), z[:, [7, 2]])
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


def test_matryoshka_widths_become_prefixes(tmp_path):
    """dictionary_learning counts the latents that each size adds, SAELens the sizes, the whole dictionary's too."""
    x, details = peers.inputs(), {"k": 4, "matryoshka_widths": [5, 15, peers.M]}
    folder, *_ = peers.dictionary(tmp_path / "groups", x, "MatryoshkaBatchTopKSAE")
    assert import_sae(folder).config.prefixes == (5, 15) and import_sae(folder).config.k == peers.K
    metadata = {"training_architecture": "matryoshka_batchtopk", "training_architecture_details": details}
    folder, *_ = peers.saelens(tmp_path / "lens", x, "jumprelu", metadata=metadata)
    assert import_sae(folder).config.prefixes == (5, 15) and import_sae(folder).config.activation == "jumprelu"


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
    assert set(FORMATS) == {"sparsight", *(name for name, _ in CASES.values())}


def test_the_hub_is_asked_for_every_formats_files(tmp_path, monkeypatch):
    _, z, _ = peers.sparsify(tmp_path / "unet.mid_block", peers.inputs())
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr("sparsight.sae.hub.snapshot_download", download)
    close(import_sae("someone/saes", subfolder="unet.mid_block").encode(peers.inputs()), z)
    assert {f"unet.mid_block/{f}" for f in ("cfg.json", "sae.safetensors", "ae.pt")} <= set(asked["allow_patterns"])
