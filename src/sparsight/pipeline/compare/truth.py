"""The true edit, faded in: the curve of one who knows the answer.

No method need come near a share of 1 at every distance: half of an edit that is far from the unedited image is far from
it, too. So curves are read against this one: the truth's latents, mixed into the unedited image's share by share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sparsight.pipeline.compare.cells import Cell
from sparsight.pipeline.compare.figures import areas, curve, interval, pooled
from sparsight.pipeline.compare.images import BATCH, Group
from sparsight.pipeline.compare.methods import Stratum, pooled_curve
from sparsight.pipeline.compare.score import judge_edit, judged_group, write_rows
from sparsight.pipeline.compare.table import Scored, read_rows

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun

SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
NAME = "truth"


def true_edits(run: CompareRun) -> list[Scored]:
    """The true edit of every seed and concept, in the form of a cell; none where the subject knows no truth."""
    groups = [Group(seed, concept) for seed in run.recipe.seeds for concept in run.concepts]
    return [scored for group in groups if (scored := _true_edit(run, group)) is not None]


def _true_edit(run: CompareRun, group: Group) -> Scored | None:
    path = run.folder / group.path / "test" / "truth.parquet"
    if not path.exists() and not _judge(run, group, path):
        return None
    return Scored(Cell("main", group.seed, group.concept, NAME), {}, read_rows(path))


@torch.no_grad()
def _judge(run: CompareRun, group: Group, path: Any) -> bool:
    judged, model = judged_group(run, group), run.model
    if judged.truth is None:
        return False
    start, end = (
        torch.cat([model.encode(x) for x in images.split(BATCH)]) for images in (judged.original, judged.truth)
    )
    rows: list[dict[str, Any]] = []
    for share in SHARES:
        faded = torch.cat([model.decode(x).clamp(-1, 1) for x in torch.lerp(start, end, share).split(BATCH)])
        rows += [{"sheet": f"{share:g}", **row} for row in judge_edit(run, judged, faded)[0]]
    write_rows(path, rows)
    return True


def of_truth(run: CompareRun, scored: list[Scored], limits: dict[Stratum, dict[str, float]]) -> dict[str, Any] | None:
    """Areas and curve of the true edit under the recipe's judge, over the strata of `scored` that methods were measured on."""
    judge = run.recipe.judge
    found = {(s.cell.seed, s.cell.concept): curve(s, judge, len(SHARES)) for s in scored}
    found = {stratum: one for stratum, one in found.items() if stratum in limits}
    if not found:
        return None
    own = [areas(one, limits[stratum]) for stratum, one in found.items()]
    count = sum(len(s.columns[judge]["share"]) for s in scored)
    figures = {key: interval(pooled([one[key] for one in own]), count) for key in own[0] if key.startswith("auc")}
    return {**figures, "curve": pooled_curve(list(found.values()), count)}
