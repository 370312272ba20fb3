"""Annotations of many images in a folder: JSON for the words, safetensors for the masks, one pair of files a unit.

FOLDER/annotations.json        who annotated what: annotator, image source, image numbers, size, images a unit
FOLDER/unit-00000.safetensors  `masks` (objects, ceil(H W / 8)) uint8: masks of the unit's objects, eight pixels a byte
FOLDER/unit-00000.json         label, box and score of each object, by image, and the digest of the masks

A unit's JSON comes last, so a unit that has one is whole, and an interrupted annotation goes on with the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsight.concepts.annotation import Annotation, Annotator, one_size
from sparsight.errors import SparsightError
from sparsight.files import atomic, read_json, sweep, write_json
from sparsight.images import ImageSource

SCHEMA = 1
INDEX = "annotations.json"


class Annotations:
    """A finished annotation. `numbers` are the images' numbers in their source, `size` their (height, width)."""

    def __init__(self, folder: str | Path) -> None:
        """Open a folder; raises `SparsightError` where it holds no annotation, or an unfinished or damaged one."""
        self.folder = Path(folder)
        index = read_json(self.folder / INDEX)
        if not isinstance(index, dict) or index.get("schema_version") != SCHEMA:
            raise SparsightError(f"{self.folder / INDEX} is not an annotation of schema {SCHEMA}")
        self.annotator, self.source = str(index["annotator"]), str(index["source"])
        self.numbers: list[int] = [int(number) for number in index["images"]]
        self.size: tuple[int, int] = (int(index["size"][0]), int(index["size"][1]))
        self.unit = int(index["unit"])
        missing = [u for u in range(-(-len(self.numbers) // self.unit)) if not _names(self.folder, u)[1].exists()]
        if missing:
            raise SparsightError(
                f"the annotation in {self.folder} is not finished: {len(missing)} of its units are missing; "
                "the same command goes on where it stopped"
            )

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[int, list[Annotation]]]:
        """Every image's number and objects, a unit in memory at a time."""
        for unit in range(-(-len(self.numbers) // self.unit)):
            yield from zip(self._of(unit), read_unit(self.folder, unit, self._of(unit), self.size), strict=True)

    def batches(self, images: int) -> Iterator[tuple[list[int], list[list[Annotation]]]]:
        """The same, so many images at a time: (numbers, objects of each)."""
        numbers: list[int] = []
        objects: list[list[Annotation]] = []
        for number, found in self:
            numbers.append(number)
            objects.append(found)
            if len(numbers) == images:
                yield numbers, objects
                numbers, objects = [], []
        if numbers:
            yield numbers, objects

    def _of(self, unit: int) -> list[int]:
        return self.numbers[unit * self.unit : (unit + 1) * self.unit]


def annotate_images(
    annotator: Annotator, images: ImageSource, folder: str | Path, *, numbers: Sequence[int] | None = None,
    captions: Sequence[str] | None = None, unit: int = 64, progress: Callable[[int, int], None] | None = None,
) -> Annotations:  # fmt: skip
    """Annotate images into a folder; units that are already there are kept, so a killed annotation goes on.

    `numbers` are the images to annotate (default: all), `captions` their prompts in the same order. Raises
    `SparsightError` where the folder holds an annotation by another annotator, or of other images.
    """
    root = Path(folder)
    chosen = [int(n) for n in (range(len(images)) if numbers is None else numbers)]
    if not chosen or unit < 1:
        raise SparsightError("an annotation needs an image at least, and units of 1 image at least")
    if captions is not None and len(captions) != len(chosen):
        raise SparsightError(f"{len(chosen)} images need as many captions, not {len(captions)}")
    first = images.batch(chosen[:1])
    _begin(root, annotator.name, images.name, chosen, unit, (first.shape[-2], first.shape[-1]))
    for start in range(0, len(chosen), unit):
        own = chosen[start : start + unit]
        if not _names(root, start // unit)[1].exists():
            said = captions[start : start + unit] if captions is not None else None
            write_unit(root, start // unit, own, annotator.annotate(images.batch(own), said, own))
        if progress is not None:
            progress(start + len(own), len(chosen))
    return Annotations(root)


def _begin(root: Path, annotator: str, source: str, numbers: list[int], unit: int, size: tuple[int, int]) -> None:
    wanted = {"schema_version": SCHEMA, "annotator": annotator, "source": source, "size": list(size), "unit": unit,
              "images": numbers}  # fmt: skip
    if not (root / INDEX).exists():
        write_json(root / INDEX, wanted)
    found = read_json(root / INDEX)
    for key in wanted:
        if not isinstance(found, dict) or found.get(key) != wanted[key]:
            known = (
                "" if key == "images" or not isinstance(found, dict) else f": {found.get(key)!r}, not {wanted[key]!r}"
            )
            raise SparsightError(f"{root} holds an annotation with other {key}{known}; choose another folder")
    sweep(root)


def _names(root: Path, unit: int) -> tuple[Path, Path]:
    return root / f"unit-{unit:05d}.safetensors", root / f"unit-{unit:05d}.json"


def write_unit(root: Path, unit: int, numbers: Sequence[int], objects: Sequence[Sequence[Annotation]]) -> None:
    """Write the objects of a unit's images; all masks of one size."""
    if len(objects) != len(numbers):
        raise SparsightError(f"the annotator returned {len(objects)} lists of objects for {len(numbers)} images")
    one_size(objects)
    masks = [found.mask.flatten().numpy() for image in objects for found in image]
    packed = np.packbits(np.stack(masks), axis=1) if masks else np.zeros((0, 0), np.uint8)
    tensors, words = _names(root, unit)
    with atomic(tensors) as temporary:
        save_file({"masks": torch.from_numpy(packed)}, temporary)
    rows = [
        {"image": int(n), "objects": [_plain(found) for found in image]}
        for n, image in zip(numbers, objects, strict=True)
    ]
    write_json(words, {"masks_sha256": _sha256(tensors), "images": rows})


def _plain(found: Annotation) -> dict[str, Any]:
    return {"label": found.label, "box": [float(edge) for edge in found.box], "score": float(found.score)}


def read_unit(root: Path, unit: int, numbers: Sequence[int], size: tuple[int, int]) -> list[list[Annotation]]:
    """The objects of a unit's images; a damaged file is a `SparsightError` that names it."""
    tensors, words = _names(root, unit)
    found = read_json(words)
    try:
        if found["masks_sha256"] != _sha256(tensors):
            raise SparsightError(f"{tensors} is damaged: its content is not what was written")
        if [row["image"] for row in found["images"]] != list(numbers):
            raise SparsightError(f"{words} is of other images than {root / INDEX} says")
        masks = _unpacked(load_file(tensors)["masks"], size)
        if len(masks) != sum(len(row["objects"]) for row in found["images"]):
            raise SparsightError(f"{words} is damaged: it has another number of objects than there are masks")
        rest = iter(masks)
        return [[Annotation(o["label"], next(rest), tuple(o["box"]), o["score"]) for o in row["objects"]]
                for row in found["images"]]  # fmt: skip
    except (KeyError, TypeError, ValueError, OSError, SafetensorError, RuntimeError) as error:
        raise SparsightError(f"{words} is damaged: {error}; delete it to have its images annotated again") from error


def _unpacked(packed: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (objects, H, W) bool out of their bytes."""
    height, width = size
    if not len(packed):
        return torch.zeros(0, height, width, dtype=torch.bool)
    if packed.dtype != torch.uint8 or packed.shape[1:] != (-(-height * width // 8),):
        raise ValueError(f"masks of {tuple(packed.shape)} bytes are not of {height}x{width} pixels")
    flat = np.unpackbits(packed.numpy(), axis=1, count=height * width)
    return torch.from_numpy(flat.astype(bool)).reshape(-1, height, width)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
