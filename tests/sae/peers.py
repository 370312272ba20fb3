"""Folders of other libraries written by hand, each beside a plain statement of what that library computes.

Nothing here uses sparsight: the equations are those of sae_lens 6.54.12, eai-sparsify 1.3.3, cywinski/SAeUron,
wendlerc/sdxl-unbox and dictionary-learning 0.1.0. Weights are random, with biases and norms far from 0 and 1.
"""

import json

import torch
from safetensors.torch import save_file

D, M, K = 6, 30, 4


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def inputs():
    return 2 * numbers(40, D, seed=9) + torch.linspace(-3, 3, D)


def weights():
    """encoder (M, D), decoder (D, M) with columns of lengths 0.3 to 3, and the two biases."""
    lengths = torch.linspace(0.3, 3, M)
    decoder = torch.nn.functional.normalize(numbers(D, M, seed=1), dim=0) * lengths
    return numbers(M, D), decoder, numbers(M, seed=2), numbers(D, seed=3)


def best(pre, k=K):
    """The k largest of each row, after ReLU; a loop, so that it shares nothing with torch.topk."""
    z = torch.zeros_like(pre)
    for row, values in enumerate(pre.tolist()):
        for latent in sorted(range(len(values)), key=lambda i: -values[i])[:k]:
            z[row, latent] = max(values[latent], 0.0)
    return z


def put(folder, config, name, state, config_name="cfg.json"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config_name).write_text(json.dumps(config))
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in state.items()}, folder / name)
    else:
        torch.save(state, folder / name)
    return folder


def saelens_config(architecture="standard", **more):
    return {
        "architecture": architecture, "d_in": D, "d_sae": M, "dtype": "float32", "device": "cuda",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": "mid_block"},
    } | ({"k": K} if architecture == "topk" else {}) | more  # fmt: skip


def saelens_state():
    encoder, decoder, b_enc, b_dec = weights()
    return {"W_enc": encoder.t(), "b_enc": b_enc, "W_dec": decoder.t(), "b_dec": b_dec}


def saelens(folder, x, architecture="standard", pre_bias=True, rescale=False, factor=None):
    """The folder, z and x_hat of StandardSAE and TopKSAE; `factor` is ActivationScaler's, applied outside of the SAE."""
    encoder, decoder, b_enc, b_dec = weights()
    more = {"rescale_acts_by_decoder_norm": rescale} if architecture == "topk" else {}
    if factor is not None:
        more |= {"normalize_activations": "expected_average_only_in"}
    config = saelens_config(architecture, apply_b_dec_to_input=pre_bias, **more)
    put(folder, config, "sae_weights.safetensors", saelens_state())
    if factor is not None:
        (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor, "has_whitening": False}))
        x = x * factor
    pre = (x - b_dec * pre_bias) @ encoder.t() + b_enc
    lengths = decoder.norm(dim=0) if rescale else torch.ones(M)
    z = best(pre * lengths) if architecture == "topk" else pre.clamp_min(0)
    return folder, z, ((z / lengths) @ decoder.t() + b_dec) / (factor or 1)


def sparsify_config(**more):
    return {
        "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": M, "k": K,
        "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D,
    } | more  # fmt: skip


def saeuron_config(**more):
    return {
        "expansion_factor": M // D, "normalize_decoder": True, "num_latents": 0, "k": K, "batch_topk": True,
        "sample_topk": False, "input_unit_norm": False, "multi_topk": False, "d_in": D,
    } | more  # fmt: skip


def sparsify_state():
    encoder, decoder, b_enc, b_dec = weights()
    return {"encoder.weight": encoder, "encoder.bias": b_enc, "W_dec": decoder.t(), "b_dec": b_dec}


def sparsify(folder, x, config=None):
    """SparseCoder's folder, z and x_hat: also SAeUron's, whose inference switches batch_topk off."""
    encoder, decoder, b_enc, b_dec = weights()
    put(folder, config or sparsify_config(), "sae.safetensors", sparsify_state())
    z = best((x - b_dec) @ encoder.t() + b_enc)
    return folder, z, z @ decoder.t() + b_dec


def sdxl_unbox_state():
    encoder, decoder, b_enc, b_dec = weights()
    return {
        "encoder.weight": encoder, "decoder.weight": decoder, "pre_bias": b_dec, "latent_bias": b_enc,
        "stats_last_nonzero": torch.arange(M),
    }  # fmt: skip


def sdxl_unbox_config(**more):
    return {"n_dirs_local": M, "d_model": D, "k": K, "auxk": 256, "dead_steps_threshold": 2441} | more


def sdxl_unbox(folder, x):
    """The folder of wendlerc/sdxl-unbox, with the statistics that lie beside it, z and x_hat."""
    encoder, decoder, b_enc, b_dec = weights()
    put(folder, sdxl_unbox_config(), "state_dict.pth", {"state_dict": sdxl_unbox_state()}, "config.json")
    torch.save(torch.rand(M), folder / "mean.pt")
    torch.save(torch.rand(M), folder / "std.pt")
    z = best((x - b_dec) @ encoder.t() + b_enc)
    return folder, z, z @ decoder.t() + b_dec


def dictionary(folder, x, kind="AutoEncoder"):
    """The folder, z and x_hat of what dictionary_learning's `load_dictionary` returns."""
    encoder, decoder, b_enc, b_dec = weights()
    state = {"encoder.weight": encoder, "encoder.bias": b_enc, "decoder.weight": decoder}
    trainer = {"dict_class": kind, "lr": 1e-3, "activation_dim": D, "dict_size": M, "submodule_name": "mid_block"}
    if kind == "AutoEncoder":  # its loader makes the columns 1 long and the encoder's rows longer by as much
        z = ((x - b_dec) @ encoder.t() + b_enc).clamp_min(0) * decoder.norm(dim=0)
        state, y = state | {"bias": b_dec}, z @ (decoder / decoder.norm(dim=0)).t() + b_dec
    elif kind == "AutoEncoderNew":
        z = (x @ encoder.t() + b_enc).clamp_min(0)
        state, y = state | {"decoder.bias": b_dec}, z @ decoder.t() + b_dec
    else:
        z = best(((x - b_dec) @ encoder.t() + b_enc).clamp_min(0))
        state |= {"b_dec": b_dec, "k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(-1.0)}
        trainer, y = trainer | {"k": K}, z @ decoder.t() + b_dec
    return put(folder, {"trainer": trainer, "buffer": {"ctx_len": 128}}, "ae.pt", state, "config.json"), z, y
