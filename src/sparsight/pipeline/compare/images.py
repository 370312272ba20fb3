"""The images of a comparison: chosen once for each seed and concept, their noise found once, and the same for every method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsight.baselines.editing import Unedited, edit_images
from sparsight.baselines.method import Editor
from sparsight.diffusion import Conditioning, Loop, invert
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
    """Images of one use: numbers, the noise that they start from, what it returns unedited (n, 3, H, W), and the prompts."""

    numbers: list[int]
    noise: Tensor
    original: Tensor
    told: Conditioning | None = None

    def first(self, count: int) -> Images:
        """The first `count`."""
        told = None if self.told is None else self.told.part(slice(count))
        return Images(self.numbers[:count], self.noise[:count], self.original[:count], told)


def groups(run: CompareRun) -> list[Group]:
    """Every group that the recipe needs."""
    pairs = run.pairs if run.recipe.two.methods else ()
    first = run.recipe.seeds[0]
    return [Group(s, c) for s in run.recipe.seeds for c in run.concepts] + [Group(first, pair) for pair in pairs]


def invert_group(run: CompareRun, group: Group) -> None:
    """Choose the images of a group, find their noise and rebuild them, unless that is done."""
    folder, key = run.folder / group.path, group_key(run, group)
    if (folder / "group.json").exists() and read_json(folder / "group.json")["key"] == key:
        return
    for split, count in counts(run, group).items():
        _start_split(run, group, split, count)
    write_json(folder / "group.json", {"key": key})


def counts(run: CompareRun, group: Group) -> dict[str, int]:
    """How many images of each split a group has. Two concepts at once need no validation: their strengths are known."""
    if "+" in group.concept:
        return {"test": run.recipe.two.test}
    return {"test": run.recipe.test, "validation": run.recipe.validation}


def group_key(run: CompareRun, group: Group) -> str:
    """A digest of what the images rest on."""
    subject = run.subject
    asked = subject.conditioning("test", [0])
    told = [] if asked is None else [asked.guidance, *asked.prompts]
    return digest([subject.model.fingerprint(), subject.loop.steps, subject.refine, run.recipe.precision, group.seed,
                   group.concept, counts(run, group), run.recipe.curves_on, *told])  # fmt: skip


@torch.no_grad()
def _start_split(run: CompareRun, group: Group, split: str, count: int) -> None:
    subject = run.subject
    attributes = [str(subject.concepts[name].attribute) for name in group.concept.split("+")]
    source, skipped = source_of(run, split), _taken(run, group.seed, split)
    numbers = subject.eligible(source, attributes, skipped + count)[skipped:]
    told, known = subject.conditioning(source, numbers), subject.noise(source, numbers)
    pictures = subject.images(source, numbers) if known is None else None
    noise = _inverted(run, pictures) if pictures is not None else known
    assert noise is not None
    original = edited(run, Unedited(), 0.0, noise, told)
    folder = run.folder / group.path / split
    write_sheet(folder / "original.png", original)
    truth = subject.truth(source, numbers, attributes[0]) if len(attributes) == 1 else None
    if truth is not None:
        write_sheet(folder / "counterfactual.png", truth)
    with atomic(folder / "noise.safetensors") as temporary:
        save_file({"noise": noise.contiguous()}, temporary)
    (folder / "truth.parquet").unlink(missing_ok=True)  # what was measured on the images that were here
    write_json(folder / "images.json", {
        "numbers": numbers, "tile": list(original.shape[-2:]), "truth": truth is not None,
        "truth_distance": None if truth is None else float(subject.perceptual(original, truth).mean()),
        "prompts": None if told is None else list(told.prompts), **_inversion(run, pictures, original),
    })  # fmt: skip


def source_of(run: CompareRun, split: str) -> str:
    """The world's split that images come from."""
    return run.recipe.curves_on if split == "test" else split


def _taken(run: CompareRun, seed: int, split: str) -> int:
    """How many images of the world's split are others': those of all seeds before, and of a search on the same split."""
    own = {"validation": run.recipe.validation, "test": run.recipe.test}
    if source_of(run, "test") != source_of(run, "validation"):
        return seed * own[split]
    return seed * sum(own.values()) + (own["validation"] if split == "test" else 0)


def _inverted(run: CompareRun, pictures: Tensor) -> Tensor:
    model, loop = run.subject.model, Loop(steps=run.subject.loop.steps, refine=run.subject.refine)
    return torch.cat([invert(model, model.encode(part), loop) for part in pictures.split(BATCH)])


def _inversion(run: CompareRun, pictures: Tensor | None, original: Tensor) -> dict[str, Any]:
    """How well pictures were rebuilt, image by image; nothing where the model drew them itself."""
    if pictures is None:
        return {"psnr": [], "agreement": {}}
    agree = {
        name: ((judge(pictures) > 0) == (judge(original) > 0)).float().mean(1).tolist()
        for name, judge in run.subject.classifiers.items()
    }
    return {"psnr": psnr(pictures, original).tolist(), "agreement": agree}


@torch.no_grad()
def edited(run: CompareRun, editor: Editor, strength: float, noise: Tensor, told: Conditioning | None = None) -> Tensor:
    """Images (n, 3, H, W) sampled from `noise` under an editor, a batch at a time; `told` has a prompt for each."""
    subject, found = run.subject, []
    for start in range(0, len(noise), BATCH):
        rows = slice(start, start + BATCH)
        part = None if told is None else told.part(rows)
        found.append(edit_images(subject.model, editor, strength, noise[rows], subject.loop, part))
    return torch.cat(found)


def load_images(run: CompareRun, group: Group, split: str) -> Images:
    """The images of a group as they were saved."""
    folder = run.folder / group.path / split
    facts = read_json(folder / "images.json")
    count, (height, width) = len(facts["numbers"]), facts["tile"]
    noise = load_file(folder / "noise.safetensors")["noise"]
    original = read_sheet(folder / "original.png", count, (height, width))
    return Images(facts["numbers"], noise, original, run.subject.conditioning(source_of(run, split), facts["numbers"]))


def load_truth(run: CompareRun, group: Group) -> Tensor | None:
    """The true counterfactuals of the test images (n, 3, H, W), where the subject knows them."""
    folder = run.folder / group.path / "test"
    facts = read_json(folder / "images.json")
    if not facts["truth"]:
        return None
    return read_sheet(folder / "counterfactual.png", len(facts["numbers"]), tuple(facts["tile"]))
