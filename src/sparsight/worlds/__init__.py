"""Worlds: small image domains that are fully known, with their own trained models and judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsight.errors import unknown

if TYPE_CHECKING:
    from sparsight.worlds.avatars.world import AvatarsWorld

WORLDS = ("avatars",)


def load_world(name: str) -> AvatarsWorld:
    """A world by its name, with or without the prefix `worlds/`."""
    short = name.removeprefix("worlds/")
    if short not in WORLDS:
        raise unknown("world", name, [f"{name[: len(name) - len(short)]}{world}" for world in WORLDS])
    from sparsight.worlds.avatars.world import AvatarsWorld

    return AvatarsWorld()
