"""sparsight's own folders, so that everything which takes a foreign SAE also takes one of ours."""

from __future__ import annotations

from pathlib import Path

from sparsight.sae.model import SAE

NAME = "sparsight"
FILES = ("config.json", "model.safetensors")
MORE_FILES: tuple[str, ...] = ()


def read(folder: Path) -> SAE:
    """`SAE.from_pretrained`."""
    return SAE.from_pretrained(folder)


def write(sae: SAE, folder: Path) -> None:
    """`SAE.save_pretrained`."""
    sae.save_pretrained(folder)
