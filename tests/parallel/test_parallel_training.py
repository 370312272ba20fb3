"""Two processes end where one does: every rule's step in fp64, whole trainings, resuming, and ends of all kinds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from launch import Launch
from parallel import cases
from sae.conftest import planted_store
from sparsight.errors import SparsightError
from sparsight.parallel import ALONE, Team, launched
from sparsight.sae import SAE, train_sae
from sparsight.sae.reference import reference_loss
from sparsight.sae.rule import Weights


class KilledError(Exception):
    pass


def kill(at, total, metrics):
    if at >= 16:
        raise KilledError


class Two(NamedTuple):
    folder: Path
    ends: list

    def __truediv__(self, name):
        return self.folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def store(folder):
    return planted_store(folder / "store")


@pytest.fixture(scope="module")
def two(store, folder):
    """All steps and trainings in two processes; that of "relu" goes on from a checkpoint of one process."""
    with pytest.raises(KilledError):
        train_sae(store, cases.TRAININGS["relu"], folder / "relu", kill, images=cases.TRAIN)
    return Two(folder, Launch("parallel.worker", "all", folder).end())


@pytest.mark.parametrize("name", cases.steps())
def test_a_step_of_two_is_the_step_of_the_dense_reference(two, name):
    case = cases.steps()[name]
    w = Weights(*(v.clone().requires_grad_() for v in case.w))
    own = {key: v.clone().requires_grad_() for key, v in case.own.items()}
    loss = reference_loss(case.x, w, case.rule, case.dead, own, case.time)
    loss.backward()
    wanted = {key: v.grad for key, v in [*w._asdict().items(), *own.items()]}
    for rank in (0, 1):
        found = load_file(two / f"step-{name}-{rank}.safetensors")
        torch.testing.assert_close(found["loss"], loss.detach())
        for key, gradient in wanted.items():
            torch.testing.assert_close(found[key], gradient, msg=lambda m, key=key: f"{key}: {m}")


def test_the_cut_is_that_of_the_whole_batch(two):
    case = cases.steps()["batchtopk"]
    pre = ((case.x - case.w.b_dec) @ case.w.enc.t() + case.w.b_enc).relu().flatten().sort(descending=True).values
    found = load_file(two / "step-batchtopk-1.safetensors")
    torch.testing.assert_close(found["threshold"], pre[3 * 16 - 1])
    assert int(found["active"]) == 48
    assert float(load_file(two / "step-full-0.safetensors")["threshold"]) == 0  # fewer are positive than may be kept
    assert int(load_file(two / "step-ties-0.safetensors")["active"]) == 48  # no more and no less where values are equal


def test_the_cut_is_exact_where_one_rank_holds_nearly_all_and_rows_come_in_chunks(two):
    pre = cases.lopsided()
    values, places = pre.flatten().topk(128)
    wanted = torch.zeros(64 * 50).scatter(0, places, values).view(64, 50)
    assert (wanted[32:] > 0).sum() > 100
    assert torch.equal(torch.cat([load_file(two / f"cut-{rank}.safetensors")["z"] for rank in (0, 1)]), wanted)


@pytest.mark.parametrize("name", cases.TRAININGS)
def test_two_processes_train_the_sae_of_one(two, store, tmp_path, name):
    config, seen = cases.TRAININGS[name], []
    whole = train_sae(store, config, tmp_path, lambda s, t, m: seen.append(m), cases.TRAIN, cases.HELD_OUT)
    first, second = (load_file(two / f"{name}-{rank}.safetensors") for rank in (0, 1))
    for key, tensor in whole.state_dict().items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    lines = [json.loads(line) for line in (two / name / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(2, 25, 2))
    for ours, theirs in zip(lines, seen, strict=True):
        ours.pop("tokens_per_second")
        assert ours == pytest.approx({k: theirs[k] for k in ours}, rel=1e-3, abs=1e-4)
    assert not (two / name / "checkpoint.safetensors").exists()
    assert max(line["dead"] for line in seen) > 0 or not (config.aux_k or config.revive_every)


@pytest.mark.parametrize("name", cases.SHARDED)
def test_latents_on_two_ranks_are_the_sae_of_one(two, name):
    sae, x, t, dead = cases.sharded(name)
    rule, z = cases.SHARDED[name], sae.encode(x, t)
    found = [load_file(two / f"latents-{name}-{rank}.safetensors") for rank in (0, 1)]
    for rank, tensors in enumerate(found):
        torch.testing.assert_close(tensors["z"], z)
        torch.testing.assert_close(tensors["own"], z[:, 20 * rank : 20 * rank + 20])
        torch.testing.assert_close(tensors["x"], sae.decode(z))
        held, whole = tensors["held"].tolist()
        assert held == (whole + 6) // 2  # all but b_dec (6,) is cut in two
    adam = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for step in range(5):
        adam.zero_grad()
        weights = Weights(sae.W_enc.t(), sae.b_enc, sae.W_dec, sae.b_dec)
        time = sae.bins(t) if sae.config.t_edges else None
        loss = reference_loss(sae.normalise(x), weights, rule, dead, sae.own, time)
        torch.testing.assert_close(found[1][f"loss{step}"], loss.detach())
        loss.backward()
        adam.step()
        sae.W_dec.data.div_(sae.W_dec.data.norm(dim=1, keepdim=True))
    saved = SAE.from_pretrained(two / f"latents-{name}").state_dict()
    for key, value in sae.state_dict().items():
        torch.testing.assert_close(saved[key], value, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


def test_an_error_of_one_rank_ends_both_with_its_sentence(two):
    first, second = two.ends
    assert first == (1, "sentence: rank 1 stopped: the shard x is damaged\n")
    assert second == (1, "sentence: the shard x is damaged\n")


def test_a_killed_rank_ends_the_other_and_one_process_can_go_on(store, folder, two):
    first, second = Launch("parallel.worker", "killed", folder).end()
    assert second[0] == -9
    assert first[0] == 1 and first[1].startswith("sentence: another process of this training is gone")
    assert (folder / "killed" / "checkpoint.safetensors").exists()
    resumed = train_sae(store, cases.TRAININGS["topk"], folder / "killed")
    whole = train_sae(store, replace(cases.TRAININGS["topk"], log_every=5))
    torch.testing.assert_close(resumed.W_dec, whole.W_dec, rtol=1e-4, atol=1e-5)


def test_one_rank_that_is_told_to_stop_stops_both_after_the_same_step(store, folder):
    ends = Launch("parallel.worker", "told", folder).end()
    assert [code for code, _ in ends] == [143, 143], ends
    with safe_open(folder / "told" / "checkpoint.safetensors", "pt") as file:
        assert json.loads(file.metadata()["state"])["step"] == 13  # the step that was begun when it came
    resumed = train_sae(store, cases.TRAININGS["topk"], folder / "told")
    whole = train_sae(store, replace(cases.TRAININGS["topk"], log_every=5))
    torch.testing.assert_close(resumed.W_dec, whole.W_dec, rtol=1e-4, atol=1e-5)


def test_a_batch_is_shared_equally_or_not_at_all():
    class Third(Team):
        rank, size = 2, 3

    assert Third().rows(12) == slice(8, 12) and ALONE.rows(7) == slice(0, 7)
    with pytest.raises(SparsightError, match="a batch of 64 tokens cannot be shared equally by 3 processes: use 63"):
        Third().rows(64)


def test_a_rank_that_was_started_otherwise_is_named():
    class Other(Team):
        rank = 1

        def of_first(self, value):
            return "a"

    Other().agree_on("a", "configuration")
    with pytest.raises(SparsightError, match="rank 1 was started with another configuration than rank 0"):
        Other().agree_on("b", "configuration")


@pytest.mark.parametrize("size, rank", [("two", "0"), ("2", None), ("2", "2")])
def test_a_broken_launch_is_one_sentence(monkeypatch, size, rank):
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", rank) if rank else monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SparsightError, match="start several processes with torchrun"):
        launched()
