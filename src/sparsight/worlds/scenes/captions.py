"""What is said of a scene: its objects in random order, its background and its style; never where a thing is."""

from __future__ import annotations

import random
import re

from sparsight.worlds.scenes.scene import BACKGROUNDS, KINDS, STYLES, Scene

PLACES = {"beach": "on a beach", "meadow": "in a meadow", "room": "in a room", "snow": "in the snow"}
STYLE_WORDS = {
    "cartoon": "cartoon", "night": "at night", "pencil": "pencil drawing", "pixel": "pixel art",
    "watercolor": "watercolor painting",
}  # fmt: skip
_LEFT_OUT = 0.1  # how often a caption is silent about the background, and how often about the style


def noun_phrase(kind: str) -> str:
    """The noun with its article."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def phrase(kinds: list[str], background: str | None, style: str | None) -> str:
    """One sentence, e.g. "a cat and a car on a beach, pencil drawing"; None leaves that part out."""
    nouns = [noun_phrase(kind) for kind in kinds]
    said = " and ".join([", ".join(nouns[:-1]), nouns[-1]] if len(nouns) > 1 else nouns)
    said += f" {PLACES[background]}" if background else ""
    return f"{said}, {STYLE_WORDS[style]}" if style else said


def caption(scene: Scene, rng: random.Random, left_out: float = _LEFT_OUT) -> str:
    """A true sentence about the scene that names all of its objects, in an order that says nothing."""
    kinds = [thing.kind for thing in scene.things]
    rng.shuffle(kinds)
    background = None if rng.random() < left_out else scene.background
    return phrase(kinds, background, None if rng.random() < left_out else scene.style)


def prompt_of(seed: int, index: int, scene: Scene) -> str:
    """The full caption of scene `index` of stream `seed`, always in the same words: what held-out prompts are."""
    return caption(scene, random.Random(f"scenes/caption/{seed}/{index}"), left_out=0.0)


def words(text: str) -> list[str]:
    """The text cut into lower-case words and commas, as the tokenizer cuts it."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def vocabulary() -> list[str]:
    """Every word that a caption can hold, in alphabetical order."""
    texts = [noun_phrase(kind) for kind in KINDS]
    texts += [phrase(["cat", "dog", "pig"], place, style) for place in BACKGROUNDS for style in STYLES]
    return sorted({word for text in texts for word in words(text)})


def unknown_words(text: str) -> list[str]:
    """The words of a prompt, each once, that no caption holds: the world's models have never heard them."""
    known = set(vocabulary())
    return [word for word in dict.fromkeys(words(text)) if word not in known and word.isalnum()]
