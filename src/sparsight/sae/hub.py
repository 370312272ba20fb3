"""SAEs as folders: config.json, model.safetensors and README.md, on disk or on the Hub. Nothing is ever pickled."""

from __future__ import annotations

import tempfile
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


def load(name_or_path: str, subfolder: str | None, revision: str | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config fields (with `extra`) and the tensors of an SAE, in a folder or on the Hub."""
    folder = _folder(name_or_path, subfolder, revision)
    values = read_json(folder / "config.json")
    if not isinstance(values, dict) or values.pop("schema_version", None) != SCHEMA:
        raise SparsightError(f"{folder / 'config.json'} is not an SAE of schema {SCHEMA}")
    values.pop("library_name", None), values.pop("library_version", None)
    extra = values.pop("extra", {})
    check_fields(SAEConfig, values)
    for name in asdict(SAEConfig(1, 64)):
        if name not in values and name not in LATER:
            raise SparsightError(f"{folder / 'config.json'} lacks {name!r}")
    return values | {"extra": extra}, _read_tensors(folder / "model.safetensors")


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


def _folder(name_or_path: str, subfolder: str | None, revision: str | None) -> Path:
    folder = Path(name_or_path)
    if not folder.is_dir():
        if name_or_path.count("/") != 1 or name_or_path.startswith((".", "/", "~")):
            raise SparsightError(f"there is no SAE folder {name_or_path}")
        patterns = [f"{subfolder}/{file}" if subfolder else file for file in FILES]
        try:
            folder = Path(snapshot_download(name_or_path, revision=revision, allow_patterns=patterns))
        except (OSError, ValueError) as error:  # what huggingface_hub raises for a missing repository or no network
            raise SparsightError(f"cannot fetch the SAE {name_or_path}: {str(error).splitlines()[0]}") from error
    return folder / subfolder if subfolder else folder


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise SparsightError(f"{path} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise SparsightError(f"{path} is truncated or corrupt: {error}") from error


def _card(config: SAEConfig, extra: dict[str, Any]) -> str:
    simple = {k: v for k, v in extra.items() if isinstance(v, str | int | float)}
    facts = "\n".join(["", "| fact | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in simple.items()), ""])
    site = f" of the site `{extra['site']}`" if "site" in extra else ""
    return CARD.format(**asdict(config), site=site, facts=facts if simple else "")
