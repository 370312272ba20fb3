"""A small CLIP of the avatars' own, in transformers' format: its parts, its loss and its training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast

from sparsight.files import atomic, read_json, write_json
from sparsight.worlds.avatars.captions import caption_pair, vocabulary
from sparsight.worlds.avatars.judges_training import Mixture, _fast, _harden
from sparsight.worlds.training import Progress, Training

CONTEXT = 32
_SPECIAL = ("<pad>", "<start>", "<unknown>", "<end>")

_README = """---
library_name: transformers
tags: [clip, sparsight]
---
# A small CLIP of sparsight's avatars

A `CLIPModel` trained from scratch by sparsight on 64x64 drawn faces and templated captions of them. It is **not**
OpenAI's CLIP and knows nothing else: about sixty words, and one kind of picture. It loads with
`CLIPModel.from_pretrained` and `AutoTokenizer.from_pretrained`, and judges edits in the world `avatars`.
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the captions' language, between a start and an end token."""
    numbers = {word: i for i, word in enumerate((*_SPECIAL, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(name, numbers[name]) for name in ("<start>", "<end>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=CONTEXT, pad_token="<pad>", bos_token="<start>",
        eos_token="<end>", unk_token="<unknown>", padding_side="right",
    )  # fmt: skip


def build_clip(seed: int = 0) -> CLIPModel:
    """An untrained CLIP: ViT on 8-pixel patches, a short text tower, 128 shared dimensions."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    # CLIPTextModel reads its sentence vector at the end token, which it finds by this number.
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=CONTEXT, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        image_size=64, patch_size=8, hidden_size=160, intermediate_size=480, num_hidden_layers=4, num_attention_heads=5
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128))


def clip_loss(image: Tensor, text: Tensor, contrary: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric loss of unit embeddings (B, D), each image also having to refuse `contrary` captions (B, D).

    A contrary caption differs from the true one in one fact only, so it teaches what a random one rarely does.
    """
    truth = torch.arange(len(image))
    by_image = scale * image @ torch.cat([text, contrary]).T
    return (F.cross_entropy(by_image, truth) + F.cross_entropy(by_image[:, : len(text)].T, truth)) / 2


def train_clip(
    data: Mixture, out: Path, work: Path, *, steps: int, batch: int = 256, learning_rate: float = 1e-3,
    start: CLIPModel | None = None, seed: int = 0, progress: Progress | None = None,
) -> CLIPModel:  # fmt: skip
    """Train CLIP on images and captions drawn anew each time.

    Returns the averaged model, which is also saved (fp16) to `out`.
    """
    model: Any = start or build_clip(seed)
    tokenizer, faces = build_tokenizer(), data.faces

    def embed_texts(texts: list[str]) -> Tensor:
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
        with _fast():
            found = model.text_projection(model.text_model(**tokens).pooler_output)
        return F.normalize(found.float(), dim=-1)

    def loss_of(generator: torch.Generator) -> Tensor:
        images, positions = data.batch(batch, generator)
        rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
        pairs = [caption_pair(faces[i], rng) for i in positions.tolist()]
        texts = embed_texts([true for true, _ in pairs] + [false for _, false in pairs])

        def loss(given: Tensor, texts: Tensor = texts) -> Tensor:
            with _fast():
                found = model.visual_projection(model.vision_model(given).pooler_output)
            scale = model.logit_scale.clamp(max=4.6052).exp()
            true, false = texts.chunk(2)
            return clip_loss(F.normalize(found.float(), dim=-1), true, false, scale)

        return loss(_harden(images, lambda given: loss(given, texts.detach()), generator))

    training = Training(model, work, steps=steps, learning_rate=learning_rate, ema=0.99, seed=seed)
    training.run(loss_of, progress)
    averaged = training.averaged
    assert isinstance(averaged, CLIPModel)
    save_clip(averaged, out)
    return averaged


def save_clip(model: CLIPModel, out: Path) -> None:
    """Write model (fp16), tokenizer, image processor settings and README to the folder `out`."""
    half = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    model.save_pretrained(out, state_dict=half)
    build_tokenizer().save_pretrained(out)
    settings = Path(out) / "tokenizer_config.json"
    # The class is named as every version of transformers knows it, not as the newest one calls it.
    write_json(settings, read_json(settings) | {"tokenizer_class": "PreTrainedTokenizerFast"})
    write_json(Path(out) / "preprocessor_config.json", {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"height": 64, "width": 64},
        "resample": 3, "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": True,
    })  # fmt: skip
    with atomic(Path(out) / "README.md") as temporary:
        temporary.write_text(_README, "utf-8")
