"""Tables for docs/results: several seeds pooled into one JSON of metrics.json's form, and the page that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsight.errors import SparsightError
from sparsight.files import read_json
from sparsight.markdown import interval, plain, table, write_tables
from sparsight.pipeline.casl.evaluate import pooled_metrics
from sparsight.pipeline.casl.run import CaslRun

SHOWN = (
    "casl",
    "casl_by_norm",
    "no_sae",
    "mean_difference_map",
    "mean_difference",
    "decoder_atom",
    "random_latent",
    "random_direction",
)


def write_results(runs: Sequence[CaslRun], out: Path, command: str) -> dict[str, Any]:
    """Write `out`.json and `out`.tables.md (tables only; the page around them is written by people)."""
    metrics = pooled_metrics(runs)
    metrics["seeds"], metrics["command"] = [run.recipe.seed for run in runs], command
    write_tables(out, metrics, tables(metrics))
    return metrics


def write_saes(runs: Sequence[CaslRun], out: Path, command: str) -> list[dict[str, Any]]:
    """The SAEs of runs side by side, on held-out tokens: `out`.json ({"runs": [{"folder", "sae", "training"}]}) and its table.

    Raises `SparsightError` where a run has trained none.
    """
    found = []
    for run in runs:
        if not (run.folder / "sae" / "metrics.json").exists():
            raise SparsightError(f"{run.folder} holds no trained SAE: run it with --until train first")
        sae = read_json(run.folder / "sae" / "metrics.json")
        found.append({"folder": str(run.folder), "sae": sae, "training": run.recipe.plain()["sae"]})
    rows = [_sae_row(one) for one in found]
    header = ("gamma", "lambda", "tokens", "cosine", "FVE", "L0", "DAR", "dead", "held-out tokens")
    text = f"Made by `{command}`.\n\n{table(header, rows)}\n"
    write_tables(out, {"command": command, "runs": found}, text)
    return found


def _sae_row(one: dict[str, Any]) -> list[str]:
    sae, training = one["sae"], one["training"]
    return [
        f"{sae['expansion']:g}", f"{training['sparsity']:g}", f"{training['steps'] * training['batch_size']:,}",
        f"{sae['cosine']:.4f}", f"{sae['fve']:.4f}", f"{sae['l0']:.1f}", f"{sae['dar']:.2%}", f"{sae['dead']:.1%}",
        f"{sae['n_tokens']:,}",
    ]  # fmt: skip


def tables(metrics: dict[str, Any]) -> str:
    """The tables in Markdown."""
    concepts = metrics["concepts"]
    parts = [
        f"Made by `{metrics['command']}`; seeds {metrics['seeds']}, judge {metrics['names']['classifier']}, "
        "95 % bootstrap intervals.",
        "## EPR",
        _table(concepts, lambda m: interval(m["epr"]), SHOWN),
        "## Ratio of CASL's EPR to each control's, on the same resamples",
        _table(concepts, lambda m: interval(m.get("versus_casl")), SHOWN[1:]),
        "## Share of faces that flip",
        _table(concepts, lambda m: interval(m["flip_rate"]), SHOWN),
        "## True EPR (from decisions)",
        _table(concepts, lambda m: interval(m["true_epr"], 1), SHOWN),
        "## Counterfactual gain",
        _table(concepts, lambda m: interval(m["counterfactual_gain"]), SHOWN),
        "## CASL-Steer, everything else",
        _casl(concepts),
        "## EPR under each classifier (CASL, and the best control)",
        _classifiers(concepts),
        "## Linear SVM on the top latents",
        _probe(concepts),
        "## EPR (flip rate) over k and alpha, first seed",
        _sweep(concepts),
        "## Does EPR order edits as the truth does?",
        "\n".join(f"- Spearman, {key.removeprefix('spearman_')}: {interval(value)}, n = {value['n']}"
                  for key, value in metrics["epr_vs_truth"].items()),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _table(concepts: dict[str, Any], cell: Any, methods: Sequence[str]) -> str:
    rows = []
    for name, c in concepts.items():
        found = {**c["methods"], **c["variants"]}
        rows.append([name, f"{c['alpha']:.3g}", *(cell(found[m]) if m in found else "-" for m in methods)])
    return table(["concept", "alpha", *methods], rows)


def _casl(concepts: dict[str, Any]) -> str:
    columns = ("signed_change", "inside_share", "lpips", "identity", "clip", "directional_clip")
    rows = [
        [name, *(interval(c["methods"]["casl"][k]) for k in columns), c["methods"]["casl"]["worst_damage"]["name"]]
        for name, c in concepts.items()
    ]
    return table(["concept", *columns, "worst damage"], rows)


def _classifiers(concepts: dict[str, Any]) -> str:
    rows = []
    for name, concept in concepts.items():
        for judge in next(iter(concept["methods"].values()))["classifiers"]:
            values = {m: f["classifiers"][judge]["epr"]["value"] or 0.0 for m, f in concept["methods"].items()}
            best = max((m for m in values if m != "casl"), key=lambda m: values[m])
            rows.append([name, judge, f"{values['casl']:.2f}", best, f"{values[best]:.2f}"])
    return table(["concept", "classifier", "casl", "best control", "its EPR"], rows)


def _probe(concepts: dict[str, Any]) -> str:
    keys = list(next(iter(concepts.values()))["probe"])
    return table(["concept", *keys], [[name, *(interval(c["probe"][k]) for k in keys)] for name, c in concepts.items()])


def _sweep(concepts: dict[str, Any]) -> str:
    rows = []
    for name, concept in concepts.items():
        sweep = concept["sweep"]
        for k, eprs, flips in zip(sweep["k"], sweep["epr"], sweep["flip_rate"], strict=True):
            cells = [f"{plain(e)} ({plain(f)})" for e, f in zip(eprs, flips, strict=True)]
            rows.append([name, str(k), *cells])
    alphas = next(iter(concepts.values()))["sweep"]["alpha"]
    return table(["concept", "k", *(f"alpha {a:g}" for a in alphas)], rows)
