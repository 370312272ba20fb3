"""Train the models of `scenes` again from nothing: `sparsight world build scenes`.

Parts are built in order, each from what the ones before it left in OUT; one that was killed goes on from its
checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from sparsight.pipeline.reporter import Reporter
from sparsight.worlds.autoencoder import AutoencoderConfig, encode_all
from sparsight.worlds.building import Part, build_parts
from sparsight.worlds.judging import fast
from sparsight.worlds.scenes import denoiser as dn
from sparsight.worlds.scenes.annotators_training import STEPS, train_annotator
from sparsight.worlds.scenes.autoencoder import train_autoencoder
from sparsight.worlds.scenes.clip import STEPS as CLIP_STEPS
from sparsight.worlds.scenes.clip import train_clip
from sparsight.worlds.scenes.data import SceneData, render_scenes
from sparsight.worlds.scenes.likeness import one_step, round_trip
from sparsight.worlds.scenes.text import build_tokenizer
from sparsight.worlds.scenes.unet import build_scheduler
from sparsight.worlds.scenes.world import SPLITS
from sparsight.worlds.training import Progress

RENDERS, LIKENESSES = 24_000, 4096


class _Builder:
    """One build: where it writes, how long it trains, and the data that parts share."""

    def __init__(self, out: Path, scale: float) -> None:
        self.out, self.scale = out, scale
        self.weights, self.work = out / "weights", out / "work"

    def parts(self) -> dict[str, Part]:
        """What is built, in order."""
        judges: dict[str, Part] = {kind: self._annotator(kind) for kind in STEPS}
        return {"autoencoder": self.autoencoder, "denoiser": self.denoiser, **judges, "clip": self.clip}

    def steps(self, count: int) -> int:
        return max(2, round(count * self.scale))

    @cache  # noqa: B019  # a builder lives as long as its build
    def renders(self) -> SceneData:
        count = max(64, round(RENDERS * min(1.0, self.scale)))
        return render_scenes(SPLITS["train"], count, self.work / f"scenes-{count}.npy")

    @cache  # noqa: B019
    def mixture(self) -> SceneData:
        """Renderings, and likenesses of some by the world's own models: what generated pictures will look like."""
        data, model = self.renders(), self.weights / "model"
        autoencoder = AutoencoderKL.from_pretrained(model / "vae")
        unet = UNet2DConditionModel.from_pretrained(model / "unet")
        text = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
        count = min(LIKENESSES, len(data))
        redrawn = data.likeness(round_trip(autoencoder), count)
        denoised = data.likeness(one_step(autoencoder, unet, text, build_scheduler(), data.scenes), count)
        return data.join(redrawn).join(denoised)

    def autoencoder(self, progress: Progress) -> None:
        config = AutoencoderConfig()
        config = replace(config, steps=self.steps(config.steps))
        model = train_autoencoder(self.renders(), self.work / "autoencoder", config, progress)
        model.half().save_pretrained(self.weights / "model" / "vae")

    def latents(self) -> Tensor:
        model = AutoencoderKL.from_pretrained(self.weights / "model" / "vae").float()
        with fast():
            return encode_all(model, self.renders()).float()

    def denoiser(self, progress: Progress) -> None:
        config = dn.DenoiserConfig()
        config = replace(config, steps=self.steps(config.steps))
        latents, scenes = self.latents(), self.renders().scenes
        unet, text = dn.train_denoiser(latents, scenes, self.work / "denoiser", config, progress)
        vae = AutoencoderKL.from_pretrained(self.weights / "model" / "vae")
        save_pipeline(vae, unet, text, self.weights / "model")

    def _annotator(self, kind: str) -> Callable[[Progress], None]:
        def train(progress: Progress) -> None:
            train_annotator(
                kind, self.mixture(), self.weights / kind, self.work / kind,
                steps=self.steps(STEPS[kind]), progress=progress,
            )  # fmt: skip

        return train

    def clip(self, progress: Progress) -> None:
        train_clip(
            self.mixture(), self.weights / "clip", self.work / "clip", steps=self.steps(CLIP_STEPS), progress=progress
        )


def build(out: Path, report: Reporter, only: Sequence[str] = (), scale: float = 1.0) -> Path:
    """Build every part (or `only` some) into `out/weights`; returns that folder. `scale` multiplies training steps."""
    builder = _Builder(Path(out), scale)
    build_parts(builder.parts(), builder.work, report, only)
    return builder.weights


def save_pipeline(vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel, folder: Path) -> None:
    """Write an ordinary `StableDiffusionPipeline` folder, weights in fp16.

    The small text encoder stays in fp32: transformers would load halves as halves, beside a U-Net that is not.
    """
    vae.register_to_config(_name_or_path="")  # the folder it was built in is of no use elsewhere
    StableDiffusionPipeline(
        vae.half(), text.float(), build_tokenizer(), unet.half(), build_scheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
