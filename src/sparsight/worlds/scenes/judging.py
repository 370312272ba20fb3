"""Judges of scenes: any picture to log odds of every attribute, twice, by networks that share nothing.

Attributes are the styles, kinds and backgrounds by their names, and for every kind and quadrant `KIND_QUADRANT`, such as
"cat_top-left": more than half of the kind lies there. All logits are log odds, above 0 for yes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsight.errors import unknown
from sparsight.metrics import QUADRANTS, quadrant_region
from sparsight.worlds.scenes.annotators import segment_logits
from sparsight.worlds.scenes.captions import phrase
from sparsight.worlds.scenes.judges import LEAST
from sparsight.worlds.scenes.scene import BACKGROUNDS, KINDS, STYLES

if TYPE_CHECKING:
    from sparsight.worlds.scenes.world import ScenesWorld

PLACES = tuple(f"{kind}_{quadrant}" for kind in KINDS for quadrant in QUADRANTS)
ATTRIBUTES = (*STYLES, *KINDS, *BACKGROUNDS, *PLACES)
NEVER = 0.01  # a share is kept this far from 0 and 1, so that its log odds are finite
BATCH = 64


def related(attribute: str) -> tuple[str, ...]:
    """What excludes the attribute and so is no damage when it changes with it: other styles, other places of the same kind.

    Raises `SparsightError` for an unknown attribute.
    """
    if attribute not in ATTRIBUTES:
        raise unknown("attribute", attribute, ATTRIBUTES)
    kind = attribute.split("_")[0]
    for group in (STYLES, BACKGROUNDS, tuple(name for name in PLACES if name.split("_")[0] == kind)):
        if attribute in group:
            return tuple(name for name in group if name != attribute)
    return tuple(name for name in PLACES if name.split("_")[0] == kind)


class SceneJudge(nn.Module):
    """Images (n, 3, 64, 64) in [-1, 1] to log odds (n, A) in the order of `ATTRIBUTES`."""

    name: str

    def __init__(self, world: ScenesWorld) -> None:
        super().__init__()
        self.world = world  # no module: its networks are the world's, loaded when first asked

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """A few images at a time."""
        return torch.cat([self._judged(part.float()) for part in images.split(BATCH)])

    def _judged(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class Annotators(SceneJudge):
    """Styles by their classifier, kinds and backgrounds by the tagger, places by the segmenter's probabilities."""

    name = "style classifier, tagger, segmenter"

    def _judged(self, images: Tensor) -> Tensor:
        tags = self.world.tagger(pixel_values=images).logits
        pixels = segment_logits(self.world.segmenter, images).softmax(1)[:, 1:]
        found = in_quadrants(pixels)
        shares = found / (pixels.sum((-2, -1))[..., None] + LEAST)  # a speck is in no place
        styles = against(self.world.style_classifier(pixel_values=images).logits)
        return torch.cat([styles, tags, log_odds(shares).flatten(1)], 1)


class ClipAndMaps(SceneJudge):
    """Styles and backgrounds by the world's CLIP, kinds by the segmenter's area, places by the tagger's class activation maps.

    The maps are exact: the tagger's logits are means of them over positions (CAM, arXiv 1512.04150).
    """

    name = "CLIP, segmenter, tagger's class activation maps"

    def __init__(self, world: ScenesWorld) -> None:
        super().__init__(world)
        words = {
            "styles": [[phrase([k], b, s) for k in KINDS[:3] for b in BACKGROUNDS] for s in STYLES],
            "backgrounds": [[phrase([k], b, s) for k in KINDS[:3] for s in STYLES] for b in BACKGROUNDS],
        }
        for name, texts in words.items():
            means = torch.stack([world.clip.text(own).mean(0) for own in texts])
            self.register_buffer(name, means / means.norm(dim=-1, keepdim=True), persistent=False)

    def _judged(self, images: Tensor) -> Tensor:
        seen = self.world.clip.image(images) * self.world.clip.model.logit_scale.exp()
        area = segment_logits(self.world.segmenter, images).softmax(1)[:, 1:].sum((-2, -1))
        read = self.world.tagger(pixel_values=images, output_hidden_states=True)
        head: Any = self.world.tagger.classifier[-1]  # type: ignore[index]
        maps = torch.einsum("nchw,kc->nkhw", read.hidden_states[-1], head.weight[: len(KINDS)]).clamp_min(0)
        there = read.logits[:, : len(KINDS)].sigmoid()[..., None]  # what is not in the picture is in no place
        shares = there * in_quadrants(maps) / maps.sum((-2, -1))[..., None].clamp_min(1e-6)
        return torch.cat([
            against(seen @ self.styles.T), (area / LEAST).clamp_min(NEVER).log(), against(seen @ self.backgrounds.T),
            log_odds(shares).flatten(1),
        ], 1)  # fmt: skip


JUDGES: dict[str, type[SceneJudge]] = {"annotators": Annotators, "clip_and_maps": ClipAndMaps}


def in_quadrants(maps: Tensor) -> Tensor:
    """What of maps (n, k, h, w) lies in each of the `QUADRANTS`: (n, k, 4)."""
    regions = torch.stack([quadrant_region(name, (maps.shape[-2], maps.shape[-1])) for name in QUADRANTS])
    return torch.einsum("nkhw,qhw->nkq", maps, regions.to(maps))


def against(logits: Tensor) -> Tensor:
    """Log odds of each class against all others, from the logits (n, classes) of a softmax."""
    others = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    rest = logits[:, None].expand(-1, logits.shape[1], -1).masked_fill(others, -torch.inf)
    return logits - rest.logsumexp(-1)


def log_odds(shares: Tensor) -> Tensor:
    """Log odds of shares in [0, 1]."""
    return shares.clamp(NEVER, 1 - NEVER).logit()


@torch.no_grad()
def recognisable(world: ScenesWorld, images: Tensor) -> Tensor:
    """Whether a picture is still a scene: one style and one background for sure, and an object seen. bool (n,)."""
    found = Annotators(world)(images)
    parts: Sequence[Tensor] = found[:, : -len(PLACES)].split([len(STYLES), len(KINDS), len(BACKGROUNDS)], 1)
    return torch.stack([(part > 0).any(1) for part in parts]).all(0)
