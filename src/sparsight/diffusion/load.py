"""Finding a diffusers pipeline: a world that ships with sparsight, a local folder, or a Hub id."""

from __future__ import annotations

from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import Any

from sparsight.errors import SparsightError, unknown

_WHERE = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision")  # of any download
# Parts of a text-to-image pipeline that never touch the denoiser: a gigabyte that need not be read.
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def load_pipeline(name: str, families: Collection[str], options: dict[str, Any]) -> Any:
    """The pipeline called `name`, with `options` for `DiffusionPipeline.from_pretrained`.

    Its family is read from model_index.json before any weights are. Raises `SparsightError` where nothing can be loaded
    under that name, and for a family that is not one of `families`.
    """
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place = str(_world_folder(name) or name)
    _require_folder(place)
    try:
        index = DiffusionPipeline.load_config(place, **{k: v for k, v in options.items() if k in _WHERE})
        require_family(str(index.get("_class_name")), families)
        if "text_encoder" in index:
            _quiet_transformers()
        unused = {part: None for part in _UNUSED if part in index}
        return DiffusionPipeline.from_pretrained(place, **{"use_safetensors": True, **unused, **options})
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SparsightError(f"cannot load a diffusers pipeline from {name!r}: {reason}") from error


def _require_folder(place: str) -> None:
    """What can only be a folder must be one, before anybody asks the Hub for it."""
    path = Path(place)
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise SparsightError(f"{place} is no pipeline's folder: it holds no model_index.json")
    if not path.exists() and (path.is_absolute() or place.startswith(("./", "../"))):
        raise SparsightError(f"{place} does not exist: name a pipeline's folder, a world or a Hub id")


def _quiet_transformers() -> None:
    """It tells on import which image libraries are missing, and draws a bar for each text encoder."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def require_family(family: str, families: Collection[str]) -> None:
    """Raise `SparsightError` for a pipeline class that is not one of `families`."""
    if family not in families:
        raise SparsightError(f"pipeline family {family} is not supported (valid: {', '.join(families)})")


def _world_folder(name: str) -> Path | None:
    """`worlds/NAME` stands for the model folder that ships in this package; other names are not ours."""
    if not name.startswith("worlds/"):
        return None
    root = Path(str(files("sparsight")))
    folder = root / name / "weights" / "model"
    if not folder.is_dir():
        worlds = sorted(p.parent.parent.name for p in root.glob("worlds/*/weights/model"))
        raise unknown("world", name, [f"worlds/{world}" for world in worlds])
    return folder
