"""Which of how many processes this is, and the team that it joins."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from importlib import import_module
from typing import NamedTuple

import torch
import torch.distributed as dist

from sparsight.errors import SparsightError
from sparsight.parallel.ending import first_line, several
from sparsight.parallel.ranks import Ranks
from sparsight.parallel.team import ALONE, Team

PATIENCE = timedelta(minutes=30)  # how long a rank waits for one that is alive but silent


class Part(NamedTuple):
    """Number `rank` of `size` equal processes, that need not talk to each other."""

    rank: int
    size: int


def launched() -> Part:
    """Which process of how many this is, by the variables that torchrun and accelerate set; (0, 1) without them."""
    size = os.environ.get("WORLD_SIZE", "1")
    rank = os.environ.get("RANK", "0" if size == "1" else "")
    if not size.isdigit() or not rank.isdigit() or int(rank) >= int(size):
        raise SparsightError(f"WORLD_SIZE is {size!r} and RANK is {rank!r}: start several processes with torchrun")
    return Part(int(rank), int(size))


def parse_part(text: str) -> Part:
    """A part as people write it: "2/16" is the second of sixteen."""
    number, slash, size = text.partition("/")
    if not (slash and number.isdigit() and size.isdigit() and 1 <= int(number) <= int(size)):
        raise SparsightError(f"a part is written like 2/16, the second of sixteen, not {text!r}")
    return Part(int(number) - 1, int(size))


def own_device(device: str) -> str:
    """What "auto" means here: the GPU of this process's LOCAL_RANK, or the CPU where there is none."""
    if device != "auto":
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def join(device: str = "auto") -> Team:
    """The team of this process: that of the launch it belongs to, of torch.distributed if it runs already, or `ALONE`.

    With "auto" or "cuda" on a machine with GPUs, each process takes the one of its LOCAL_RANK and they talk over NCCL;
    otherwise over gloo.
    """
    if launched().size > 1 and not (dist.is_available() and dist.is_initialized()):
        _start(device)
    if not several():
        return ALONE
    on_gpu = torch.cuda.is_available() and "nccl" in str(dist.get_backend())
    return Ranks(torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu"))


def _start(device: str) -> None:
    if not dist.is_available():
        raise SparsightError("this build of torch has no torch.distributed: several processes cannot train one SAE")
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Default arguments in there hold on to the group that is in force when it is first imported (the optimiser does that).
    # Such a group outlives `destroy_process_group`, and its threads abort the process at exit.
    import_module("torch.distributed.nn.functional")
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:
        raise SparsightError(f"the processes of this training did not find each other: {first_line(error)}") from error
    atexit.register(_end)


def _end() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
