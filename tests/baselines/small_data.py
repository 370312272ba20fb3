"""A tiny model with everything a method may ask for: bright and dark pictures, and the concept "bright"."""

from functools import cache
from tempfile import mkdtemp

import torch

from sparsight import DiffusionModel, Loop
from sparsight.activations.harvest import HarvestConfig, harvest
from sparsight.baselines import FitData
from sparsight.concepts import Alignment, Concept
from sparsight.metrics import load_perceptual
from sparsight.sae import SAE, SAEConfig
from tiny import tiny_pipeline

BRIGHT = Concept("bright", "a picture", "a bright picture", attribute="Bright")
COUNT, CHANNELS, LATENTS = 8, 64, 32
LOOP = Loop(steps=10)


class Pictures:
    """Noise, dark where the number is even and bright where it is odd."""

    name = "pictures"

    def __len__(self):
        return COUNT

    def batch(self, numbers):
        return torch.cat([picture(n, 0.5 if n % 2 else -0.5) for n in numbers])


def picture(number, brightness):
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(number)) - 0.5
    return (noise + brightness).clamp(-1, 1)


class BrightClip:
    """Two words on a circle: the angle of an image is its brightness, the text pair points to brighter."""

    def image(self, images):
        angle = images.mean((1, 2, 3))
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    def text(self, texts):
        return torch.tensor([[0.8, 0.6] if "bright" in text else [1.0, 0.0] for text in texts])


def labels(attribute, numbers):
    side = {"Bright": 1, "Dark": 0}
    return (
        torch.tensor([n % 2 == side[attribute] for n in numbers])
        if attribute in side
        else torch.tensor([n % 4 < 2 for n in numbers])
    )


def pairs(concept):
    return tuple(torch.cat([picture(n, b) for n in range(4)]) for b in (-0.5, 0.5))


def small_sae(tokens, **options):
    sae = SAE(SAEConfig(CHANNELS, LATENTS, **options), seed=3)
    sae.set_statistics(tokens.mean((0, 1)), float(1 / tokens.std()))
    with torch.no_grad():
        sae.b_enc.fill_(0.05)
    return sae.requires_grad_(False)


def alignment(concept, basis="latents"):
    rows = LATENTS if basis == "latents" else CHANNELS
    dice = torch.Generator().manual_seed(5)
    W = torch.randn(rows, CHANNELS, generator=dice)
    return Alignment(concept, "mid_block", W, torch.zeros(CHANNELS), torch.rand(rows, generator=dice) + 0.1, basis)


@cache
def small_data(precision="fp32") -> FitData:
    model = DiffusionModel.from_pipeline(tiny_pipeline(clip_sample=False), name="tiny")
    model.precision = precision
    store = harvest(model, Pictures(), mkdtemp() + "/store", HarvestConfig(steps=10, batch_size=4, dtype="fp32"))
    sae = small_sae(store.load("tokens")["tokens"])
    sources = {
        "store": store, "sae": sae, "images": Pictures(), "text": BrightClip(), "labels": labels, "pairs": pairs,
        "alignments": alignment, "perceptual": load_perceptual(lambda x: [x]),
    }  # fmt: skip
    return FitData(
        model, numbers=tuple(range(COUNT)), loop=LOOP, sources={k: (lambda v=v: v) for k, v in sources.items()}
    )


def noise(rows=2, seed=0):
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
