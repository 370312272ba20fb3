"""What one rank does in the tests of this room: `python -m parallel.worker TASK FOLDER`."""

import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh

from parallel import cases
from sparsight.activations import Store
from sparsight.errors import SparsightError
from sparsight.parallel import join, launched
from sparsight.sae import train_sae
from sparsight.sae.kernels import Workspace, training_step
from sparsight.sae.sharded import ShardedSAE
from sparsight.sae.step import of_all_ranks
from sparsight.sae.variants.batchtopk import largest_code


class Failing:
    """A store that fails on rank 1 in the middle of a training."""

    def __init__(self, store, fail):
        self.store, self.fail, self.spec, self.digest = store, fail, store.spec, store.digest

    def rows(self, images=None):
        return self.store.rows(images)

    def batches(self, *args, **kwargs):
        for number, batch in enumerate(self.store.batches(*args, **kwargs)):
            if number == 12 and launched().rank == int(os.environ.get("FAILING", "1")):
                self.fail()
            yield batch


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def told():
    os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler does, and only to one of them


def raises():
    raise SparsightError("the shard x is damaged")


def steps(folder):
    """One step of every rule in fp64, each rank with half of the batch."""
    team = join("cpu")
    for name, case in cases.steps().items():
        mine = team.rows(len(case.x))
        time = None if case.time is None else case.time[mine]
        part = training_step(case.x[mine], case.w, case.rule, Workspace(), case.dead, case.own, time, team)
        whole = of_all_ranks(part, team)
        found = {**whole.gradients._asdict(), **whole.own, "fired": whole.fired, "threshold": whole.threshold}
        found |= {"loss": whole.loss, "active": whole.active}
        save_file({k: v.contiguous() for k, v in found.items()}, folder / f"step-{name}-{team.rank}.safetensors")


def cut(folder):
    """BatchTopK's cut of pre-activations that come a few rows at a time."""
    team, pre = join("cpu"), cases.lopsided()
    mine = pre[team.rows(len(pre))]
    code = largest_code(iter(mine.split(4)), len(mine), 2 * len(mine), team)
    save_file({"z": code.dense(50)}, folder / f"cut-{team.rank}.safetensors")


def train(folder):
    store, rank = Store.open(folder / "store"), launched().rank
    for name, config in cases.TRAININGS.items():
        sae = train_sae(store, config, folder / name, images=cases.TRAIN, validation=cases.HELD_OUT)
        save_file({k: v.contiguous() for k, v in sae.state_dict().items()}, folder / f"{name}-{rank}.safetensors")
    again = train_sae(store, config, folder / name, images=cases.TRAIN)  # a finished one is read by every rank
    assert torch.equal(again.W_enc, sae.W_enc)


def latents(folder):
    """Every variant with its latents on two ranks: codes, reconstructions, a few steps of Adam, and the folder saved."""
    mesh = init_device_mesh("cpu", (2,))
    for name, rule in cases.SHARDED.items():
        plain, x, t, dead = cases.sharded(name)
        sae = ShardedSAE(plain, mesh)
        z = sae.encode(x, t)
        found = {"own": z.to_local().contiguous(), "z": z.full_tensor(), "x": sae(x, t)}
        adam = torch.optim.Adam(sae.parameters(), lr=1e-2)
        for step in range(5):
            adam.zero_grad()
            found[f"loss{step}"] = sae.backward(x, rule, dead, t)
            adam.step()
            sae.unit_atoms()
        held = sum(p.to_local().numel() for p in sae.parameters())
        found["held"] = torch.tensor([held, sum(p.numel() for p in sae.parameters())])
        save_file({k: v.detach() for k, v in found.items()}, folder / f"latents-{name}-{launched().rank}.safetensors")
        sae.save_pretrained(folder / f"latents-{name}")


def fail(folder, how):
    train_sae(Failing(Store.open(folder / "store"), how), cases.TRAININGS["topk"], folder / how.__name__)


def main():
    task, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    try:
        if task == "all":
            steps(folder)
            cut(folder)
            train(folder)
            latents(folder)
            fail(folder, raises)
        fail(folder, {"all": killed, "killed": killed, "raises": raises, "told": told}[task])
    except SparsightError as error:
        sys.exit(f"sentence: {error}")


if __name__ == "__main__":
    main()
