"""The images of a comparison: chosen once for each seed and concept, inverted once, and the same for every method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsight.baselines.editing import Unedited, edit_images
from sparsight.baselines.method import Editor
from sparsight.diffusion import Loop, invert
from sparsight.files import atomic, digest, read_json, write_json
from sparsight.images import read_sheet, write_sheet
from sparsight.metrics import psnr

if TYPE_CHECKING:
    from sparsight.pipeline.compare.run import CompareRun

BATCH = 32


@dataclass(frozen=True)
class Group:
    """The images of one concept ("A", or "A+B" for two at once) with one seed."""

    seed: int
    concept: str

    @property
    def path(self) -> Path:
        """Its folder inside the run's."""
        return Path("images") / f"seed{self.seed}" / self.concept


@dataclass(frozen=True)
class Images:
    """Images of one use: their numbers, the noise they invert to, and what it returns unedited, (n, 3, H, W)."""

    numbers: list[int]
    noise: Tensor
    original: Tensor

    def first(self, count: int) -> Images:
        """The first `count`."""
        return Images(self.numbers[:count], self.noise[:count], self.original[:count])


def groups(run: CompareRun) -> list[Group]:
    """Every group that the recipe needs."""
    pairs = ["+".join(pair) for pair in run.recipe.two.pairs] if run.recipe.two.methods else []
    first = run.recipe.seeds[0]
    return [Group(s, c) for s in run.recipe.seeds for c in run.concepts] + [Group(first, pair) for pair in pairs]


def invert_group(run: CompareRun, group: Group) -> None:
    """Choose, invert and rebuild the images of a group, unless that is done."""
    folder, key = run.folder / group.path, group_key(run, group)
    if (folder / "group.json").exists() and read_json(folder / "group.json")["key"] == key:
        return
    for split, count in counts(run, group).items():
        _invert_split(run, group, split, count)
    write_json(folder / "group.json", {"key": key})


def counts(run: CompareRun, group: Group) -> dict[str, int]:
    """How many images of each split a group has. Two concepts at once need no validation: their strengths are known."""
    if "+" in group.concept:
        return {"test": run.recipe.two.test}
    return {"test": run.recipe.test, "validation": run.recipe.validation}


def group_key(run: CompareRun, group: Group) -> str:
    """A digest of what the images rest on."""
    subject, place = run.subject, run.recipe.seeds.index(group.seed)
    return digest([subject.model.fingerprint(), subject.loop.steps, subject.refine, run.recipe.precision, place,
                   group.concept, counts(run, group), run.recipe.curves_on])  # fmt: skip


@torch.no_grad()
def _invert_split(run: CompareRun, group: Group, split: str, count: int) -> None:
    subject = run.subject
    attributes = [str(subject.concepts[name].attribute) for name in group.concept.split("+")]
    source, skipped = _place(run, group.seed, split, count)
    numbers = subject.eligible(source, attributes, skipped + count)[skipped:]
    pictures, loop = subject.images(source, numbers), Loop(steps=subject.loop.steps, refine=subject.refine)
    noise = torch.cat([invert(subject.model, subject.model.encode(p), loop) for p in pictures.split(BATCH)])
    original = edited(run, Unedited(), 0.0, noise)
    folder = run.folder / group.path / split
    write_sheet(folder / "original.png", original)
    truth = subject.truth(source, numbers, attributes[0]) if len(attributes) == 1 else None
    if truth is not None:
        write_sheet(folder / "counterfactual.png", truth)
    with atomic(folder / "noise.safetensors") as temporary:
        save_file({"noise": noise.contiguous()}, temporary)
    agree = {
        name: ((judge(pictures) > 0) == (judge(original) > 0)).float().mean(1).tolist()
        for name, judge in subject.classifiers.items()
    }
    write_json(folder / "images.json", {
        "numbers": numbers, "tile": list(original.shape[-2:]), "truth": truth is not None,
        "truth_distance": None if truth is None else float(subject.perceptual(original, truth).mean()),
        "psnr": psnr(pictures, original).tolist(), "agreement": agree,
    })  # fmt: skip


def _place(run: CompareRun, seed: int, split: str, count: int) -> tuple[str, int]:
    """The world's split that images come from, and how many of it are others': each seed has its own faces."""
    recipe, before = run.recipe, count * run.recipe.seeds.index(seed)
    if split == "test" and recipe.curves_on == "validation":
        return "validation", recipe.validation * len(recipe.seeds) + before
    return split, before


@torch.no_grad()
def edited(run: CompareRun, editor: Editor, strength: float, noise: Tensor) -> Tensor:
    """Images (n, 3, H, W) sampled from `noise` under an editor, a batch at a time."""
    subject = run.subject
    return torch.cat([
        edit_images(subject.model, editor, strength, part, subject.loop)
        for part in noise.split(BATCH)
    ])  # fmt: skip


def load_images(run: CompareRun, group: Group, split: str) -> Images:
    """The images of a group as they were saved."""
    folder = run.folder / group.path / split
    facts = read_json(folder / "images.json")
    count, (height, width) = len(facts["numbers"]), facts["tile"]
    noise = load_file(folder / "noise.safetensors")["noise"]
    return Images(facts["numbers"], noise, read_sheet(folder / "original.png", count, (height, width)))


def load_truth(run: CompareRun, group: Group) -> Tensor | None:
    """The true counterfactuals of the test images (n, 3, H, W), where the subject knows them."""
    folder = run.folder / group.path / "test"
    facts = read_json(folder / "images.json")
    if not facts["truth"]:
        return None
    return read_sheet(folder / "counterfactual.png", len(facts["numbers"]), tuple(facts["tile"]))
