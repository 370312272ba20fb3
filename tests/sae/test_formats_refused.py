"""What cannot be read exactly is refused, in one sentence that names what and says what is valid."""

import json
import os
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae import peers
from sparsight import SAE, SAEConfig, SparsightError, export_sae, import_sae
from sparsight.sae.formats import detect_format


def lens(config=None, state=None, **more):
    return lambda f: peers.put(
        f, config or peers.saelens_config(**more), "sae_weights.safetensors", state or peers.saelens_state()
    )


def coder(config=None, state=None, **more):
    return lambda f: peers.put(
        f, config or peers.sparsify_config(**more), "sae.safetensors", state or peers.sparsify_state()
    )


def unbox(state=None, **more):
    content = {"state_dict": peers.sdxl_unbox_state()} if state is None else state
    return lambda f: peers.put(f, peers.sdxl_unbox_config(**more), "state_dict.pth", content, "config.json")


def spoiled(build, spoil):
    def work(folder):
        build(folder, peers.inputs())
        spoil(folder)
        return folder

    return work


def trainer(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"trainer": config["trainer"] | changes}))


def old_lens(**more):
    return lens({"d_in": peers.D, "d_sae": peers.M} | more)


def pickled(folder, **changes):
    state = torch.load(folder / "ae.pt", weights_only=True) | changes
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, folder / "ae.pt")


