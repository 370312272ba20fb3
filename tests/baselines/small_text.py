"""The tiny text-to-image model with what its methods may ask for, and the concept "dog", which is a cat before."""

from functools import cache
from tempfile import mkdtemp

import torch

from sparsight import Prompts, PromptStream, harvest
from sparsight.baselines import FitData
from sparsight.concepts import Concept
from sparsight.sae import SAE, SAEConfig
from sparsight.steering import Window
from tiny_text import SITES, tiny_text_model

DOG = Concept("dog", "cat", "dog", attribute="Dog")
PROMPT = "a cat on a dog"  # so that either strength has something to edit
UPDATE = f"{SITES[1]}:update"
TEXTS = ["a cat", "a dog", "cat on a cat", "a dog on a dog"]


def labels(attribute, numbers):
    return torch.tensor(["dog" in TEXTS[n] for n in numbers])


def masks(images, word, prompts):
    """The lower right, whatever is looked for."""
    assert word and len(prompts) == len(images)
    found = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    found[:, 9:14, 9:13] = True
    return found


@cache
def small_text(precision="fp32") -> FitData:
    model = tiny_text_model()
    model.precision = precision
    store = harvest(model, Prompts(TEXTS), mkdtemp() + "/store",
                    PromptStream(site=UPDATE, at=(0, 1, 2), steps=5, batch_size=4, dtype="fp32", guidance=3.0))  # fmt: skip
    tokens = store.load("tokens")["tokens"]
    sae = SAE(SAEConfig(tokens.shape[-1], 24), seed=3)
    sae.set_statistics(tokens.mean((0, 1)), float(1 / tokens.std()))
    sources = {"store": store, "sae": sae.requires_grad_(False), "labels": labels, "masks": masks}
    return FitData(
        model, site=UPDATE, window=Window(0, 999), numbers=tuple(range(4)),
        sources={k: (lambda v=v: v) for k, v in sources.items()},
    )  # fmt: skip


def noise(rows=2, seed=0):
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def told(prompts=PROMPT, guidance=3.0):
    return small_text().model.encode_prompts(prompts, guidance=guidance)
