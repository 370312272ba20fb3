"""The figures of metrics.json as a page shows them: rounded, with interval and n, or a dash with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sparsight.report.run_files import dig, mapping, number

PERCENT = "\u00a0%"  # a space that does not break
LABELS = {"casl": "CASL", "no_sae": "no SAE", "mean_difference": "difference of means",
          "lpips": "perceptual distance", "clip": "CLIP", "vgg": "VGG", "vit": "ViT", "resnet": "ResNet",
          "mobilenetv2": "MobileNetV2"}  # fmt: skip

TINY = 5e-4  # 0.000 to three decimals


def label(name: str) -> str:
    """A name for reading: ``random_latent`` becomes ``random latent``."""
    return LABELS.get(name, name.replace("_", " "))


def digits(value: float | None, unit: str = "", beside: float = 0.0) -> str:
    """`value` to about three digits, shares (`unit` "%") in percent, cosines ("fine") to four decimals, counts ("count") whole.

    What is tiny is written as a power of ten, unless it stands `beside` a figure that is not: there it is 0.000.
    """
    if value is None:
        return "–"
    if unit == "count":
        return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"
    if unit != "%":
        return (f"{value:.4f}" if unit == "fine" else _plain(value, beside)).replace("-", "−")
    share = 100 * value
    nearly_all = 99 < abs(share) < 100  # 99.8 % must not read as all of them
    places = 2 if 0 < abs(share) < 1 else 1 if 1 <= abs(share) < 10 or nearly_all else 0
    return f"{share:.{places}f}{PERCENT}".replace("-", "−")


def _plain(value: float, beside: float) -> str:
    size = abs(value)
    if 0 < size < TINY:
        return "0.000" if beside >= TINY else f"{value:.1e}"
    if size >= 100 or (size >= 10 and value == round(value)):
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if 0 < size < 0.1 else f"{value:.2f}"


def digits_plain(value: float | None) -> str:
    """A strength as people write it: 64, not 64.0."""
    return "–" if value is None else f"{value:g}".replace("-", "−")


@dataclass(frozen=True)
class Number:
    """One figure, where it stands in metrics.json, and how good it is in its row."""

    path: tuple[str, ...]
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    excluded: int | None = None
    unit: str = ""
    reason: str = ""
    best: bool = False
    tip: str = ""

    @property
    def text(self) -> str:
        """The rounded value, or a dash."""
        return digits(self.value, self.unit, self._largest)

    @property
    def interval(self) -> str:
        """Both ends of the 95 % interval, or nothing."""
        if self.value is None or self.low is None or self.high is None:
            return ""
        low, high = (digits(end, self.unit, self._largest) for end in (self.low, self.high))
        return f"[{low.removesuffix(PERCENT)}, {high}]"

    @property
    def _largest(self) -> float:
        return max((abs(v) for v in (self.value, self.low, self.high) if v is not None), default=0.0)

    @property
    def hover(self) -> str:
        """The whole figure in words."""
        if self.value is None:
            return self.reason
        parts = [f"{self.value:.4g}".replace("-", "−")]
        if self.low is not None and self.high is not None:
            parts.append(f"95 % interval {self.low:.4g} to {self.high:.4g}".replace("-", "−"))
        parts += [f"n = {self.n}"] if self.n is not None else []
        parts += [f"{self.excluded} left out"] if self.excluded else []
        return ", ".join(parts) + ("." + f" {self.tip}" if self.tip else "")


def read_number(metrics: Any, *path: str, unit: str = "", tip: str = "") -> Number:
    """The figure at `path`, an interval or a plain number."""
    found = dig(metrics, *path)
    if number(found) is not None:
        return Number(path, number(found), unit=unit, tip=tip)
    if not isinstance(found, dict):
        return Number(path, None, reason="not measured in this run")
    value, n = number(found.get("value")), number(found.get("n"))
    reason = "" if value is not None else f"not defined on these images{' (n = 0)' if n == 0 else ''}"
    return Number(
        (*path, "value"), value, number(found.get("low")), number(found.get("high")), _whole(n),
        _whole(number(found.get("excluded"))), unit=unit, reason=reason, tip=tip,
    )  # fmt: skip


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def mark_best(numbers: list[Number], better: str = "higher") -> list[Number]:
    """The same numbers, the best of them marked; none is where fewer than two are defined."""
    values = [n.value for n in numbers if n.value is not None]
    if len(values) < 2 or not better:
        return numbers
    best = max(values) if better == "higher" else min(values)
    return [replace(n, best=n.value == best) for n in numbers]


def mean_of(numbers: Iterable[Number]) -> Number:
    """The plain mean over concepts. Its interval joins those of the concepts as if they were independent."""
    known = [n for n in numbers if n.value is not None]
    if not known:
        return Number((), None, reason="not measured in this run")
    count, value = len(known), sum(n.value or 0.0 for n in known) / len(known)
    if any(n.low is None or n.high is None for n in known):
        return Number((), value, n=count, unit=known[0].unit)
    below = sum(((n.value or 0) - (n.low or 0)) ** 2 for n in known) ** 0.5 / count
    above = sum(((n.high or 0) - (n.value or 0)) ** 2 for n in known) ** 0.5 / count
    return Number((), value, value - below, value + above, n=count, unit=known[0].unit)


def method_names(metrics: dict[str, Any]) -> list[str]:
    """Every method of any concept: casl, then the controls in the order of the file."""
    names: dict[str, None] = {}
    for concept in mapping(metrics.get("concepts")).values():
        names.update(dict.fromkeys(mapping(dig(concept, "methods"))))
    return sorted(names, key=lambda name: name != "casl")