matryoshka = partial(peers.dictionary, kind="MatryoshkaBatchTopKSAE")
topk_dictionary = partial(peers.dictionary, kind="AutoEncoderTopK")
REFUSED = {
    "temporal": (
        lens(architecture="temporal", n_attn_layers=1),
        r"architecture 'temporal'.*\(valid: standard, topk, jumprelu, gated\)",
    ),
    "architecture list": (lens(architecture=["gated"]), r"architecture \['gated'\], which a sparsight SAE cannot"),
    "checkpoint": (
        lens(architecture="matryoshka_batchtopk", topk_threshold_lr=0.01),
        r"a checkpoint of a matryoshka_batchtopk training.*\(save_inference_model\)",
    ),
    "no threshold": (lens(architecture="jumprelu"), "lacks tensors: threshold"),
    "one threshold": (
        lens(architecture="jumprelu", state=peers.saelens_state() | {"threshold": torch.ones(())}),
        r"threshold in .* has shape \(\), not \(30,\)",
    ),
    "gated with b_enc": (
        lens(architecture="gated", state=peers.saelens_state("gated") | {"b_enc": torch.ones(peers.M)}),
        "unexpected tensors: b_enc",
    ),
    "widths": (
        lens(metadata={"training_architecture_details": {"matryoshka_widths": 5}}),
        "matryoshka_widths 5, which is no list",
    ),
    "falling widths": (
        lens(metadata={"training_architecture_details": {"matryoshka_widths": [15, 5]}}),
        "prefixes must be a list of increasing whole numbers",
    ),
    "metadata": (lens(metadata=[1]), r"metadata \[1\], which is no JSON object"),
    "layer norm": (lens(normalize_activations="layer_norm"), "normalises its input by 'layer_norm'"),
    "whitening": (lens(normalize_activations="covariance_whitening"), "normalises its input by 'covariance_whitening'"),
    "no factor": (lens(normalize_activations="expected_average_only_in"), "activation_scaler.json .* is missing"),
    "heads": (lens(reshape_activations="hook_z"), "attention heads"),
    "old heads": (old_lens(hook_point="blocks.3.attn.hook_z"), "attention heads"),
    "old activation": (old_lens(activation_fn_str="tanh-relu"), r"activation 'tanh-relu'.*\(valid: relu, topk\)"),
    "fine-tuned": (old_lens(finetuning_scaling_factor=True), "finetuning_scaling_factor=True"),
    "factors": (lens(state=peers.saelens_state() | {"scaling_factor": torch.full((peers.M,), 2.0)}), "scaling_factor"),
    "unknown key": (lens(norm_of_input=3), r"unknown key of .*cfg.json 'norm_of_input'"),
    "no k": (lens(architecture="topk", k=None), "whole number of at least 1 under 'k', not None"),
    "tensors": (lens(state={"W_enc": torch.ones(peers.D, peers.M)}), "lacks tensors: W_dec, b_dec, b_enc"),
    "threshold": (
        lens(state=peers.saelens_state() | {"threshold": torch.ones(peers.M)}),
        "unexpected tensors: threshold",
    ),
    "transposed": (
        lens(state=peers.saelens_state() | {"W_enc": torch.ones(peers.M, peers.D)}),
        r"W_enc in .* has shape \(30, 6\), not \(6, 30\)",
    ),
    "groupmax": (coder(activation="groupmax"), r"activation 'groupmax'.*\(valid: topk\)"),
    "transcoder": (coder(transcode=True), "transcode=True: a transcoder"),
    "skip": (coder(skip_connection=True), "skip_connection=True: a linear path"),
    "skip tensor": (
        coder(state=peers.sparsify_state() | {"W_skip": torch.ones(peers.D, peers.D)}),
        "unexpected tensors: W_skip",
    ),
    "unit norm": (
        coder(peers.saeuron_config(input_unit_norm=True)),
        "input_unit_norm=True: a normalisation of each token",
    ),
    "signed": (coder(signed=True), "signed=True: latents that may be negative"),
    "sparsify key": (coder(activaton="topk"), r"unknown key of .*cfg.json 'activaton': did you mean 'activation'"),
    "wrong size": (coder(num_latents=31), r"has shape \(30, 6\), not \(31, 6\)"),
    "size as text": (coder(num_latents="30"), "at least 1 under 'num_latents', not '30'"),
    "k too large": (coder(k=31), "k must lie between 1 and d_sae = 30"),
    "flat pickle": (unbox(state=peers.sdxl_unbox_state()), "is no dictionary of tensors under 'state_dict'"),
    "list": (unbox(state=[1, 2]), "is no dictionary of tensors"),
    "unbox size": (unbox(d_model=7), r"has shape \(30, 6\), not \(30, 7\)"),
    "unbox key": (unbox(activation="relu"), r"unknown key of .*config.json 'activation'"),
    "class": (
        spoiled(topk_dictionary, lambda f: trainer(f, dict_class="IdentityDict")),
        r"dict_class 'IdentityDict'.*\(valid: AutoEncoder, .*, GatedAutoEncoder\)",
    ),
    "class list": (spoiled(topk_dictionary, lambda f: trainer(f, dict_class=[])), r"dict_class \[\], which"),
    "groups": (
        spoiled(matryoshka, lambda f: pickled(f, group_sizes=torch.tensor([5, 10]))),
        r"group sizes \[5, 10\], which are no parts of 30 latents",
    ),
    "no groups": (spoiled(matryoshka, lambda f: pickled(f, group_sizes=None)), "lacks tensors: group_sizes"),
    "matrix of groups": (
        spoiled(matryoshka, lambda f: pickled(f, group_sizes=torch.ones(2, 2))),
        r"group_sizes in .* has shape \(2, 2\), not \(any,\)",
    ),
    "no batch threshold": (spoiled(matryoshka, lambda f: pickled(f, threshold=None)), "lacks tensors: threshold"),
    "no class": (spoiled(peers.dictionary, lambda f: (f / "config.json").write_text("{}")), "dict_class None"),
    "two ks": (spoiled(topk_dictionary, lambda f: trainer(f, k=5)), "was made with k = 4, but its config.json says 5"),
    "not JSON": (spoiled(peers.sparsify, lambda f: (f / "cfg.json").write_text("{")), "not readable JSON"),
    "JSON list": (spoiled(peers.sparsify, lambda f: (f / "cfg.json").write_text("[]")), "is not a JSON object"),
    "cut": (spoiled(peers.sparsify, lambda f: (f / "sae.safetensors").write_bytes(b"x" * 9)), "truncated or corrupt"),
    "cut pickle": (spoiled(peers.sdxl_unbox, lambda f: (f / "state_dict.pth").write_bytes(b"PK\x03\x04")), "corrupt"),
    "empty pickle": (spoiled(peers.sdxl_unbox, lambda f: (f / "state_dict.pth").write_bytes(b"")), "corrupt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_sae_cannot_express_is_refused_in_one_sentence(tmp_path, case):
    build, words = REFUSED[case]
    with pytest.raises(SparsightError, match=words) as caught:
        import_sae(build(tmp_path / "sae"))
    assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["SPARSIGHT_TEST_EVIL"],)


def test_a_pickle_is_never_executed(tmp_path, monkeypatch):
    """The file is one that would make a folder if it were unpickled the ordinary way."""
    trap = tmp_path / "trap"
    monkeypatch.setenv("SPARSIGHT_TEST_EVIL", str(trap))
    for build in (
        unbox(state={"state_dict": Evil()}),
        spoiled(peers.dictionary, lambda f: torch.save(Evil(), f / "ae.pt")),
    ):
        folder = build(tmp_path / "sae")
        with pytest.raises(SparsightError, match="runs no code from a pickle"):
            import_sae(folder, format="sdxl_unbox" if (folder / "state_dict.pth").exists() else "dictionary_learning")
        assert not trap.exists()
        (folder / "state_dict.pth").unlink(missing_ok=True)
    torch.load(tmp_path / "sae" / "ae.pt", weights_only=False)
    assert trap.exists()  # so the trap was a real one


def test_folders_of_no_format_or_several(tmp_path):
    with pytest.raises(
        SparsightError, match=r"no SAE folder of a known format .*sparsify: cfg.json and sae.safetensors"
    ):
        detect_format(tmp_path)
    peers.sparsify(tmp_path / "unet.mid_block", peers.inputs())
    with pytest.raises(SparsightError, match=r"name one of its sub-folders \(unet.mid_block\)"):
        import_sae(tmp_path)
    folder, *_ = peers.saelens(tmp_path / "both", peers.inputs())
    save_file(load_file(folder / "sae_weights.safetensors"), folder / "sae.safetensors")
    with pytest.raises(SparsightError, match="could be saelens or sparsify"):
        import_sae(folder)
    assert import_sae(folder, format="saelens").extra["source_format"] == "saelens"


def test_formats_are_named_with_a_hyphen_or_without(tmp_path):
    folder, z, _ = peers.sdxl_unbox(tmp_path, peers.inputs())
    torch.testing.assert_close(import_sae(folder, format="sdxl-unbox").encode(peers.inputs()), z)
    with pytest.raises(SparsightError, match="unknown SAE format 'sae_lens': did you mean 'saelens'"):
        import_sae(folder, format="sae_lens")
    with pytest.raises(SparsightError, match="unknown SAE format 'onnx'"):
        export_sae(SAE(SAEConfig(4, 8)), tmp_path, "onnx")
    with pytest.raises(SparsightError, match="there is no SAE folder"):
        import_sae(tmp_path / "nowhere")
