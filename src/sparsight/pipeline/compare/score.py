"""What each saved edit did, image by image and judge by judge: one Parquet file a cell, from the saved images alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sparsight.files import atomic, read_json, write_json
from sparsight.images import read_sheet
from sparsight.metrics import counterfactual_gain, identity_similarity
from sparsight.pipeline.compare.cells import Cell
from sparsight.pipeline.compare.images import Group, load_images, load_truth

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun

LEAST_GAP = 1.0  # logits: a judge who sees less than this in the truth itself shall not blow up what edits do
_kept: dict[Any, Judged] = {}  # of this process: the group that was judged last


@dataclass(frozen=True)
class Judged:
    """The unedited images of a group, and all that edits are compared with.

    `gap` is what the truth does to the target's logit. Without a truth it is the way from the unedited images' mean logit to
    that of the world's own images that have the attribute.
    """

    original: Tensor
    truth: Tensor | None
    numbers: list[int]
    before: dict[str, np.ndarray]  # logits (n, A), by judge
    gap: dict[str, list[float]]  # by judge, one for each concept of the group
    columns: list[int]
    others: list[int]


def score_cell(run: CompareRun, cell: Cell) -> None:
    """Write `scores.parquet` and `changes.json` of a finished cell, unless they are there."""
    folder = run.folder / cell.path
    if (folder / "changes.json").exists():
        return
    facts, judged = read_json(folder / "cell.json"), judged_group(run, Group(cell.seed, cell.concept))
    (height, width), changes = judged.original.shape[-2:], {}
    rows: list[dict[str, Any]] = []
    for name, level, strength in _sheets(facts):
        edit = read_sheet(folder / f"{name}.png", facts["count"], (height, width))
        own, changes[name] = judge_edit(run, judged, edit)
        told = {"kind": cell.kind, "seed": cell.seed, "concept": cell.concept, "method": cell.method, "learned": cell.images,
                "sheet": name, "level": level, "strength": strength}  # fmt: skip
        rows += [{**told, **row} for row in own]
    write_rows(folder / "scores.parquet", rows)
    write_json(folder / "changes.json", changes)


def _sheets(facts: dict[str, Any]) -> list[tuple[str, float | None, float | None]]:
    """Each saved sheet with its level (None: the strongest edit there is, short of the next level) and strength."""
    if facts["kind"] == "two":
        first, second = facts["strengths"]
        return [("first", None, first), ("second", None, second), ("both", None, None)]
    return [(f"level{i}", m["level"] if m["reached"] else None, m["strength"]) for i, m in enumerate(facts["matches"])]


@torch.no_grad()
def judged_group(run: CompareRun, group: Group) -> Judged:
    """The unedited images of a group, judged; kept until another group is asked for."""
    key = (str(run.folder), group)
    if key not in _kept:
        _kept.clear()
        _kept[key] = _judge(run, group)
    return _kept[key]


def _judge(run: CompareRun, group: Group) -> Judged:
    subject, names = run.subject, list(run.subject.attributes)
    images, truth = load_images(run, group, "test"), load_truth(run, group)
    targets = [str(subject.concepts[c].attribute) for c in group.concept.split("+")]
    spared = {*targets, *(name for target in targets for name in subject.related(target))}
    columns = [names.index(target) for target in targets]
    before = {name: logits(judge, images.original) for name, judge in subject.classifiers.items()}
    gap = {name: _gap(run, judge, before[name], truth, targets) for name, judge in subject.classifiers.items()}
    others = [i for i, name in enumerate(names) if name not in spared]
    return Judged(images.original, truth, images.numbers, before, gap, columns, others)


def _gap(
    run: CompareRun, judge: torch.nn.Module, before: np.ndarray, truth: Tensor | None, targets: list[str]
) -> list[float]:
    """The whole change of each target's mean logit; 1, that is plain logits, where nothing tells it."""
    columns = [list(run.subject.attributes).index(target) for target in targets]
    if truth is not None:
        return [float(x) for x in (logits(judge, truth) - before)[:, columns].mean(0)]
    shown = [run.subject.exemplars(target) for target in targets]
    return [
        1.0 if own is None else float(logits(judge, own)[:, column].mean() - before[:, column].mean())
        for own, column in zip(shown, columns, strict=True)
    ]


def judge_edit(run: CompareRun, judged: Judged, edit: Tensor) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """A row for each image and judge, and the mean change of every logit by judge."""
    count = len(edit)
    original = judged.original[:count]
    shared = _seen(run, original, edit, None if judged.truth is None else judged.truth[:count])
    rows, changes = [], {}
    for name, judge in run.subject.classifiers.items():
        before, after = judged.before[name][:count], logits(judge, edit)
        changes[name] = (after - before).mean(0).tolist()
        figures = _figures(before, after, judged, name)
        for i in range(count):
            one = {key: values[i].item() for key, values in (figures | shared).items()}
            rows.append({"image": judged.numbers[i], "judge": name, **one})
    return rows, changes


def _figures(before: np.ndarray, after: np.ndarray, judged: Judged, judge: str) -> dict[str, np.ndarray]:
    """Of each image: changes of the target and of all that is no target, in logits and in decisions."""
    change, flips = after - before, (after > 0) != (before > 0)
    target = judged.columns[0]
    found = {
        "change": change[:, target],
        "share": change[:, target] / max(judged.gap[judge][0], LEAST_GAP),
        "damage": np.abs(change[:, judged.others]).mean(1),
        "target_flip": flips[:, target],
        "damage_flips": flips[:, judged.others].sum(1),
        "open": before[:, target] <= 0,
        "on": after[:, target] > 0,
        "others": np.full(len(before), len(judged.others)),
    }
    if len(judged.columns) > 1:
        found["second_on"] = after[:, judged.columns[1]] > 0
        found["second_open"] = before[:, judged.columns[1]] <= 0
    return found


@torch.no_grad()
def _seen(run: CompareRun, original: Tensor, edit: Tensor, truth: Tensor | None) -> dict[str, np.ndarray]:
    """Of each image what no classifier is asked for."""
    subject = run.subject
    found = {
        "distance": subject.perceptual(original, edit).numpy(),
        "identity": identity_similarity(subject.identity(original), subject.identity(edit)).numpy(),
        "valid": subject.valid(edit).numpy(),
    }
    if truth is not None:
        gain = counterfactual_gain(edit, original, truth)
        values = np.full(len(edit), np.nan)
        values[gain.kept.numpy()] = gain.values.numpy()
        found["gain"] = values
    return found


@torch.no_grad()
def logits(judge: torch.nn.Module, images: Tensor) -> np.ndarray:
    """Logits (n, A) in fp64."""
    found: np.ndarray = judge(images).double().numpy()
    return found


def write_rows(path: Any, rows: list[dict[str, Any]]) -> None:
    """Rows as a Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd")
