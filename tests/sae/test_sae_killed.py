"""A training that is killed at moments nobody chose ends as if it had not been, and SIGTERM loses not even a step."""

import json
import random
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from sparsight.errors import SparsightError
from sparsight.sae import SAE, TrainConfig, train_sae

CONFIGS = {
    "relu": TrainConfig(d_sae=48, steps=500, batch_size=64, lr=1e-2, sparsity=1.0, dead_after=200, revive_every=5),
    "topk": TrainConfig(
        d_sae=48, steps=500, batch_size=64, lr=1e-2, activation="topk", k=3, dead_after=200, aux_k=8, init="data"
    ),
    "batchtopk": TrainConfig(d_sae=48, steps=500, batch_size=64, lr=1e-2, activation="batchtopk", k=3, t_edges=(2,)),
}
CHILD = """
import os, signal, sys, threading, time
import torch
from sparsight.activations import Store
from sparsight.sae import train_sae
from test_sae_killed import CONFIGS, kept

torch.set_num_threads(1)
store, folder, name, number, after = sys.argv[1:]
def strike():
    time.sleep(float(after))
    os.kill(os.getpid(), int(number))
def progress(step, total, metrics):
    if not started:
        started.append(threading.Thread(target=strike, daemon=True))
        started[0].start()
started = []
train_sae(Store.open(store), kept(CONFIGS[name]), folder, progress)
"""


def kept(config):
    return replace(config, checkpoint_every=4, log_every=1)


def child(store, folder, name, number, after, tests):
    command = [sys.executable, "-c", CHILD, str(store.folder), str(folder), name, str(int(number)), str(after)]
    return subprocess.run(command, cwd=tests, timeout=120, check=False, capture_output=True, text=True)


def saved_step(folder):
    from safetensors import safe_open

    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        return json.loads(file.metadata()["state"])["step"]


@pytest.mark.parametrize("name", CONFIGS)
def test_sigkill_at_random_moments_changes_no_bit(store, tmp_path, name, request):
    whole = train_sae(store, CONFIGS[name])
    rng, kills = random.Random(), 0
    for _ in range(3):
        after = rng.uniform(0.0, 0.2)
        done = child(store, tmp_path, name, signal.SIGKILL, after, request.path.parent)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        kills += done.returncode != 0
        if done.returncode == 0:
            break
    assert kills
    resumed = train_sae(store, kept(CONFIGS[name]), tmp_path)
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 501))
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "README.md", "log.jsonl"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_told_to_stop_it_keeps_the_step_and_leaves(store, tmp_path, number, code, request):
    done = child(store, tmp_path, "relu", number, 0.02, request.path.parent)
    assert done.returncode == code, done.stderr
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"]
    assert saved_step(tmp_path) == last < 500
    whole, resumed = train_sae(store, CONFIGS["relu"]), train_sae(store, kept(CONFIGS["relu"]), tmp_path)
    assert torch.equal(whole.W_dec, resumed.W_dec)


def test_killed_after_the_last_step_it_still_knows_its_figures(store, tmp_path, monkeypatch):
    """All steps are in the checkpoint, the SAE was never written."""
    config = replace(CONFIGS["topk"], steps=8, checkpoint_every=4)
    whole = train_sae(store, config, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(SAE, "save_pretrained", lambda *_: (_ for _ in ()).throw(RuntimeError))
        train_sae(store, config, tmp_path / "killed")
    resumed = train_sae(store, config, tmp_path / "killed")
    assert resumed.extra["metrics"] == whole.extra["metrics"] != {}


def test_a_full_disk_stops_cleanly_and_the_last_checkpoint_goes_on(store, tmp_path):
    """No file may grow past a limit, as on a full disk: first the log runs into it, then the checkpoint."""
    config = replace(CONFIGS["topk"], checkpoint_every=4, log_every=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most, what in ((9000, "checkpoint.safetensors"), (20000, "log.jsonl")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            with pytest.raises(SparsightError, match=f"cannot write .*{what}"):
                train_sae(store, config, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert {path.name for path in tmp_path.iterdir()} <= {"checkpoint.safetensors", "log.jsonl"}
    whole, resumed = train_sae(store, config), train_sae(store, config, tmp_path)
    assert torch.equal(whole.W_dec, resumed.W_dec)
