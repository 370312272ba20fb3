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
from sparsight.worlds.avatars.captions import caption, contrast, vocabulary
from sparsight.worlds.avatars.faces import ATTRIBUTES
from sparsight.worlds.avatars.judges_training import Mixture, fast, harden, ready, training_of
from sparsight.worlds.training import Progress

CONTEXT = 32
CONTRAST = 20.0  # the contrary pairs: at a quarter of this weight, fine details such as the mouth go unlearnt
_MOST_SCALE = 4.6052  # ln 100, as in CLIP
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
    """An untrained CLIP: ViT on 16-pixel patches, a short text tower, 128 shared dimensions."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    # CLIPTextModel reads its sentence vector at the end token, which it finds by this number.
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=CONTEXT, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        image_size=64, patch_size=16, hidden_size=160, intermediate_size=480, num_hidden_layers=4, num_attention_heads=5
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128))


def clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric loss between unit embeddings (B, D) of images and of their captions."""
    truth = torch.arange(len(image))
    scores = scale * image @ text.T
    return (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)) / 2


def contrast_loss(image: Tensor, absent: Tensor, present: Tensor, holds: Tensor, scale: Tensor) -> Tensor:
    """The same loss over pairs of contrary sentences: which of the two, (A, D) each, does each image (B, D) fit?

    `holds` (B, A) says for which attributes the second is true. Such pairs differ in one fact only, and so
    teach what the other captions of a batch, which differ in many, rarely do.
    """
    return F.binary_cross_entropy_with_logits(scale * image @ (present - absent).T, holds)


def train_clip(
    data: Mixture, out: Path, work: Path, *, steps: int, batch: int = 256, learning_rate: float = 1e-3,
    start: CLIPModel | None = None, seed: int = 0, progress: Progress | None = None,
) -> CLIPModel:  # fmt: skip
    """Train CLIP on images and captions drawn anew each time.

    Returns the averaged model, which is also saved (fp16) to `out`.
    """
    model: Any = ready(start or build_clip(seed))
    tokenizer, faces = build_tokenizer(), data.faces

    def embed_texts(texts: list[str]) -> Tensor:
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
        with fast():
            found = model.text_projection(model.text_model(**tokens).pooler_output)
        return F.normalize(found.float(), dim=-1)

    def loss_of(generator: torch.Generator) -> Tensor:
        images, positions = data.batch(batch, generator)
        rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
        pairs = [contrast(name, rng) for name in ATTRIBUTES]
        captions = [caption(faces[i], rng) for i in positions.tolist()]
        texts = embed_texts([*captions, *(a for a, _ in pairs), *(b for _, b in pairs)])

        def loss(given: Tensor, texts: Tensor = texts) -> Tensor:
            with fast():
                found = model.visual_projection(model.vision_model(given).pooler_output)
            image, scale = F.normalize(found.float(), dim=-1), model.logit_scale.clamp(max=_MOST_SCALE).exp()
            text, absent, present = texts.split([len(captions), len(pairs), len(pairs)])
            contrary = contrast_loss(image, absent, present, data.labels[positions], scale)
            return clip_loss(image, text, scale) + CONTRAST * contrary

        return loss(harden(images, lambda given: loss(given, texts.detach()), generator))

    training = training_of(model, work, steps, learning_rate, seed)
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
