"""Training one SAE in one process and in two, on the same global batch.

    python benchmarks/scaling.py --json scaling.json

Each round trains in 1 process and then in `--processes`, one thread each, on a store of random tokens; the time is that of
the steps alone, as rank 0 sees it, after a few to warm up. Goal: the ratio of times comes near the number of processes.
Give the benchmark as many free cores as processes: a step takes as long as its slowest process. The ratio of processor time,
which a busy machine disturbs less, leaves out the waiting and so is the most that can be reached.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from timing import ratio, say

from sparsight.activations import Store, StoreSpec, StoreWriter
from sparsight.parallel import launched
from sparsight.sae import TrainConfig, train_sae


def write(folder: Path, args: argparse.Namespace) -> None:
    """A store of random tokens: four batches."""
    spec = StoreSpec("mid_block", "output", args.channels, (8, 8), "random", "0", "fp16", (500,), "random")
    writer, maps = StoreWriter(folder, spec), args.batch_size // 64
    for unit in range(4):
        tokens = torch.randn(maps, 64, args.channels, generator=torch.Generator().manual_seed(unit))
        writer.write(unit, tokens, torch.arange(maps) + unit * maps, torch.full((maps,), 500))
    writer.finish()


def work(folder: Path, args: argparse.Namespace) -> None:
    """What each process does: train, and let rank 0 print the seconds of the steps after the first few."""
    torch.set_num_threads(1)
    moments: list[tuple[float, float]] = []
    config = TrainConfig(
        activation=args.activation, k=args.k, d_sae=args.d_sae, steps=args.warm_up + args.steps, log_every=args.warm_up,
        batch_size=args.batch_size, aux_k=0, checkpoint_every=0, device=args.device,
    )  # fmt: skip
    train_sae(Store.open(folder), config, progress=lambda *_: moments.append((perf_counter(), process_time())))
    if launched().rank == 0:
        print(json.dumps([last - first for last, first in zip(moments[-1], moments[0], strict=True)]))


def timed(size: int, folder: str) -> list[float]:
    """Seconds of the steps in `size` processes: of wall time, and of rank 0's processor."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    command = [sys.executable, *sys.argv, "--store", folder]
    processes = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True,
            env=os.environ | {k: str(v) for k, v in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()},
        )
        for rank in range(size)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a process of the benchmark failed")
    return list(json.loads(said[0]))


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Both trainings in turn in every round, and what travels."""
    write(Path(folder), args)
    many, seconds = f"{args.processes} processes", {}  # type: str, dict[str, list[float]]
    for _ in range(args.rounds):
        for name, size in (("1 process", 1), (many, args.processes)):
            wall, own = timed(size, folder)
            seconds.setdefault(name, []).append(wall)
            seconds.setdefault(f"{name}, processor time of rank 0", []).append(own)
    gradients = 4 * (2 * args.d_sae * args.channels + args.d_sae + args.channels)
    return {
        "ratios": {
            f"1 process / {many}{kind}": ratio(seconds, f"1 process{kind}", f"{many}{kind}")
            for kind in ("", ", processor time of rank 0")
        },
        "facts": {
            "MB of gradients a step": round(gradients / 1e6, 1),
            "MB each process sends a step (ring)": round(
                2 * (args.processes - 1) / args.processes * gradients / 1e6, 1
            ),
            "tokens a second, 1 process, median": round(
                args.steps * args.batch_size / sorted(seconds["1 process"])[args.rounds // 2]
            ),
        },
        "seconds": seconds,
        "options": {k: v for k, v in vars(args).items() if k not in ("json", "store")},
        "cores": len(os.sched_getaffinity(0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--activation", default="topk", choices=("topk", "batchtopk"))
    parser.add_argument("--channels", type=int, default=1280)
    parser.add_argument("--d-sae", type=int, default=5120)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=8, help="a multiple of --warm-up")
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)  # this is one of the processes
    args = parser.parse_args()
    if args.store is not None:
        work(args.store, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        say(measure(args, folder), args.json)


if __name__ == "__main__":
    main()
