"""The libraries that are compared, and a virtual environment of its own for each: their requirements clash."""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TORCH = "torch==2.13.0"  # the same for all; on Linux name PyTorch's CPU index in pip's settings to get the small build


@dataclass(frozen=True)
class Library:
    """`module` in this folder drives it, with `options`; `pins` is what pip installs, `bare` that without its wishes."""

    module: str
    pins: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether it runs where the driver runs."""
        return not self.pins


SPARSIFY = ("eai-sparsify==1.3.3",)
SAELENS = ("sae-lens==6.54.12",)
IMAGES = ("einops", "matplotlib<3.9", "opencv-python-headless", "scikit-image", "scikit-learn<2", "scipy")
LIBRARIES = {
    "roofline": Library("roofline"),
    "sparsight": Library("sparsight"),
    "sparsify": Library("sparsify", SPARSIFY),
    "sparsify-adam": Library("sparsify", SPARSIFY, options={"optimizer": "adam"}),
    "sae-lens": Library("sae_lens", SAELENS),
    "sae-lens-sparse": Library("sae_lens", SAELENS, options={"sparse": True}),
    "dictionary-learning": Library("dictionary_learning", ("dictionary-learning==0.1.0", "nnsight==0.3.7")),
    "overcomplete": Library("overcomplete", IMAGES, ("overcomplete==0.3.0",)),  # without torchvision and timm
}


def python(name: str, folder: Path) -> Path:
    """The interpreter that runs the library."""
    if LIBRARIES[name].own:
        return Path(sys.executable)
    home = folder / LIBRARIES[name].module
    return home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def set_up(names: list[str], folder: Path) -> None:
    """Make the environments that are not there yet."""
    for name in names:
        library, target = LIBRARIES[name], python(name, folder)
        if library.own or (target.parent.parent / "done").exists():
            continue
        print(f"setting up {library.module}", flush=True)
        venv.create(target.parent.parent, with_pip=True, clear=True)
        install = [target, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, TORCH, *library.pins], check=True)
        if library.bare:
            subprocess.run([*install, "--no-deps", *library.bare], check=True)
        (target.parent.parent / "done").touch()  # a half-made environment is made again


def missing(names: list[str], folder: Path) -> list[str]:
    """The libraries whose environment is not there."""
    return [name for name in names if not python(name, folder).exists()]
