"""One library in its own environment: trains with the library's own loop and times the steps that it is told to take.

    python -m peers.worker NAME WORKLOAD [--core N] [--steps N --lr-factor F]

Every library's loop pulls batches from an iterator. Here that iterator is a conversation: it hands over a batch when a
line arrives on stdin, and answers, when the loop asks for the next one, what the step took. So a step is whatever the
library does between two batches: optimizer, schedule, dead-latent clock, logging. All answers are JSON lines.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import torch
from peers.tokens import Mixture
from peers.workload import WORKLOADS, UnsupportedError, Workload
from torch import Tensor

ROTATED = 4  # batches held in memory and used in turn
HELD_OUT = 1 << 40  # where the batches begin that no training sees


def main() -> None:
    """Train one library on one workload, under command or (with --steps) to the end."""
    args, say = arguments(), answers()
    if args.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {args.core})
    torch.set_num_threads(1)
    workload, options = WORKLOADS[args.workload], json.loads(args.options)
    train = importlib.import_module(f"peers.{args.module}").train
    try:
        if args.steps:
            batches = numbered(workload, args.steps)
            say(score(train(workload, args.steps, args.lr_factor, batches, **options), workload))
        else:
            train(workload, 100_000, 1.0, commanded(workload, say), **options)
    except UnsupportedError as reason:
        say({"skip": str(reason)})


def arguments() -> argparse.Namespace:
    """The command line, as the driver writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module")
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--options", default="{}", help="keyword arguments of the module's train(), as JSON")
    parser.add_argument("--core", type=int, help="run on this core only")
    parser.add_argument("--steps", type=int, default=0, help="train so many steps and print the FVE")
    parser.add_argument("--lr-factor", type=float, default=1.0, help="times the library's own learning rate")
    return parser.parse_args()


def answers() -> Callable[[dict[str, Any]], None]:
    """A function that writes JSON lines to stdout, where nothing else goes any more: libraries print."""
    channel: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda answer: print(json.dumps(answer), file=channel, flush=True)


def commanded(workload: Workload, say: Callable[[dict[str, Any]], None]) -> Iterator[Tensor]:
    """Batches on command. The first step is a warm-up: memory, the optimizer's state, what a library does only once."""
    mixture = Mixture(workload.d)
    batches = [mixture.batch(i, workload.batch) for i in range(ROTATED)]
    yield batches[0]
    say({"ready": True})
    for number, _ in enumerate(sys.stdin, 1):
        cpu, wall = time.process_time(), time.perf_counter()
        yield batches[number % ROTATED]
        took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        say(took | {"peak_mb": peak_mb()})
    os._exit(0)  # the loop would go on for days, and some libraries save or upload when they are interrupted


def numbered(workload: Workload, steps: int) -> Iterator[Tensor]:
    """The batches of a whole training, each seen once."""
    mixture = Mixture(workload.d)
    return (mixture.batch(i, workload.batch) for i in range(steps))


@torch.no_grad()
def score(reconstruct: Callable[[Tensor], Tensor], workload: Workload) -> dict[str, float]:
    """FVE on held-out tokens: 1 - the sum of squared errors / that of squared deviations from the mean."""
    mixture = Mixture(workload.d)
    x = torch.cat([mixture.batch(HELD_OUT + i, workload.batch) for i in range(4)])
    error = sum(float((reconstruct(part) - part).square().sum()) for part in x.split(workload.batch))
    return {"fve": 1 - error / float((x - x.mean(0)).square().sum())}


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:  # noqa: PTH123 (not a real file)
        for line in status:  # Linux: unlike ru_maxrss, it forgets what the parent held before exec
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()
