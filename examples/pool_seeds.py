"""AUC of several comparisons of different seeds, put together: python examples/pool_seeds.py A.json B.json

The files are what `sparsight results` wrote. Every seed weighs alike; intervals of different files are independent, and those of
a file are taken for 1.96 standard errors each way. Prints the methods that all files have, in Markdown: AUC seed by seed and over
all, and that of our own method minus it, file by file and over all.
"""

import json
import sys
from math import hypot
from pathlib import Path

from sparsight.markdown import interval, table


def pooled(figures, seeds):
    """One figure out of one of each file, which counts as often as the file has seeds."""
    shares = [n / sum(seeds) for n in seeds]
    mean = sum(share * one["value"] for share, one in zip(shares, figures, strict=True))
    half = hypot(*(share * (one["high"] - one["low"]) / 2 for share, one in zip(shares, figures, strict=True)))
    return {"value": mean, "low": mean - half, "high": mean + half}


def row(files, seeds, name):
    """The line of one method, led by its AUC over all."""
    own, ours = [one["methods"][name] for one in files], files[0]["ours"]
    auc, single = (
        pooled([one["auc"] for one in own], seeds),
        [f"{v:.3f}" for one in own for v in one["by_seed"].values()],
    )
    minus = [one[f"versus_{ours}"] for one in own]
    parts = ["-"] * (len(own) + 1) if name == ours else [interval(one, 3) for one in (*minus, pooled(minus, seeds))]
    return auc["value"], [f"`{name}`", *single, interval(auc, 3), *parts]


if __name__ == "__main__":
    files = [json.loads(Path(path).read_text("utf-8")) for path in sys.argv[1:]]
    seeds = [len(one["seeds"]) for one in files]
    groups = [", ".join(map(str, one["seeds"])) for one in files]
    minus = [f"`{files[0]['ours']}` minus it: {of}" for of in groups]
    header = ["method", *(f"seed {seed}" for one in files for seed in one["seeds"]), "all seeds", *minus, "all seeds"]
    shared = set.intersection(*(set(one["methods"]) for one in files))
    print(table(header, [line for _, line in sorted((row(files, seeds, name) for name in shared), reverse=True)]))
    print(f"\nThe true edit, faded in: {interval(pooled([one['truth']['auc'] for one in files], seeds), 3)}.")
