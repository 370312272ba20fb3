"""The tables of the page: rows of a name and its figures, with a dash where one was not measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsight.report.emergence.sites import HALVES, METHODS, STAGES, readings, short_site, stages_of
from sparsight.report.numbers import Number, read_number
from sparsight.report.run_files import dig, listing, mapping, number

STYLE_COLUMNS = (("before", "CLIP before", ""), ("after", "CLIP after", ""), ("success", "success", "%"),
                 ("recognised_before", "recognised before", "%"), ("recognised", "recognised after", "%"),
                 ("perceptual", "distance", ""))  # fmt: skip
SAE_COLUMNS = (
    ("scaled_mse", "scaled MSE", ""),
    ("explained_variance", "explained variance", "%"),
    ("dead", "dead", "%"),
)
TRIED = {
    "by": "found by",
    "share": "share of the entry",
    "most": "latents",
    "normaliser": "normaliser",
    "scope": "half",
    "k": "k",
}
READ = {"sae": "words", "evidence": "evidence"}
PCA = {"pca": "words", "evidence.pca": "evidence"}
NOWHERE = Number((), None, reason="not measured in this run")


@dataclass(frozen=True)
class TableRow:
    """A row: what it is about, its figures, and whether it is what the experiment proposes."""

    name: str
    numbers: list[Number]
    note: str = ""
    ours: bool = False
    stage: str = ""


@dataclass(frozen=True)
class TriedRow:
    """A configuration of an edit that was tried, and whether it was taken."""

    cells: list[str]
    ours: bool


def composition_rows(metrics: dict[str, Any]) -> list[TableRow]:
    """IoU by stage: every SAE, read through words and as evidence, then what is no SAE."""
    rows: list[TableRow] = []
    for kind, how in READ.items():
        mine = readings(metrics, kind=kind).values()
        for site, half, k in dict.fromkeys((f.get("site"), f.get("half"), f.get("k")) for f in mine):
            numbers = _by_stage(metrics, kind=kind, site=site, half=half, k=k)
            if any(n is not NOWHERE for n in numbers):
                name, note = short_site(site), f"{how}, {HALVES.get(str(half), half)}, k = {k}"
                rows.append(TableRow(name, numbers, note, half == "cond"))
    for kind, how in PCA.items():
        for site in dict.fromkeys(f.get("site") for f in readings(metrics, kind=kind).values()):
            rows.append(TableRow("PCA", _by_stage(metrics, kind=kind, site=site), f"{how}, {short_site(site)}"))
    if readings(metrics, kind="attention"):
        rows.append(TableRow("cross-attention", _by_stage(metrics, kind="attention"), "all layers"))
    for kind in ("mean map", "chance"):
        for name in readings(metrics, kind=kind):
            same = [read_number(metrics, "composition", name)] * len(STAGES)
            rows.append(TableRow(kind, same, name.partition(".")[2]))
    return rows


def _by_stage(metrics: dict[str, Any], **wanted: Any) -> list[Number]:
    found = {str(f.get("stage")): n for n, f in readings(metrics, **wanted).items()}
    return [read_number(metrics, "composition", found[s]) if s in found else NOWHERE for s in STAGES]


def layout_rows(metrics: dict[str, Any]) -> list[TableRow]:
    """Success and distance by stage and method."""
    rows = []
    for stage in stages_of(dig(metrics, "layout", "stages")):
        for method in METHODS:
            base = ("layout", "stages", stage, method)
            if isinstance(dig(metrics, *base), dict):
                numbers = [read_number(metrics, *base, unit="%"), read_number(metrics, *base, "perceptual")]
                rows.append(TableRow(METHODS[method], numbers, ours=method == "concept", stage=stage))
    return rows


def object_table(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Success of each object by stage, with the object's latents and with random ones."""
    stages = stages_of(dig(metrics, "layout", "stages"))
    base = ("layout", "stages")
    objects = dict.fromkeys(o for s in stages for o in mapping(dig(metrics, *base, s, "concept", "by_object")))
    methods = [m for m in ("concept", "random_latents") if any(dig(metrics, *base, s, m, "by_object") for s in stages)]
    rows = [(o, [(m == "concept", read_number(metrics, *base, s, m, "by_object", o, unit="%"))
                 for s in stages for m in methods]) for o in objects]  # fmt: skip
    return {"stages": stages, "methods": [METHODS[m] for m in methods], "rows": rows} if rows else None


