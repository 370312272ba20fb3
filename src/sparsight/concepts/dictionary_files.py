"""A concept dictionary as a folder: dictionary.json and dictionary.safetensors, both checked when read."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from sparsight import __version__
from sparsight.concepts.dictionary import ConceptDictionary
from sparsight.concepts.dictionary_build import DictionaryConfig
from sparsight.concepts.entries import Entries
from sparsight.concepts.map_statistics import MapStatistics
from sparsight.concepts.words import Embedded
from sparsight.errors import SparsightError
from sparsight.files import atomic, read_json, write_json

SCHEMA = 1
WORDS, TENSORS = "dictionary.json", "dictionary.safetensors"
_STATISTICS = "statistics."


def save(dictionary: ConceptDictionary, folder: Path) -> None:
    """Write a dictionary; the JSON comes last and knows the digest of the tensors, so the two belong together."""
    entries, embedded, statistics = dictionary.entries, dictionary.embedded, dictionary.statistics
    tensors = {"latent": entries.latent, "label": entries.label, "counts": entries.counts, "seen": dictionary.seen,
               "vectors": embedded.vectors, "known": embedded.known.to(torch.uint8)}  # fmt: skip
    if statistics is not None:
        tensors |= {_STATISTICS + name: tensor for name, tensor in statistics.tensors().items()}
    with atomic(folder / TENSORS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    write_json(folder / WORDS, {
        "schema_version": SCHEMA, "library_name": "sparsight", "library_version": __version__,
        "latents": dictionary.latents, "grid": list(dictionary.grid), "images": dictionary.images,
        "labels": list(dictionary.labels), "words": dictionary.words, "skipped_words": embedded.skipped,
        "config": asdict(dictionary.config), "extra": dict(dictionary.extra),
        "tensors_sha256": hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest(),
    })  # fmt: skip


def load_dictionary(folder: Path) -> ConceptDictionary:
    """Read a dictionary; anything missing, damaged or inconsistent is a `SparsightError` that names the file."""
    found = read_json(folder / WORDS)
    if not isinstance(found, dict) or found.get("schema_version") != SCHEMA:
        raise SparsightError(f"{folder / WORDS} is not a concept dictionary of schema {SCHEMA}")
    try:
        content = (folder / TENSORS).read_bytes()
        if hashlib.sha256(content).hexdigest() != found["tensors_sha256"]:
            raise SparsightError(f"{folder / TENSORS} is damaged, or belongs to another {WORDS}")
        dictionary = _made(found, load(content))
    except (KeyError, TypeError, ValueError, IndexError, OSError, SafetensorError) as error:
        raise SparsightError(f"the concept dictionary in {folder} is damaged: {error!r}") from error
    _check(dictionary, folder)
    return dictionary


def _made(found: dict[str, Any], tensors: dict[str, Tensor]) -> ConceptDictionary:
    statistics = {name.removeprefix(_STATISTICS): t for name, t in tensors.items() if name.startswith(_STATISTICS)}
    return ConceptDictionary(
        int(found["latents"]), (int(found["grid"][0]), int(found["grid"][1])), tuple(found["labels"]), tensors["seen"],
        Entries(tensors["latent"], tensors["label"], tensors["counts"]),
        Embedded(tensors["vectors"], tensors["known"].bool(), dict(found["skipped_words"])),
        str(found["words"]), int(found["images"]), DictionaryConfig(**found["config"]), dict(found["extra"]),
        MapStatistics(**statistics) if statistics else None,
    )  # fmt: skip


def _check(dictionary: ConceptDictionary, folder: Path) -> None:
    entries, labels, vectors = dictionary.entries, len(dictionary.labels), dictionary.embedded.vectors
    key = entries.latent * max(labels, 1) + entries.label
    positions, statistics = dictionary.grid[0] * dictionary.grid[1], dictionary.statistics
    sound = (
        entries.latent.shape == entries.label.shape == entries.counts.shape
        and dictionary.seen.shape == dictionary.embedded.known.shape == (labels,)
        and vectors.ndim == 2 and len(vectors) == labels
        and bool((key.diff() > 0).all()) and bool((entries.counts > 0).all())
        and _within(entries.latent, dictionary.latents) and _within(entries.label, labels)
        and (statistics is None or statistics.total.shape == (dictionary.latents, positions))
    )  # fmt: skip
    if not sound:
        raise SparsightError(
            f"the concept dictionary in {folder} contradicts itself: its tensors do not fit its labels"
        )


def _within(index: Tensor, size: int) -> bool:
    return not len(index) or (int(index.min()) >= 0 and int(index.max()) < size)


def list_dictionaries(root: str | Path) -> dict[str, Path]:
    """The dictionaries in a folder and below it, such as those of a run, by their path within it ("." is itself).

    Raises `SparsightError` where there is none.
    """
    base = Path(root)
    found = sorted(path.parent for path in base.rglob(WORDS)) if base.is_dir() else []
    if not found:
        raise SparsightError(f"{root} holds no concept dictionary: no {WORDS} in it or below it")
    return {path.relative_to(base).as_posix(): path for path in found}
