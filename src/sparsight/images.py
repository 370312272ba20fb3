"""Images in and out: folders, single files, and contact sheets that keep every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.files import atomic

COLUMNS = 8
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class ImageSource(Protocol):
    """Numbered images that are read a batch at a time, so that no one holds them all."""

    name: str

    def __len__(self) -> int:
        """How many images there are."""
        ...

    def batch(self, numbers: Sequence[int]) -> Tensor:
        """The images of these numbers, float (B, 3, H, W) in [-1, 1]."""
        ...


class Folder:
    """The images of a folder in the order of their names; all must have `size` (height, width)."""

    def __init__(self, path: str | Path, size: tuple[int, int]) -> None:
        self.name, self.size = str(path), size
        root = Path(path)
        if not root.is_dir():
            raise SparsightError(f"{path} is not a folder of images")
        self.paths = sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES)
        if not self.paths:
            raise SparsightError(f"{path} holds no images (looked for {', '.join(SUFFIXES)})")

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, numbers: Sequence[int]) -> Tensor:
        """The images of these numbers, float (B, 3, H, W) in [-1, 1]."""
        return torch.cat([read_image(self.paths[n], self.size) for n in numbers])


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 pixels (B, H, W, 3) to float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def to_pixels(images: Tensor) -> np.ndarray:
    """Float (B, 3, H, W) in [-1, 1] to uint8 pixels (B, H, W, 3), clamped and rounded."""
    scaled = images.detach().float().cpu().clamp(-1, 1).add(1).mul(127.5).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).numpy()


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Tensor:
    """One image as (1, 3, H, W) in [-1, 1]; a broken file or another `size` (height, width) is a clear error."""
    try:
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
    except FileNotFoundError as error:
        raise SparsightError(f"{path} does not exist") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise SparsightError(f"{path} is not a readable image: {error}") from error
    if size is not None and pixels.shape[:2] != tuple(size):
        raise SparsightError(
            f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, but {size[1]}x{size[0]} are needed"
        )
    return to_tensor(pixels[None])


def image_path(folder: Path, number: int) -> Path:
    """Where the image of a number is kept, so that names sort by number."""
    return folder / f"{number:08d}.png"


def write_pair(path: Path, before: Tensor, after: Tensor) -> None:
    """Save two images (1, 3, H, W) in [-1, 1] side by side as one PNG."""
    write_image(path, torch.cat([before, after], dim=3)[0])


def write_image(path: Path, image: Tensor) -> None:
    """Save one image (3, H, W) in [-1, 1] as PNG, whole or not at all; nothing lost but the rounding to uint8."""
    with atomic(path) as temporary:
        Image.fromarray(to_pixels(image[None])[0]).save(temporary, format="PNG")


def write_sheet(path: Path, images: Tensor) -> None:
    """Save images (n, 3, H, W) as one PNG of 8 columns, row by row, nothing lost but the rounding to uint8."""
    pixels = to_pixels(images)
    n, height, width, _ = pixels.shape
    rows = -(-n // COLUMNS)
    sheet = np.zeros((rows * COLUMNS, height, width, 3), np.uint8)
    sheet[:n] = pixels
    sheet = sheet.reshape(rows, COLUMNS, height, width, 3).transpose(0, 2, 1, 3, 4)
    with atomic(path) as temporary:
        Image.fromarray(sheet.reshape(rows * height, COLUMNS * width, 3)).save(temporary, format="PNG")


def read_sheet(path: Path, count: int, tile: tuple[int, int]) -> Tensor:
    """The `count` images (n, 3, H, W) in [-1, 1] that `write_sheet` saved with tiles of (H, W)."""
    sheet = read_image(path)
    height, width = tile
    rows = -(-count // COLUMNS)
    if tuple(sheet.shape[-2:]) != (rows * height, COLUMNS * width):
        raise SparsightError(f"{path} is no sheet of {count} images of {width}x{height} pixels")
    tiles = sheet.reshape(3, rows, height, COLUMNS, width).permute(1, 3, 0, 2, 4)
    return tiles.reshape(-1, 3, height, width)[:count].contiguous()
