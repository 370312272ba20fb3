"""AUC of several comparisons of different seeds, put together: python examples/pool_seeds.py A.json B.json

The files are what `sparsight results` wrote. Every seed weighs alike; intervals of different files are independent, and those of
a file are taken for 1.96 standard errors each way. Prints the methods that all files have, in Markdown.
"""

import json
import sys
from math import sqrt
from pathlib import Path


def pooled(figures, seeds):
    """Mean and 95 % interval over files: each file's figure counts as often as it has seeds."""
    mean = sum(n * one["value"] for one, n in zip(figures, seeds, strict=True)) / sum(seeds)
    half = sqrt(sum((n * (one["high"] - one["low"]) / 2) ** 2 for one, n in zip(figures, seeds, strict=True))) / sum(
        seeds
    )
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def rows(files):
    """One line a method, best first: AUC seed by seed, over all, and ours minus it."""
    seeds, ours = [len(one["seeds"]) for one in files], files[0]["ours"]
    shared = set.intersection(*(set(one["methods"]) for one in files))
    for name in sorted(
        shared, key=lambda n: -sum(k * one["methods"][n]["auc"]["value"] for one, k in zip(files, seeds, strict=True))
    ):
        own = [one["methods"][name] for one in files]
        single = [f"{value:.3f}" for one in own for value in one["by_seed"].values()]
        minus = "-" if name == ours else pooled([one[f"versus_{ours}"] for one in own], seeds)
        yield [f"`{name}`", *single, pooled([one["auc"] for one in own], seeds), minus]


if __name__ == "__main__":
    found = [json.loads(Path(path).read_text("utf-8")) for path in sys.argv[1:]]
    header = [
        "method",
        *(f"seed {seed}" for one in found for seed in one["seeds"]),
        "all seeds",
        f"{found[0]['ours']} minus it",
    ]
    print("\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows(found))))
