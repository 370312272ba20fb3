"""Reading a store against other readers of the same tokens, and against the training that it feeds.

    python benchmarks/store.py --maps 4096 --channels 512 --positions 64 --json store.json

Every rival gives shuffled fp32 batches of the same size from fp16 tokens on disk: sparsight's store with a bounded
buffer, the store held in memory whole, numpy's memmap with a global permutation, and HF datasets if it is installed.
A ratio above 1 says that the rival is slower than sparsight. The files are in the page cache for all of them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import ratio, rounds, say

from sparsight.activations import Store, StoreSpec, StoreWriter
from sparsight.sae import TrainConfig, train_sae


def write(folder: Path, args: argparse.Namespace, dtype: str = "fp16") -> Store:
    """A store of random tokens in 16 shards."""
    spec = StoreSpec("mid_block", "output", args.channels, (1, args.positions), "random", "0", dtype, (500,), "random")
    writer, maps = StoreWriter(folder, spec), args.maps // 16
    for unit in range(16):
        tokens = torch.randn(maps, args.positions, args.channels, generator=torch.Generator().manual_seed(unit))
        writer.write(unit, tokens, torch.arange(maps) + unit * maps, torch.full((maps,), 500))
    return writer.finish()


def memmap(store: Store, folder: Path, size: int) -> Callable[[], Iterator[Any]]:
    """numpy: rows of one flat file, in an order permuted over all of it."""
    tokens = store.load("tokens")["tokens"].flatten(0, 1).half().numpy()
    tokens.tofile(folder / "flat.f16")
    flat = np.memmap(folder / "flat.f16", np.float16, "r", shape=tokens.shape)

    def batches() -> Iterator[Any]:
        order = np.random.default_rng(0).permutation(len(flat))
        for at in range(0, len(order) - size + 1, size):
            yield flat[order[at : at + size]].astype(np.float32)

    return batches


def hf_datasets(store: Store, folder: Path, size: int) -> Callable[[], Iterator[Any]] | None:
    """HF datasets: an Arrow table of tokens, shuffled by its own index."""
    try:
        from datasets import Dataset, load_from_disk
    except ImportError:
        return None
    tokens = store.load("tokens")["tokens"].flatten(0, 1).half().numpy()
    Dataset.from_dict({"tokens": tokens}).save_to_disk(folder / "arrow")

    def batches() -> Iterator[Any]:
        shuffled = load_from_disk(folder / "arrow").shuffle(seed=0, keep_in_memory=True).with_format("torch")
        return (batch["tokens"].float() for batch in shuffled.iter(size))

    return batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=4096)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--memory-mb", type=float, default=64)
    parser.add_argument("--d-sae", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        say(measure(args, Path(name)), args.json)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time one epoch of every reader in turn, and the same number of training steps."""
    size, count = args.batch_size, args.maps // 16 * 16 * args.positions // args.batch_size
    store, int8 = write(folder / "fp16", args), write(folder / "int8", args, "int8")

    def epoch(batches: Callable[[], Iterator[Any]]) -> Callable[[], None]:
        return lambda: [None for _ in islice(batches(), count)] and None

    def ours(which: Store, memory_mb: float) -> Callable[[], Iterator[Any]]:
        return lambda: which.batches(size, seed=0, memory_mb=memory_mb)

    steps = TrainConfig(d_sae=args.d_sae, steps=count, batch_size=size, log_every=count, memory_mb=args.memory_mb)
    rivals = {
        "sparsight": epoch(ours(store, args.memory_mb)),
        "sparsight, int8": epoch(ours(int8, args.memory_mb)),
        "sparsight, all in memory": epoch(ours(store, 1 << 20)),
        "numpy memmap": epoch(memmap(store, folder, size)),
        "training": lambda: train_sae(store, steps),
    }
    hf = hf_datasets(store, folder, size)
    if hf is not None:
        rivals["HF datasets"] = epoch(hf)
    seconds = rounds(rivals, args.rounds)
    tokens = count * size
    return {
        "ratios": {f"{name} / sparsight": ratio(seconds, name, "sparsight") for name in rivals if name != "sparsight"},
        "facts": {
            "tokens of an epoch": tokens,
            "tokens a second, sparsight, median": round(tokens / sorted(seconds["sparsight"])[args.rounds // 2]),
            "relative MSE of int8": int8.relative_mse,
            "HF datasets": "not installed, left out" if hf is None else "measured",
        },
        "seconds": seconds,
        "options": {k: v for k, v in vars(args).items() if k != "json"},
        "torch threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
