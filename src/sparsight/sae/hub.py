"""SAEs as folders: config.json, model.safetensors and README.md, on disk or on the Hub. Nothing is ever pickled."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsight import __version__
from sparsight.errors import SparsightError
from sparsight.files import atomic, read_json, write_json
from sparsight.sae.config import LATER, SAEConfig, check_fields

if TYPE_CHECKING:
    from sparsight.sae.model import SAE

SCHEMA = 1
FILES = ("config.json", "model.safetensors", "README.md")
CARD = """---
library_name: sparsight
tags: [sparse-autoencoder, interpretability, diffusion]
---
# Sparse autoencoder

{d_sae} latents ({activation}) over {d_in} channels{site}.

```python
from sparsight.sae import SAE

sae = SAE.from_pretrained("this/repository")
z = sae.encode(activations)  # (..., {d_in}) raw activations -> (..., {d_sae})
```
{facts}"""


def save(sae: SAE, folder: Path, extra: dict[str, Any]) -> None:
    """Write an SAE; `config.json` comes last, so a folder that has one is whole."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()}
    with atomic(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, {"format": "pt"})
    with atomic(folder / "README.md") as temporary:
        temporary.write_text(_card(sae.config, extra), "utf-8")
    head = {"schema_version": SCHEMA, "library_name": "sparsight", "library_version": __version__}
    write_json(folder / "config.json", head | asdict(sae.config) | {"extra": extra})


def list_saes(name_or_path: Path | str, revision: str | None = None) -> list[str]:
    """The sub-folders of a folder or a Hub repository that hold SAEs of sparsight; "" is the folder itself.

    The custom is one sub-folder for each site and stage, such as "mid_block/500-999". Each name is the `subfolder` of
    `SAE.from_pretrained`. Raises `SparsightError` if there is no such folder or repository.
    """
    root = Path(name_or_path)
    if root.is_dir():
        files = [path.relative_to(root).as_posix() for path in root.rglob(FILES[1])]
    else:
        with _fetching(str(name_or_path)):
            files = HfApi().list_repo_files(str(name_or_path), revision=revision)
    names = {file.removesuffix(FILES[1]).removesuffix("/") for file in files if file.split("/")[-1] == FILES[1]}
    return sorted(names)


def load(name_or_path: str, subfolder: str | None, revision: str | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config fields (with `extra`) and the tensors of an SAE, in a folder or on the Hub."""
    folder = locate(name_or_path, subfolder, revision)
    if not subfolder and not (folder / FILES[0]).exists():
        _refuse_several(name_or_path, revision)
    values = read_json(folder / "config.json")
    if not isinstance(values, dict) or values.pop("schema_version", None) != SCHEMA:
        raise SparsightError(f"{folder / 'config.json'} is not an SAE of schema {SCHEMA}")
    values.pop("library_name", None), values.pop("library_version", None)
    extra = values.pop("extra", {})
    check_fields(SAEConfig, values)
    for name in asdict(SAEConfig(1, 64)):
        if name not in values and name not in LATER:
            raise SparsightError(f"{folder / 'config.json'} lacks {name!r}")
    return values | {"extra": extra}, read_tensors(folder / "model.safetensors")


def fill(sae: SAE, tensors: dict[str, Tensor], name: str) -> None:
    """Copy tensors into an SAE; names and shapes must be exactly its own."""
    own = sae.state_dict()
    for kind, names in (("lacks", own.keys() - tensors.keys()), ("has unexpected", tensors.keys() - own.keys())):
        if names:
            raise SparsightError(f"the SAE {name} {kind} tensors: {', '.join(sorted(names))}")
    for key, tensor in tensors.items():
        if tensor.shape != own[key].shape:
            shapes = f"{tuple(tensor.shape)}, but its config says {tuple(own[key].shape)}"
            raise SparsightError(f"{key} of the SAE {name} has shape {shapes}")
    sae.load_state_dict(tensors)


def push(sae: SAE, repo_id: str, subfolder: str | None, private: bool) -> str:
    """Upload an SAE to the Hub."""
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save(sae, Path(folder), sae.extra)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, path_in_repo=subfolder))


def locate(name_or_path: str, subfolder: str | None, revision: str | None, files: tuple[str, ...] = FILES) -> Path:
    """The folder of an SAE on this machine: itself, or a download of its `files` from the Hub."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        patterns = [f"{subfolder}/{file}" if subfolder else file for file in files]
        with _fetching(name_or_path):
            folder = Path(snapshot_download(name_or_path, revision=revision, allow_patterns=patterns))
    return folder / subfolder if subfolder else folder


@contextmanager
def _fetching(name: str) -> Iterator[None]:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise SparsightError(f"there is no SAE folder {name}")
    try:
        yield
    except (OSError, ValueError) as error:  # what huggingface_hub raises for a missing repository or no network
        raise SparsightError(f"cannot fetch the SAE {name}: {str(error).splitlines()[0]}") from error


def _refuse_several(name: str, revision: str | None) -> None:
    names = [sub for sub in list_saes(name, revision) if sub]
    if names:
        shown = ", ".join(names[:8]) + (f", and {len(names) - 8} more" if len(names) > 8 else "")
        raise SparsightError(f"{name} holds several SAEs: choose one with subfolder (valid: {shown})")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise SparsightError(f"{path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise SparsightError(f"{path} is truncated or corrupt: {error}") from error


def _card(config: SAEConfig, extra: dict[str, Any]) -> str:
    simple = {k: v for k, v in extra.items() if isinstance(v, str | int | float)}
    metrics = extra.get("metrics")
    tables = _table("fact", simple) + _table("metric", metrics if isinstance(metrics, dict) else {})
    site = f" of the site `{extra['site']}`" if "site" in extra else ""
    return CARD.format(**asdict(config), site=site, facts=tables)


def _table(kind: str, values: dict[str, Any]) -> str:
    rows = [f"| {name} | {f'{value:.5g}' if isinstance(value, float) else value} |" for name, value in values.items()]
    return "\n".join(["", f"| {kind} | value |", "|---|---|", *rows, ""]) if rows else ""
