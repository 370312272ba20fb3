"""Captions of faces in a small closed language, and the prompts that a judge of language is asked with.

A caption names a random part of what is true of a face, in words such as "a smiling person with long
black hair, wearing eyeglasses, without a hat". Every prompt below is a sentence of the same language.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from itertools import product

from sparsight.worlds.avatars.faces import ATTRIBUTES, HATS, PRIORS, Face, attributes


@dataclass(frozen=True)
class Fact:
    """One thing to say: `words` in one of the slots "adjective", "with", "wearing", "without", "not", "on"."""

    slot: str
    words: str


def _facts(slot: str, *words: str) -> tuple[Fact, ...]:
    return tuple(Fact(slot, text) for text in words)


_TRUE: dict[str, tuple[Fact, ...]] = {
    "Smiling": (*_facts("adjective", "smiling", "smiling"), *_facts("with", "a smile")),
    "Mouth_Slightly_Open": _facts("with", "an open mouth"),
    "Eyeglasses": (*_facts("wearing", "eyeglasses"), *_facts("with", "eyeglasses")),
    "Sunglasses": (*_facts("wearing", "sunglasses"), *_facts("with", "sunglasses")),
    "Wearing_Hat": (*_facts("wearing", "a hat"), *_facts("with", "a hat")),
    "Bald": (*_facts("adjective", "bald"), *_facts("with", "a bald head")),
    "Long_Hair": _facts("with", "long hair"),
    "Curly_Hair": _facts("with", "curly hair"),
    "Black_Hair": _facts("with", "black hair"),
    "Brown_Hair": _facts("with", "brown hair"),
    "Blond_Hair": _facts("with", "blond hair"),
    "Gray_Hair": _facts("with", "gray hair"),
    "Red_Hair": _facts("with", "red hair"),
    "Beard": _facts("with", "a beard"),
    "Mustache": _facts("with", "a mustache"),
    "Pale_Skin": _facts("with", "pale skin"),
    "Dark_Skin": _facts("with", "dark skin"),
    "Arched_Eyebrows": _facts("with", "arched eyebrows", "raised eyebrows"),
    "Angry_Eyebrows": (*_facts("with", "angry eyebrows"), *_facts("adjective", "angry")),
    "Eyes_Closed": _facts("with", "closed eyes"),
    "Narrow_Eyes": _facts("with", "narrow eyes"),
    "Wide_Eyes": _facts("with", "wide eyes"),
}
_FALSE: dict[str, tuple[Fact, ...]] = {
    name: tuple(Fact("without", fact.words) for fact in facts if fact.slot in ("with", "wearing"))
    for name, facts in _TRUE.items()
} | {
    "Smiling": (*_facts("not", "smiling", "smiling"), *_facts("without", "a smile")),
    "Mouth_Slightly_Open": (*_facts("with", "a closed mouth"), *_facts("without", "an open mouth")),
    "Bald": (*_facts("not", "bald"), *_facts("without", "a bald head")),
    "Angry_Eyebrows": (*_facts("without", "angry eyebrows"), *_facts("not", "angry")),
}  # fmt: skip
_SAID: dict[str, str] = {"Mouth_Slightly_Open": "person with an open mouth", "Bald": "bald person"}
_DENIED: dict[str, str] = {"Smiling": "person not smiling", "Bald": "person not bald"}


def _sentence(fact: Fact) -> str:
    return f"{fact.words} person" if fact.slot == "adjective" else f"person {fact.slot} {fact.words}"


TEXT_PAIRS: dict[str, tuple[str, str]] = {
    name: ("person", _SAID.get(name, _sentence(facts[0]))) for name, facts in _TRUE.items()
}  # the text without and with the attribute, for the direction between them

ZERO_SHOT: dict[str, tuple[str, str]] = {
    name: (_DENIED.get(name, f"person without {_TRUE[name][-1].words}"), TEXT_PAIRS[name][1]) for name in ATTRIBUTES
}  # a sentence that is true where the attribute is absent, and one that is true where it is present
ZERO_SHOT["Angry_Eyebrows"] = ("person without angry eyebrows", "person with angry eyebrows")
ZERO_SHOT["Arched_Eyebrows"] = ("person without arched eyebrows", "person with arched eyebrows")

_BACKGROUND = {"sky": "blue", "mint": "green", "peach": "orange", "lilac": "purple"}
_HAIR_WORDS = {
    "shortFlat": "short", "theCaesar": "short", "shortCurly": "short curly",
    "straight02": "long straight", "bob": "long", "curly": "long curly",
}  # fmt: skip


def _details(face: Face) -> list[Fact]:
    """What is true of a face but no attribute of its own: colours and finer kinds."""
    ground = _BACKGROUND[face.background]
    found = [Fact("on", f"{'an' if ground == 'orange' else 'a'} {ground} background")]
    found.append(Fact("wearing", f"a {face.clothes} shirt"))
    found.append(Fact("with", f"{face.skin} skin"))
    if face.top in _HAIR_WORDS:
        found += _facts("with", f"{_HAIR_WORDS[face.top]} {face.hair} hair", f"{_HAIR_WORDS[face.top]} hair")
    if face.top in HATS:
        kind = "turban" if face.top == "turban" else "hat"
        found += _facts("wearing", f"a {face.hat_color} {kind}", "a turban" if kind == "turban" else "a winter hat")
    if face.facial_hair.startswith("beard"):
        found.append(Fact("with", f"a {face.beard_color} beard"))
    if face.facial_hair.startswith("moustache"):
        found.append(Fact("with", f"a {face.beard_color} mustache"))
    return found


def _attribute_fact(name: str, holds: bool, rng: random.Random) -> Fact:
    return rng.choice(_TRUE[name] if holds else _FALSE[name])


def draw_facts(face: Face, rng: random.Random, most: int = 5) -> list[tuple[str | None, Fact]]:
    """Up to `most` things true of the face, each with the attribute it speaks of (None for a mere detail)."""
    truth = attributes(face)
    wanted = rng.randint(0, most) if rng.random() < 0.3 else rng.randint(2, most)
    # What is there is said more often than what is not, as people do.
    scored = sorted(ATTRIBUTES, key=lambda name: rng.random() * (1.0 if truth[name] else 3.5))
    facts: list[tuple[str | None, Fact]] = [(n, _attribute_fact(n, truth[n], rng)) for n in scored[:wanted]]
    if facts and rng.random() < 0.5:
        facts[-1] = (None, rng.choice(_details(face)))
    return facts


def phrase(facts: list[Fact], rng: random.Random) -> str:
    """One sentence that says all of `facts`."""
    adjectives = [fact.words for fact in facts if fact.slot == "adjective"]
    article = rng.choice(("a ", "a ", ""))
    if article and adjectives and adjectives[0][0] in "aeiou":
        article = "an "
    tails = []
    for slot in ("with", "wearing", "not", "without", "on"):
        said = list(dict.fromkeys(fact.words for fact in facts if fact.slot == slot))
        if said:
            link = " or " if slot in ("not", "without") else " and "
            tails.append(f"{slot} {link.join(said)}")
    return f"{article}{' '.join((*dict.fromkeys(adjectives), 'person'))} {', '.join(tails)}".strip()


def caption(face: Face, rng: random.Random) -> str:
    """A sentence that says a random part of what is true of `face`, sometimes nothing but "a person"."""
    return phrase([fact for _, fact in draw_facts(face, rng)], rng)


def contrast(attribute: str, rng: random.Random) -> tuple[str, str]:
    """Two short sentences, one for faces without the attribute and one for faces with it, in random wording."""
    absent = phrase([_attribute_fact(attribute, False, rng)], rng)
    return absent, phrase([_attribute_fact(attribute, True, rng)], rng)


def words(text: str) -> list[str]:
    """The text cut into lower-case words and commas, as the tokenizer cuts it."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def vocabulary() -> list[str]:
    """Every word that a caption or a prompt can hold, in alphabetical order."""
    found = set(words("a an and or , person face with wearing without not no on"))
    for facts in (*_TRUE.values(), *_FALSE.values()):
        found.update(word for fact in facts for word in words(fact.words))
    plain = Face(**{factor: next(iter(values)) for factor, values in PRIORS.items()})
    for top, beard in product(PRIORS["top"], PRIORS["facial_hair"]):
        shown = replace(plain, top=top, facial_hair=beard)
        for factor in ("hair", "beard_color", "skin", "hat_color", "clothes", "background"):
            for value in PRIORS[factor]:
                details = _details(replace(shown, **{factor: value}))
                found.update(word for fact in details for word in words(fact.words))
    return sorted(found)
