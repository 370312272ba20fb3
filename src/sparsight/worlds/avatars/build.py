"""Train the world's models again from nothing: `sparsight world build avatars`.

Parts are built in order, each from what the ones before it left in OUT; a part that is whole is not built
again, one that was killed goes on from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from diffusers import AutoencoderKL, LDMPipeline, UNet2DModel

from sparsight.pipeline.reporter import Reporter
from sparsight.worlds.avatars import autoencoder as ae
from sparsight.worlds.avatars import denoiser as dn
from sparsight.worlds.avatars import judges
from sparsight.worlds.avatars.data import FaceData, render_faces
from sparsight.worlds.avatars.judge_clip import train_clip
from sparsight.worlds.avatars.judge_clip_model import begin_as_classifier, build_clip
from sparsight.worlds.avatars.judge_likeness import one_step, round_trip
from sparsight.worlds.avatars.judge_models import KINDS
from sparsight.worlds.avatars.judges_training import STEPS, Mixture, train_classifier, train_identity
from sparsight.worlds.avatars.world import SPLITS, Validity
from sparsight.worlds.building import build_parts
from sparsight.worlds.training import Progress

PARTS = ("autoencoder", "denoiser", *KINDS, "clip", "identity", "validity")
RENDERS, LIKENESSES = 24_000, 4096


class _Builder:
    """One build: where it writes, how long it trains, and the data that parts share."""

    def __init__(self, out: Path, scale: float) -> None:
        self.out, self.scale = out, scale
        self.weights, self.work = out / "weights", out / "work"

    def steps(self, count: int) -> int:
        return max(2, round(count * self.scale))

    @cache  # noqa: B019  # a builder lives as long as its build
    def renders(self) -> FaceData:
        count = max(64, round(RENDERS * min(1.0, self.scale)))
        return render_faces(SPLITS["train"], count, self.work / f"faces-{count}.npy")

    @cache  # noqa: B019
    def mixture(self) -> Mixture:
        """Half renderings, half likenesses by the world's own models: what edits and the alignment loss will show."""
        data, model = self.renders(), self.weights / "model"
        encoder = AutoencoderKL.from_pretrained(model / "vqvae")
        unet, scheduler = UNet2DModel.from_pretrained(model / "unet"), dn.build_scheduler()
        count = min(LIKENESSES, len(data))
        redrawn = data.likeness(round_trip(encoder), count)
        denoised = data.likeness(one_step(encoder, unet, scheduler), count)
        return Mixture([(data, 0.5), (redrawn, 0.25), (denoised, 0.25)])

    def autoencoder(self, progress: Progress) -> None:
        config = ae.AutoencoderConfig()
        config = replace(config, steps=self.steps(config.steps))
        model = ae.train_autoencoder(self.renders(), self.work / "autoencoder", config, progress)
        model.half().save_pretrained(self.weights / "model" / "vqvae")

    def denoiser(self, progress: Progress) -> None:
        encoder = AutoencoderKL.from_pretrained(self.weights / "model" / "vqvae").float()
        config = dn.DenoiserConfig()
        config = replace(config, steps=self.steps(config.steps))
        latents = ae.encode_all(encoder, self.renders())
        unet = dn.train_denoiser(latents, self.work / "denoiser", config, progress)
        encoder.register_to_config(_name_or_path="")  # the folder it was built in is of no use elsewhere
        LDMPipeline(encoder.half(), unet.half(), dn.build_scheduler()).save_pretrained(self.weights / "model")

    def judge(self, kind: str, progress: Progress) -> None:
        steps, work = self.steps(STEPS[kind]), self.work / kind
        if kind == "clip":
            images = self.renders().images(slice(0, 64))
            start = begin_as_classifier(build_clip(), self.weights / "classifiers" / "vit", images)
            train_clip(self.mixture(), self.weights / "clip", work, steps=steps, start=start, progress=progress)
        elif kind == "identity":
            train_identity(self.mixture(), self.weights / "identity", work, steps=steps, progress=progress)
        else:
            train_classifier(
                kind, self.mixture(), self.weights / "classifiers" / kind, work, steps=steps, progress=progress
            )

    def validity(self, progress: Progress) -> None:
        vgg = judges.load_classifier(self.weights / "classifiers" / "vgg")
        Validity.build(vgg).save(self.weights)
        progress(1, 1, 0.0)

    def work_of(self, part: str) -> Callable[[Progress], None]:
        if part in ("autoencoder", "denoiser", "validity"):
            return getattr(self, part)
        return lambda progress: self.judge(part, progress)


def build(out: Path, report: Reporter, only: Sequence[str] = (), scale: float = 1.0) -> Path:
    """Build every part (or `only` some) into `out/weights`; returns that folder. `scale` multiplies training steps."""
    builder = _Builder(Path(out), scale)
    build_parts({part: builder.work_of(part) for part in PARTS}, builder.work, report, only)
    return builder.weights
