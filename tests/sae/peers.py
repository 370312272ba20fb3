"""Folders of other libraries written by hand, each beside a plain statement of what that library computes.

Nothing here uses sparsight: the equations are those of sae_lens 6.54.12, eai-sparsify 1.3.3, cywinski/SAeUron,
wendlerc/sdxl-unbox and dictionary-learning 0.1.0. Weights are random, with biases and norms far from 0 and 1.
"""

import json
import math

import torch
from safetensors.torch import save_file

D, M, K = 6, 30, 4
GROUPS = [5, 10, 15]  # of latents, in a Matryoshka dictionary


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def inputs():
    return 2 * numbers(40, D, seed=9) + torch.linspace(-3, 3, D)


def weights():
    """encoder (M, D), decoder (D, M) with columns of lengths 0.3 to 3, and the two biases."""
    lengths = torch.linspace(0.3, 3, M)
    decoder = torch.nn.functional.normalize(numbers(D, M, seed=1), dim=0) * lengths
    return numbers(M, D), decoder, numbers(M, seed=2), numbers(D, seed=3)


def thresholds():
    """(M,): mostly above 0, and some at and below it, which cut nothing that ReLU leaves."""
    return numbers(M, seed=4).abs() * (torch.arange(M) % 7 != 0) - 0.5 * (torch.arange(M) % 11 == 0)


def gate_and_size(s, gate_bias, r_mag, mag_bias):
    """Gated SAEs, one number after another: on where the gate is open, and then as large as the other branch says."""
    z = torch.zeros_like(s)
    for row, values in enumerate(s.tolist()):
        for latent, value in enumerate(values):
            if value + float(gate_bias[latent]) > 0:
                z[row, latent] = max(value * math.exp(float(r_mag[latent])) + float(mag_bias[latent]), 0.0)
    return z


def above(pre, threshold):
    """What exceeds a threshold, of one for all or one for each latent; never below 0."""
    return pre.clamp_min(0) * (pre > threshold)


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


def saelens_state(architecture="standard"):
    encoder, decoder, b_enc, b_dec = weights()
    state = {"W_enc": encoder.t(), "W_dec": decoder.t(), "b_dec": b_dec}
    if architecture == "gated":
        return state | {"b_gate": b_enc, "r_mag": 0.5 * numbers(M, seed=5), "b_mag": numbers(M, seed=6)}
    return state | {"b_enc": b_enc} | ({"threshold": thresholds()} if architecture == "jumprelu" else {})


def saelens(folder, x, architecture="standard", pre_bias=True, rescale=False, factor=None, metadata=None):
    """The folder, z and x_hat of a SAELens SAE; `factor` is ActivationScaler's, applied outside of the SAE."""
    (encoder, decoder, b_enc, b_dec), state = weights(), saelens_state(architecture)
    more = {"rescale_acts_by_decoder_norm": rescale} if architecture == "topk" else {}
    if factor is not None:
        more |= {"normalize_activations": "expected_average_only_in"}
    config = saelens_config(architecture, apply_b_dec_to_input=pre_bias, **more)
    config["metadata"] |= metadata or {}
    put(folder, config, "sae_weights.safetensors", state)
    if factor is not None:
        (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor, "has_whitening": False}))
        x = x * factor
    product = (x - b_dec * pre_bias) @ encoder.t()
    lengths = decoder.norm(dim=0) if rescale else torch.ones(M)
    if architecture == "gated":
        z = gate_and_size(product, b_enc, state["r_mag"], state["b_mag"])
    elif architecture == "topk":
        z = best((product + b_enc) * lengths)
    else:
        z = above(product + b_enc, state.get("threshold", torch.zeros(M)))
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


def dictionary(folder, x, kind="AutoEncoder", threshold=0.8):
    """The folder, z and x_hat of what dictionary_learning's `load_dictionary` returns."""
    encoder, decoder, b_enc, b_dec = weights()
    trainer = {"dict_class": kind, "lr": 1e-3, "activation_dim": D, "dict_size": M, "submodule_name": "mid_block"}
    linear = {"encoder.weight": encoder, "encoder.bias": b_enc, "decoder.weight": decoder}
    plain = {"W_enc": encoder.t(), "b_enc": b_enc, "W_dec": decoder.t(), "b_dec": b_dec}
    counted = {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(threshold)}
    pre, without = (x - b_dec) @ encoder.t() + b_enc, x @ encoder.t() + b_enc
    r_mag, mag_bias = 0.5 * numbers(M, seed=5), numbers(M, seed=6)
    gated = {"gate_bias": b_enc, "mag_bias": mag_bias, "r_mag": r_mag, "decoder_bias": b_dec}
    lengths = decoder.norm(dim=0) if kind == "AutoEncoder" else torch.ones(M)  # its loader makes the columns 1 long
    state, z = {
        "AutoEncoder": (linear | {"bias": b_dec}, pre.clamp_min(0)),
        "AutoEncoderNew": (linear | {"decoder.bias": b_dec}, without.clamp_min(0)),
        "AutoEncoderTopK": (linear | {"b_dec": b_dec} | counted, best(pre.clamp_min(0))),
        "BatchTopKSAE": (linear | {"b_dec": b_dec} | counted, above(pre, threshold)),
        "MatryoshkaBatchTopKSAE": (plain | counted | {"group_sizes": torch.tensor(GROUPS)}, above(pre, threshold)),
        "JumpReluAutoEncoder": (plain | {"threshold": thresholds()}, above(without, thresholds())),
        "GatedAutoEncoder": (
            {"encoder.weight": encoder, "decoder.weight": decoder} | gated,
            gate_and_size(pre - b_enc, b_enc, r_mag, mag_bias),
        ),
    }[kind]
    trainer |= {"k": K} if "k" in state else {}
    folder = put(folder, {"trainer": trainer, "buffer": {"ctx_len": 128}}, "ae.pt", state, "config.json")
    return folder, z * lengths, z @ decoder.t() + b_dec
