"""The parts of the avatars' small CLIP, all in transformers' own format: towers, tokenizer, folder."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast

from sparsight.errors import SparsightError
from sparsight.files import atomic, read_json, write_json
from sparsight.worlds.avatars.captions import vocabulary
from sparsight.worlds.judging import half, write_image_settings

CONTEXT = 32
_SPECIAL = ("<pad>", "<start>", "<unknown>", "<end>")

_README = """---
library_name: transformers
tags: [clip, sparsight]
---
# A small CLIP of sparsight's avatars

A `CLIPModel` trained by sparsight on 64x64 drawn faces and templated captions of them. It is **not** OpenAI's CLIP
and knows nothing else: about sixty words, and one kind of picture. Its image tower began as the world's own ViT
classifier, so the two are no independent witnesses. It loads with `CLIPModel.from_pretrained` and
`AutoTokenizer.from_pretrained`, and judges edits in the world `avatars`.
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
    # The image tower has the measures of the ViT classifier, so that it can begin as one.
    vision = CLIPVisionConfig(
        image_size=64, patch_size=16, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, hidden_act="gelu",
    )  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128))


_LAYER = {
    "attention.attention.query": "self_attn.q_proj", "attention.attention.key": "self_attn.k_proj",
    "attention.attention.value": "self_attn.v_proj", "attention.output.dense": "self_attn.out_proj",
    "layernorm_before": "layer_norm1", "layernorm_after": "layer_norm2",
    "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2",
}  # fmt: skip


def begin_as_classifier(model: CLIPModel, folder: Path, images: Tensor) -> CLIPModel:
    """Start the image tower as the saved ViT classifier in `folder`; the text tower then has something to name.

    From scratch, sentences about the mouth stay alike for long because nothing in the image tower tells
    mouths apart, and the other way round. `images` (B, 3, 64, 64) set the scale of CLIP's extra first norm.
    """
    saved = load_file(Path(folder) / "model.safetensors")
    if not any(name.startswith("vit.encoder.layer.0.") for name in saved):
        raise SparsightError(f"{folder} holds no ViT classifier")
    vit = {name.removeprefix("vit."): value.float() for name, value in saved.items()}
    patches, offset = vit["embeddings.patch_embeddings.projection.weight"], vit["embeddings.position_embeddings"][0]
    offset[1:] += vit["embeddings.patch_embeddings.projection.bias"]  # CLIP's patches have no bias of their own
    tokens = F.conv2d(images, patches, stride=patches.shape[-1]).flatten(2).mT + offset[1:]
    vision = {
        "embeddings.class_embedding": vit["embeddings.cls_token"].flatten(),
        "embeddings.patch_embedding.weight": patches, "embeddings.position_embedding.weight": offset,
        "pre_layrnorm.weight": tokens.std(-1).mean().expand(offset.shape[1]).clone(),
        "post_layernorm.weight": vit["layernorm.weight"], "post_layernorm.bias": vit["layernorm.bias"],
    }  # fmt: skip
    for name, value in vit.items():
        if name.startswith("encoder.layer."):
            number, part = name.removeprefix("encoder.layer.").split(".", 1)
            module, kind = part.rsplit(".", 1)
            vision[f"encoder.layers.{number}.{_LAYER[module]}.{kind}"] = value
    model.load_state_dict({f"vision_model.{k}": v for k, v in vision.items()}, strict=False)
    return model


def save_clip(model: CLIPModel, out: Path) -> None:
    """Write model (fp16), tokenizer, image processor settings and README to the folder `out`."""
    model.save_pretrained(out, state_dict=half(model))
    build_tokenizer().save_pretrained(out)
    settings = Path(out) / "tokenizer_config.json"
    # The class is named as every version of transformers knows it, not as the newest one calls it.
    write_json(settings, read_json(settings) | {"tokenizer_class": "PreTrainedTokenizerFast"})
    write_image_settings(out, "CLIPImageProcessor")
    with atomic(Path(out) / "README.md") as temporary:
        temporary.write_text(_README, "utf-8")