def style_rows(metrics: dict[str, Any]) -> list[TableRow]:
    """Table 5's means over styles, by stage and method."""
    rows = []
    for stage in stages_of(dig(metrics, "style", "stages")):
        paths = {method: ("style", "stages", stage, method) for method in METHODS}
        rows += [TableRow(METHODS[m], _style(metrics, path), ours=m == "concept", stage=stage)
                 for m, path in paths.items() if isinstance(dig(metrics, *path), dict)]  # fmt: skip
    return rows


def each_style(metrics: dict[str, Any]) -> list[TableRow]:
    """Table 5: every style at every stage, with its own latent."""
    return [
        TableRow(str(name), _style(metrics, ("style", "stages", stage, "styles", str(name), "concept")), stage=stage)
        for stage in stages_of(dig(metrics, "style", "stages"))
        for name in mapping(dig(metrics, "style", "stages", stage, "styles"))
    ]


def _style(metrics: dict[str, Any], path: tuple[str, ...]) -> list[Number]:
    return [read_number(metrics, *path, key, unit=unit) for key, _, unit in STYLE_COLUMNS]


def sae_rows(metrics: dict[str, Any]) -> list[TableRow]:
    """Table 1: a row for each block, half and k, with the figures of each stage's SAE."""
    groups: dict[tuple[str, str, str], dict[str, tuple[str, str]]] = {}
    for name, stamps in mapping(metrics.get("saes")).items():
        site, stage, half, k = _parts(str(name))
        if stage in STAGES and mapping(stamps):
            groups.setdefault((site, half, k), {})[stage] = (str(name), next(iter(stamps)))
    return [
        TableRow(short_site(site), [read_number(metrics, "saes", *own[s], key, unit=unit) if s in own else NOWHERE
                                    for s in STAGES for key, _, unit in SAE_COLUMNS], f"{HALVES.get(half, half)}, {k}")
        for (site, half, k), own in groups.items()
    ]  # fmt: skip


def across_rows(metrics: dict[str, Any]) -> list[TableRow]:
    """The SAEs across time: a row for each timestep, with the IoU of its reading."""
    rows = []
    for name, stamps in mapping(metrics.get("saes")).items():
        site, stage, _, k = _parts(str(name))
        if stage != "all":
            continue
        for t in sorted(mapping(stamps), key=lambda t: -(number(int(t)) or 0) if str(t).isdigit() else 0):
            numbers = [read_number(metrics, "saes", str(name), t, key, unit=unit) for key, _, unit in SAE_COLUMNS]
            iou = read_number(metrics, "composition", f"{name}.t{t}")
            rows.append(TableRow(short_site(site), [*numbers, iou], f"{k}, t = {t}"))
    return rows


def _parts(name: str) -> tuple[str, str, str, str]:
    """SITE, STAGE, HALF and "k = K" of an SAE's name."""
    parts = name.rsplit(".", 3)
    site, stage, half, k = parts if len(parts) == 4 else (name, "", "", "k–")
    return site, stage, half, f"k = {k[1:]}"


def tried_rows(metrics: dict[str, Any], part: str) -> list[TriedRow]:
    """What was tried on validation images before the edits of a part were made."""
    taken = mapping(dig(metrics, part, "edit"))
    return [
        TriedRow(_tried(row), all(row.get(key) == taken.get(key) for key in TRIED))
        for row in map(mapping, listing(dig(metrics, "calibration", part)))
    ]


def _tried(row: dict[str, Any]) -> list[str]:
    told = [str(row.get(key, "")) for key in TRIED]
    told[2] = told[2] if row.get("most") else "all"
    rates = [mapping(row.get("stages")).get(stage) for stage in STAGES]
    return [*told, f"{row.get('strength', '')}", *("–" if rate is None else f"{100 * rate:.0f} %" for rate in rates)]
