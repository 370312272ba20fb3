"""Worlds: small image domains that are fully known, with their own trained models and judges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparsight.errors import SparsightError, unknown

if TYPE_CHECKING:
    from sparsight.worlds.avatars.world import AvatarsWorld

WORLDS = ("avatars", "scenes")


def load_world(name: str) -> Any:
    """A world by its name, with or without the prefix `worlds/`: an `AvatarsWorld` or a `ScenesWorld`."""
    short = name.removeprefix("worlds/")
    if short not in WORLDS:
        raise unknown("world", name, [f"{name[: len(name) - len(short)]}{world}" for world in WORLDS])
    if short == "avatars":
        from sparsight.worlds.avatars.world import AvatarsWorld

        return AvatarsWorld()
    from sparsight.worlds.scenes.world import ScenesWorld

    return ScenesWorld()


def load_avatars(name: str = "avatars") -> AvatarsWorld:
    """The world `avatars`; another is refused, for work that needs attributes and counterfactuals."""
    world = load_world(name)
    if world.name != "avatars":
        raise SparsightError(
            f"this needs a world with attributes and counterfactuals, and {name} has none: use avatars"
        )
    return world
