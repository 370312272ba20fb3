"""Runs of several seeds pooled for docs/results, whatever their experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsight.errors import SparsightError
from sparsight.pipeline.casl.results import write_results as write_casl
from sparsight.pipeline.casl.results import write_saes
from sparsight.pipeline.casl.run import CaslRun
from sparsight.pipeline.compare.results import write_results as write_comparison
from sparsight.pipeline.compare.run import CompareRun
from sparsight.pipeline.emergence.results import write_results as write_emergence
from sparsight.pipeline.emergence.run import EmergenceRun
from sparsight.pipeline.run import Run


def results_of(folders: Sequence[str | Path], out: Path, command: str, saes: bool = False) -> None:
    """Write `out`.json and `out`.tables.md of runs of one experiment; with `saes` those of their SAEs (CASL only).

    Raises `SparsightError` for runs of different experiments.
    """
    runs = [Run.open(folder) for folder in folders]
    if len({type(run) for run in runs}) > 1:
        raise SparsightError("runs that are pooled must be of one experiment, but these are of two")
    casl = [run for run in runs if isinstance(run, CaslRun)]
    if saes and not casl:
        raise SparsightError("--sae is for runs of CASL: the SAEs of an emergence run are in its own tables")
    if casl:
        (write_saes if saes else write_casl)(casl, out, command)
    if emergence := [run for run in runs if isinstance(run, EmergenceRun)]:
        write_emergence(emergence, out, command)
    if comparisons := [run for run in runs if isinstance(run, CompareRun)]:
        write_comparison(comparisons, out, command)
