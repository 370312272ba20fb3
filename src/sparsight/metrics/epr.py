"""Editing precision: how much of the target an edit changes for each unit of everything else.

Source: CASL (arXiv 2601.15441), section on EPR, equations 12-14. The true EPR, the signed change, the flip rate and the
worst damage are additions that answer what EPR leaves open: it is unsigned, and its mean hides one ruined attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsight.errors import SparsightError, unknown
from sparsight.metrics.arrays import Array, Numbers, numbers
from sparsight.metrics.bootstrap import Interval, Statistic, bootstrap, bootstrap_ratio, row_mean

EPSILON = 1e-8  # CASL's own guard in the denominator of EPR
HALF_FLIP = 0.5  # flips added to the observed damage in the true EPR


@dataclass(frozen=True)
class Damage:
    """What an edit did to one attribute that it should have left alone."""

    name: str
    change: Interval  # mean |change of the logit|
    flips: float  # share of images whose 0/1 decision changed

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {"name": self.name, "change": self.change.to_dict(), "flips": self.flips}


@dataclass(frozen=True)
class EditReport:
    """The measurements of `editing_precision`."""

    epr: Interval
    true_epr: Interval
    signed_change: Interval
    flip_rate: Interval
    damage: tuple[Damage, ...]  # one for each non-target attribute, in column order

    @property
    def worst_damage(self) -> Damage:
        """The non-target attribute with the largest mean |change of the logit|.

        It was picked as the largest of L, so its interval is that of this attribute, not of the maximum.
        """
        return max(self.damage, key=lambda damage: damage.change.value)

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON; the layout is in docs/metrics-schema.md."""
        figures = ("epr", "true_epr", "signed_change", "flip_rate")
        return {
            **{name: getattr(self, name).to_dict() for name in figures},
            "worst_damage": self.worst_damage.to_dict(),
            "damage": [damage.to_dict() for damage in self.damage],
        }


def editing_precision(
    before: Array,
    after: Array,
    target: int | str,
    exclude: Sequence[int | str] = (),
    names: Sequence[str] | None = None,
    direction: int = 1,
    seed: int = 0,
    n_resamples: int = 1000,
) -> EditReport:
    """Compare attribute logits before and after an edit of the same images.

    `before` and `after` are raw classifier logits (n, A); an attribute is "on" where its logit is above 0. `target`
    and `exclude` are columns (or names, where `names` are given); excluded columns count neither as target nor as
    damage, for attributes that must change with the target. `direction` is +1 to switch the target on and -1 to
    switch it off.

    * `epr` = D_target / (D_nontarget + 1e-8), where D is a mean of |change of logit| over images, and D_nontarget is
      also a mean over attributes: a ratio of dataset means, not a mean of ratios (CASL section on EPR).
    * `true_epr`: the same ratio from 0/1 decisions. Flips are rare, so the damage may well be zero: half a flip is
      added to the damage count of each (re)sample, `(flips + 1/2) / (n L)`. With n images and L attributes the
      greatest possible value is therefore 2nL, and an edit that flips nothing scores 0.
    * `signed_change`: mean change of the target logit times `direction`; below 0 the edit went the wrong way.
    * `flip_rate`: of the images whose target decision was not yet the wanted one, the share where it is afterwards;
      its `n` counts those images only. When there is none, value and ends are NaN and `n` is 0.

    Raises `SparsightError` for unequal shapes, non-finite logits, no image, no attribute besides the target, an unknown
    column, or a direction that is neither +1 nor -1.
    """
    old, new = _logits(before, after)
    labels = _names(names, old.shape[1])
    column, others = _columns(target, exclude, labels)
    if direction not in (1, -1):
        raise SparsightError(f"the direction must be +1 or -1, not {direction}")
    change, flips = np.abs(new - old), ((new > 0) != (old > 0)).astype(np.float64)

    def figure(statistic: Statistic, *arrays: Numbers) -> Interval:
        return bootstrap(statistic, *arrays, n_resamples=n_resamples, seed=seed)

    open_rows = (old[:, column] > 0) != (direction > 0)
    return EditReport(
        epr=figure(_ratio, change[:, column], change[:, others].mean(axis=1)),
        true_epr=figure(_smoothed_ratio(len(others)), flips[:, column], flips[:, others].sum(axis=1)),
        signed_change=figure(row_mean, (new - old)[:, column] * direction),
        flip_rate=figure(row_mean, flips[open_rows, column]),
        damage=tuple(Damage(labels[j], figure(row_mean, change[:, j]), float(flips[:, j].mean())) for j in others),
    )


def precision_ratio(
    before: Array,
    after: Array,
    rival: Array,
    target: int | str,
    exclude: Sequence[int | str] = (),
    names: Sequence[str] | None = None,
    seed: int = 0,
    n_resamples: int = 1000,
) -> Interval:
    """EPR of one edit divided by the EPR of a `rival`, both of the same images `before`, on the same resamples.

    An interval above 1 says that the first is the more precise. Resamples in which the rival's EPR is 0 are left out
    (it moved nothing). Arguments and errors are those of `editing_precision`.
    """
    pairs = [_logits(before, after), _logits(before, rival)]
    column, others = _columns(target, exclude, _names(names, pairs[0][0].shape[1]))
    changes = [np.abs(new - old) for old, new in pairs]
    first, second = ((change[:, column], change[:, others].mean(axis=1)) for change in changes)
    return bootstrap_ratio(_ratio, first, second, seed=seed, n_resamples=n_resamples)


def _ratio(target: Numbers, nontarget: Numbers) -> Numbers:
    return target.mean(axis=1) / (nontarget.mean(axis=1) + EPSILON)


def _smoothed_ratio(attributes: int) -> Statistic:
    def statistic(target: Numbers, nontarget: Numbers) -> Numbers:
        cells = nontarget.shape[1] * attributes
        return target.mean(axis=1) * cells / (nontarget.sum(axis=1) + HALF_FLIP)

    return statistic


def _logits(before: Array, after: Array) -> tuple[Numbers, Numbers]:
    old, new = numbers(before, "logits before the edit"), numbers(after, "logits after the edit")
    if old.shape != new.shape or old.ndim != 2 or not len(old):
        raise SparsightError(f"logits must be two equal arrays (images, attributes), not {old.shape} and {new.shape}")
    return old, new


def _names(names: Sequence[str] | None, columns: int) -> list[str]:
    labels = [f"attribute {j}" for j in range(columns)] if names is None else list(names)
    if len(labels) != columns:
        raise SparsightError(f"{len(labels)} names were given for {columns} attributes")
    return labels


def _columns(target: int | str, exclude: Sequence[int | str], labels: list[str]) -> tuple[int, list[int]]:
    column = _column(target, labels)
    left_out = {column, *(_column(name, labels) for name in exclude)}
    others = [j for j in range(len(labels)) if j not in left_out]
    if not others:
        raise SparsightError(f"nothing is left to measure damage on besides {labels[column]!r}")
    return column, others


def _column(name: int | str, labels: list[str]) -> int:
    if isinstance(name, str):
        if name not in labels:
            raise unknown("attribute", name, labels)
        return labels.index(name)
    if not 0 <= int(name) < len(labels):
        raise SparsightError(f"attribute column {name} is not between 0 and {len(labels) - 1}")
    return int(name)
