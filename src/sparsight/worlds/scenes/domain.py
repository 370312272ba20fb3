"""The world `scenes` as the domain of an emergence run: its prompts, its annotator, its judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparsight.concepts import Annotator
from sparsight.metrics import cosine, load_perceptual
from sparsight.prompts import PromptSource
from sparsight.worlds.scenes.captions import STYLE_WORDS
from sparsight.worlds.scenes.judges import SceneAnnotator, localise, prompt_for, style_of, without_style
from sparsight.worlds.scenes.world import Captions, Scenes, ScenesWorld

NAMES = {
    "localiser": "the world's segmenter", "clip": "the world's own CLIP", "style": "the world's style classifier",
    "perceptual": "feature distance over the world's tagger (LPIPS-type, unweighted)",
}  # fmt: skip


class ScenesDomain(ScenesWorld):
    """See `sparsight.pipeline.emergence.domain.Domain`."""

    names: Mapping[str, str] = NAMES

    @property
    def prompts(self) -> PromptSource:
        """Full captions of the split "harvest"."""
        return Captions("harvest")

    @property
    def annotator(self) -> Annotator:
        """Kinds by the segmenter, background and style by their classifiers."""
        return SceneAnnotator(self)

    def require(self) -> None:
        """All models must be trained."""
        for part in ("model", "segmenter", "tagger", "styles", "clip"):
            self._trained(part)

    def prompt_for(self, kind: str, number: int) -> str:
        """One object, with a background and a style drawn from the number."""
        return prompt_for(kind, number)

    def plain_prompts(self, numbers: Sequence[int]) -> list[str]:
        """Scenes of the split "test", their style unsaid."""
        scenes = Scenes("test")
        return [without_style(scenes.scene(number)) for number in numbers]

    def localise(self, images: Tensor, kind: str) -> Tensor:
        """The segmenter's mask, (n, 64, 64)."""
        return localise(self, images, kind)

    def similarity(self, images: Tensor, style: str) -> Tensor:
        """Cosine in the world's CLIP, (n,)."""
        return cosine(self.clip.image(images), self.clip.text([STYLE_WORDS[style]])[0])

    def recognised(self, images: Tensor, style: str) -> Tensor:
        """1 where the style classifier says this style, (n,)."""
        return (style_of(self, images) == self.styles.index(style)).float()

    @torch.no_grad()
    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """LPIPS-type distance over the tagger's features, (n,)."""
        measure = load_perceptual(
            lambda x: self.tagger(pixel_values=x, output_hidden_states=True).hidden_states, NAMES["perceptual"]
        )
        return torch.cat([measure(a, b) for a, b in zip(one.split(128), other.split(128), strict=True)])
