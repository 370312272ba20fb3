"""Your own text-to-image model as a domain: prompts from a file, annotators and judges from folders or the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from sparsight.concepts import Annotation, Annotator
from sparsight.concepts.annotators import CaptionTagger, ClipSeg, Grounded, GroundingDino, Sam
from sparsight.errors import SparsightError
from sparsight.metrics import PerceptualDistance, cosine, load_perceptual
from sparsight.prompts import Prompts
from sparsight.worlds.clip import Clip, load_clip

BLOCK = 1_000_000  # edits number their images in blocks of so many


@dataclass(frozen=True)
class OwnConfig:
    """A model and what judges it; used by a recipe whose `world` is "own".

    `prompts` is a text file, one a line: the run reads from its beginning, style edits take theirs from its end.
    `kinds` are the objects that are read and moved, `backgrounds` other nouns with a place, `styles` words for whole
    images. Models are folders or Hub ids. `object_prompt` and `style_prompt` are sentences around an object and a
    style. `perceptual` is a kind of `load_perceptual`.
    """

    model: str = ""
    prompts: str = ""
    kinds: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    detector: str = "IDEA-Research/grounding-dino-tiny"
    segmenter: str = "facebook/sam-vit-base"
    localiser: str = "CIDAS/clipseg-rd64-refined"
    clip: str = "openai/clip-vit-base-patch32"
    perceptual: str = "vgg-hed"
    object_prompt: str = "a photo of a {}"
    style_prompt: str = "a picture in the style of {}"


class OwnDomain:
    """See `Domain`. Judges are loaded when they are first asked for; the model and the prompts are looked at first."""

    def __init__(self, config: OwnConfig) -> None:
        for name in ("model", "prompts", "kinds", "styles"):
            if not getattr(config, name):
                raise SparsightError(f'a recipe with world "own" must say own.{name}')
        self.config, self.model = config, config.model
        self.kinds, self.backgrounds, self.styles = config.kinds, config.backgrounds, config.styles
        self.prompts = Prompts.read(config.prompts)

    @property
    def names(self) -> Mapping[str, str]:
        """What measures, by the names of its models."""
        c = self.config
        return {
            "localiser": c.localiser,
            "clip": c.clip,
            "style": f"best of the styles in {c.clip}",
            "perceptual": c.perceptual,
        }

    @cached_property
    def annotator(self) -> Annotator:
        """Nouns of the prompt -> Grounding DINO -> SAM, and the style that CLIP finds nearest."""
        nouns = (*self.kinds, *self.backgrounds)
        parts = CaptionTagger(nouns), GroundingDino(self.config.detector), Sam(self.config.segmenter)
        return WithStyle(Grounded(*parts), self)

    @cached_property
    def localiser(self) -> ClipSeg:
        """CLIPSeg."""
        return ClipSeg(self.config.localiser)

    @cached_property
    def clip(self) -> Clip:
        """CLIP."""
        return load_clip(self.config.clip)

    @cached_property
    def perceptual(self) -> PerceptualDistance:
        """The distance of pictures."""
        return load_perceptual(self.config.perceptual)

    def require(self) -> None:
        """Judges that are named by an absolute path must be there; Hub ids are asked for when they are needed."""
        for name in ("detector", "segmenter", "localiser", "clip"):
            place = Path(getattr(self.config, name))
            if place.is_absolute() and not place.is_dir():
                raise SparsightError(f"own.{name} is {place}, which is no folder")

    def prompt_for(self, kind: str, number: int) -> str:
        """`object_prompt`, whatever the number: the noise alone differs."""
        return self.config.object_prompt.format(kind)

    def plain_prompts(self, numbers: Sequence[int]) -> list[str]:
        """Prompts from the end of the file; the blocks of validation and test take every other one."""
        found = []
        for number in numbers:
            block, place = divmod(number, BLOCK)
            back = 2 * place + block % 2
            if back >= len(self.prompts):
                raise SparsightError(
                    f"style edits need {back + 1} prompts, but {self.config.prompts} has {len(self.prompts)}"
                )
            found.append(self.prompts.texts[len(self.prompts) - 1 - back])
        return found

    def localise(self, images: Tensor, kind: str) -> Tensor:
        """CLIPSeg's scores, (n, H, W) in [0, 1]."""
        return self.localiser.scores(images, kind)

    def similarity(self, images: Tensor, style: str) -> Tensor:
        """Cosine in CLIP with `style_prompt`, (n,)."""
        return cosine(self.clip.image(images), self.words([style])[0])

    def recognised(self, images: Tensor, style: str) -> Tensor:
        """1 where CLIP finds this style nearest of all, (n,)."""
        return (self.nearest_style(images) == self.styles.index(style)).float()

    def nearest_style(self, images: Tensor) -> Tensor:
        """The place of the style that is nearest to each image, (n,) int64."""
        return (self.clip.image(images) @ self.words(list(self.styles)).T).argmax(1)

    def words(self, styles: list[str]) -> Tensor:
        """Styles as CLIP embeds their sentences, (n, D)."""
        return self.clip.text([self.config.style_prompt.format(style) for style in styles])

    @torch.no_grad()
    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """The perceptual distance, (n,)."""
        return torch.cat([self.perceptual(a, b) for a, b in zip(one.split(16), other.split(16), strict=True)])


class WithStyle:
    """An `Annotator` that adds to another one's objects the style of the whole image."""

    def __init__(self, own: Annotator, domain: OwnDomain) -> None:
        self.own, self.domain = own, domain
        self.name = f"{own.name}, styles by {domain.config.clip}"

    def annotate(
        self, images: Tensor, captions: Sequence[str] | None = None, numbers: Sequence[int] | None = None
    ) -> list[list[Annotation]]:
        """See `Annotator`."""
        objects = self.own.annotate(images, captions, numbers)
        size, styles = (images.shape[-2], images.shape[-1]), self.domain.nearest_style(images).tolist()
        found = zip(objects, styles, strict=True)
        return [[*own, Annotation.whole(self.domain.styles[place], size)] for own, place in found]
