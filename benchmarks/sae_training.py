"""Training steps of sparsight and of the other SAE libraries, in turn on one core, on the same tokens.

    python benchmarks/sae_training.py --setup
    python benchmarks/sae_training.py --workloads W1 W3 --json docs/results/engine.json
    python benchmarks/sae_training.py --quality

Each library trains with its own loop in its own environment; a step is everything between two batches: gradients,
optimizer, schedule, dead-latent clock, AuxK and logging. The libraries take turns (A B C A B C), CPU seconds of the one
thread are counted, and medians over the rounds are printed, with the default allocator and with one that keeps freed
pages. `roofline` is what the encoder product, the reading of what must be read, and fused Adam take on this core in the
same run. Workloads: `peers/workload.py`. Versions: `peers/environments.py`. No latent dies in so few steps, so AuxK
costs nobody anything here; logging counts as often as a library does it. All processes of a workload live at once: W2b
wants 16 GB. `--quality` trains everyone on as many tokens of the same data and prints held-out FVE.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from peers.conversation import StoppedError, Worker
from peers.environments import LIBRARIES, missing, set_up
from peers.summary import rate, ratios, table
from peers.workload import WORKLOADS

TIMED, QUALITY = ["W1", "W2", "W2-init", "W2b", "W3"], ["Q1", "Q3"]


def main() -> None:
    """Set up, or measure and report."""
    args = arguments()
    if args.setup:
        return set_up(args.libraries, args.envs)
    absent = missing(args.libraries, args.envs)
    if absent:
        print(f"no environment for {', '.join(absent)}: left out. Make it with --setup")
    names = [name for name in args.libraries if name not in absent]
    result = quality(args, names) if args.quality else speed(args, names)
    if args.json is not None:
        machine = {"platform": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}
        args.json.write_text(json.dumps(result | {"machine": machine}, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true", help="make the libraries' environments, then stop")
    parser.add_argument("--envs", type=Path, default=Path(".bench-envs"), help="where the environments are")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), metavar="NAME")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, metavar="NAME", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--allocators", nargs="+", choices=["default", "tuned"], default=["default", "tuned"])
    parser.add_argument("--rounds", type=int, default=5, help="steps of each library that are counted")
    parser.add_argument("--quality", action="store_true", help="train to the end and compare FVE instead of speed")
    parser.add_argument("--steps", type=int, default=1000, help="of each training with --quality")
    parser.add_argument("--lr-factors", nargs="+", type=float, default=[1.0, 3.0], help="times each one's own rate")
    parser.add_argument("--core", type=int, default=default_core(), help="the core that everything runs on")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    args.envs = args.envs.absolute()
    args.workloads = args.workloads or (QUALITY if args.quality else TIMED)
    return args


def default_core() -> int | None:
    """The last core that this process may use; None where a process cannot be pinned."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def speed(args: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """All workloads under all allocators."""
    rows, compared = [], []
    for allocator in args.allocators:
        for workload in args.workloads:
            print(f"\n{workload}, {allocator} allocator", flush=True)
            steps = rounds(args, names, workload, allocator)
            each = [{"workload": workload, "library": name, "allocator": allocator} for name in steps]
            found = [
                one | rate(steps, one["library"], WORKLOADS[workload].batch)
                for one in each
                if one["library"] != "roofline"
            ]
            against = [{"workload": workload, "allocator": allocator} | ratio for ratio in ratios(steps)]
            print(table(found, against, steps.get("roofline")), flush=True)
            rows, compared = rows + found, compared + against
    return {"rows": rows, "ratios": compared, "rounds": args.rounds}


def rounds(args: argparse.Namespace, names: list[str], workload: str, allocator: str) -> dict[str, list[dict]]:
    """What each round's step took, of every library that can do the workload."""
    workers = {}
    for name in names:
        worker = Worker(name, workload, args.envs, allocator, args.core)
        if tell(name, worker.answer, worker) is not None:
            workers[name] = worker
    steps: dict[str, list[dict]] = {name: [] for name in workers}
    for _ in range(args.rounds):
        for name in list(workers):
            took = tell(name, workers[name].step, workers[name])
            if took is None:
                del workers[name]
            else:
                steps[name].append(took)
    for worker in workers.values():
        worker.close()
    return {name: steps[name] for name in workers}


def tell(name: str, act: Any, worker: Worker) -> dict[str, Any] | None:
    """The worker's answer; None, having said why, if it stopped."""
    try:
        return act()
    except StoppedError as reason:
        print(f"  without {name}: {reason}", flush=True)
        worker.close()
        return None


def quality(args: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """The held-out FVE of everyone after the same tokens, at each learning rate."""
    found = []
    for workload in args.workloads:
        print(f"\n{workload}: held-out FVE after {args.steps * WORKLOADS[workload].batch} tokens", flush=True)
        for name in (name for name in names if name != "roofline"):
            for factor in args.lr_factors:
                more = ["--steps", str(args.steps), "--lr-factor", str(factor)]
                worker = Worker(name, workload, args.envs, "tuned", args.core, *more)
                scored = tell(name, worker.answer, worker)
                if scored is None:
                    break
                worker.close()
                print(f"  {name:20s} lr x {factor:<5g} {scored['fve']:.4f}", flush=True)
                found.append({"workload": workload, "library": name, "lr_factor": factor, "fve": scored["fve"]})
    return {"quality": found, "steps": args.steps}


if __name__ == "__main__":
    main()
