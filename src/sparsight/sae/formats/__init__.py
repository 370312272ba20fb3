"""SAEs of other libraries: which format a folder has, and the way in and out."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from sparsight.errors import SparsightError, unknown
from sparsight.sae import hub
from sparsight.sae.formats import dictionary_learning, saelens, sdxl_unbox, sparsify, sparsight_folder
from sparsight.sae.model import SAE

FORMATS: dict[str, ModuleType] = {
    module.NAME: module for module in (sparsight_folder, saelens, sparsify, sdxl_unbox, dictionary_learning)
}
_ALL_FILES = tuple(dict.fromkeys(file for m in FORMATS.values() for file in (*m.FILES, *m.MORE_FILES)))


def import_sae(
    name_or_path: Path | str, format: str | None = None, subfolder: str | None = None, revision: str | None = None
) -> SAE:
    """An SAE from a folder or a Hub repository of another library, frozen, that encodes and decodes as it does there.

    `format` is "saelens", "sparsify" (SAeUron's too), "sdxl_unbox", "dictionary_learning" or "sparsight"; None looks at the files.
    The SAE reads raw activations (..., d_in); where it came from is in `extra` ("source_format", "source_config", "site").

    Raises `SparsightError` for a folder of no known format, for files that are not exactly what the format says, and for
    what an `SAE` cannot express (it names what).
    """
    folder = hub.locate(str(name_or_path), subfolder, revision, _ALL_FILES)
    name = detect_format(folder) if format is None else _known(format)
    return FORMATS[name].read(folder)


def export_sae(sae: SAE, folder: Path | str, format: str) -> None:
    """Write an SAE as a folder of another library, which then encodes and decodes as `sae` does on raw activations.

    Matryoshka `prefixes` say how an SAE was trained, and are left out where the format has no place for them. Raises
    `SparsightError`, before anything is written, for an unknown format, for an activation that the format has no word
    for, and for an SAE with `t_edges`, which only "sparsight" has one for.
    """
    FORMATS[_known(format)].write(sae, Path(folder))


def detect_format(folder: Path | str) -> str:
    """The name of the format whose files are in `folder`; `SparsightError` if there is none, or more than one."""
    folder = Path(folder)
    found = [name for name, module in FORMATS.items() if all((folder / file).is_file() for file in module.FILES)]
    if len(found) == 1:
        return found[0]
    if found:
        raise SparsightError(f"{folder} could be {' or '.join(found)}: say which format it is")
    inside = sorted({path.parent for m in FORMATS.values() for path in folder.glob(f"**/{m.FILES[1]}")})
    if inside:
        names = ", ".join(str(path.relative_to(folder)) for path in inside[:8])
        raise SparsightError(f"{folder} holds no SAE itself; name one of its sub-folders ({names})")
    known = "; ".join(f"{name}: {' and '.join(module.FILES)}" for name, module in FORMATS.items())
    raise SparsightError(f"{folder} is no SAE folder of a known format ({known})")


def _known(format: str) -> str:
    name = format.lower().replace("-", "_")
    if name not in FORMATS:
        raise unknown("SAE format", format, FORMATS)
    return name


__all__ = ["FORMATS", "detect_format", "export_sae", "import_sae"]
