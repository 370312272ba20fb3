"""Reading other people's files: names, shapes and kinds must be what the format says, or one sentence says which is not."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsight.errors import SparsightError, unknown
from sparsight.files import read_json
from sparsight.sae.hub import read_tensors

Shapes = Mapping[str, tuple[int | None, ...]]  # None stands for any size


def config_of(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise SparsightError(f"{path} is not a JSON object")
    return values


def require_keys(values: Mapping[str, Any], valid: Iterable[str], path: Path) -> None:
    """Refuse keys that we do not know, for they could change the mathematics."""
    for key in values:
        if key not in valid:
            raise unknown(f"key of {path}", key, valid, limit=30)


def whole(values: Mapping[str, Any], key: str, path: Path) -> int:
    """A whole number of at least 1 under `key`."""
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SparsightError(f"{path} needs a whole number of at least 1 under {key!r}, not {value!r}")
    return value


def refuse(values: Mapping[str, Any], keys: Mapping[str, str], path: Path) -> None:
    """Refuse a config in which one of `keys` is switched on; its value says in words what that is."""
    for key, words in keys.items():
        if values.get(key):
            raise SparsightError(f"{path} has {key}={values[key]!r}: {words}, which a sparsight SAE cannot express")


def tensors_of(
    path: Path, shapes: Shapes, optional: Shapes | None = None, inside: str | None = None
) -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file (in its entry `inside`), floating ones as fp32.

    Exactly those of `shapes`, and those of `optional` where they are there. PyTorch files are read with
    `weights_only=True`: nothing in them is executed.
    """
    found = read_tensors(path) if path.suffix == ".safetensors" else _unpickle(path, inside)
    known = dict(shapes) | dict(optional or {})
    for kind, names in (("lacks", shapes.keys() - found.keys()), ("has unexpected", found.keys() - known.keys())):
        if names:
            raise SparsightError(f"{path} {kind} tensors: {', '.join(sorted(names))}")
    for name, tensor in found.items():
        if not _fits(tuple(tensor.shape), known[name]):
            raise SparsightError(f"{name} in {path} has shape {tuple(tensor.shape)}, not {_words(known[name])}")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(w in (None, size) for size, w in zip(shape, wanted, strict=True))


def _words(shape: tuple[int | None, ...]) -> str:
    return str(shape).replace("None", "any")


def shape_of(path: Path, name: str) -> tuple[int, int]:
    """The two sizes of a matrix in a PyTorch file, for formats whose config does not tell them."""
    tensor = _unpickle(path, None).get(name)
    if tensor is None or tensor.ndim != 2:
        raise SparsightError(f"{path} lacks the matrix {name}")
    rows, columns = tensor.shape
    return rows, columns


def _unpickle(path: Path, inside: str | None) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise SparsightError(f"{path} does not exist") from error
    except pickle.UnpicklingError as error:
        raise SparsightError(f"{path} holds other things than tensors; sparsight runs no code from a pickle") from error
    except (
        OSError,
        RuntimeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:  # zip and pickle readers vary
        words = str(error).partition("\n")[0] or type(error).__name__
        raise SparsightError(f"{path} is truncated or corrupt: {words}") from error
    state = found.get(inside) if inside and isinstance(found, dict) else found
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SparsightError(f"{path} is no dictionary of tensors" + (f" under {inside!r}" if inside else ""))
    return dict(state)


def site_in(folder: Path) -> str | None:
    """The module path that diffusion checkpoints carry in a folder's name, such as unet.mid_block.attentions.0_k10_..."""
    for part in reversed(folder.resolve().parts):
        match = re.match(r"(?:unet|transformer)\.([a-z]\w*?(?:\.\w+?)*)(?:_k\d+_.*)?$", part)
        if match:
            return match[1]
    return None


def provenance(name: str, config: dict[str, Any], site: str | None = None) -> dict[str, Any]:
    """What an imported SAE remembers of where it came from."""
    return ({"site": site} if site else {}) | {"source_format": name, "source_config": config}
