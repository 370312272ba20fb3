"""The noise schedule, read off any diffusers scheduler: x_t = signal(t) x0 + sigma(t) eps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsight.errors import SparsightError

CLEAN = -1
"""The timestep after the last one: the image itself, as far as the scheduler lets it be clean."""


class Prediction(NamedTuple):
    """What a denoiser says about `x_t`: the clean image and the noise in it, both shaped like `x_t`."""

    x0: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Schedule:
    """Signal and noise levels by timestep, fp64, with the clean end stored last so that index -1 finds it.

    `kind` is the network's parameterisation. A sampling pipeline that clips x0 does so to +-`clip`, and
    `rederive` says that it then recomputes the noise from the clipped image, as DDPM does and DDIM does not.
    """

    signals: Tensor
    sigmas: Tensor
    kind: str  # "epsilon" | "v_prediction" | "sample" | "flow_prediction"
    clip: float | None = None
    rederive: bool = False

    @classmethod
    def of(cls, scheduler: Any) -> Schedule:
        """Read `scheduler`; refuses one that is neither variance preserving nor a flow."""
        config = scheduler.config
        if hasattr(scheduler, "alphas_cumprod"):
            alphas = scheduler.alphas_cumprod.double().cpu()
            final = 1.0 if config.get("set_alpha_to_one", True) else alphas[0].item()
            alphas = torch.cat([alphas, torch.tensor([final], dtype=torch.float64)])
            clip = config.get("clip_sample_range", 1.0) if config.get("clip_sample", False) else None
            kind, rederive = config.get("prediction_type", "epsilon"), type(scheduler).__name__ == "DDPMScheduler"
            return cls(alphas.sqrt(), (1 - alphas).sqrt(), kind, clip, rederive)
        if "FlowMatch" in type(scheduler).__name__:
            return cls._flow(config.num_train_timesteps)
        raise SparsightError(
            f"scheduler {type(scheduler).__name__} has no alphas_cumprod and is no flow: use a DDPM, DDIM or FlowMatch one"
        )

    @classmethod
    def _flow(cls, steps: int) -> Schedule:
        sigmas = torch.arange(steps + 1, dtype=torch.float64) / steps  # a flow's timestep is its sigma, shift included
        sigmas = torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])
        return cls(1 - sigmas, sigmas, "flow_prediction")

    def levels(self, t: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """signal(t) and sigma(t), shaped to multiply a batch such as `like`; t = `CLEAN` is the clean end."""
        index = torch.as_tensor(t).cpu()
        shape = (-1, *[1] * (like.ndim - 1)) if index.ndim else ()
        signal, sigma = self.signals[index].reshape(shape), self.sigmas[index].reshape(shape)
        return signal.to(like.device, like.dtype), sigma.to(like.device, like.dtype)

    def convert(self, output: Tensor, x_t: Tensor, t: int | Tensor) -> Prediction:
        """Turn the network's `output` at `x_t`, whatever it parameterises, into (x0, eps)."""
        signal, sigma = self.levels(t, x_t)
        if self.kind == "epsilon":
            return Prediction((x_t - sigma * output) / signal, output)
        if self.kind == "v_prediction":
            return Prediction(signal * x_t - sigma * output, signal * output + sigma * x_t)
        if self.kind == "sample":
            return Prediction(output, (x_t - signal * output) / sigma)
        if self.kind == "flow_prediction":  # output = eps - x0
            return Prediction(x_t - sigma * output, x_t + signal * output)
        raise SparsightError(
            f"prediction type {self.kind!r} is not known (valid: epsilon, v_prediction, sample, flow_prediction)"
        )

    def add_noise(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """x_t for clean `x0` and `noise`."""
        signal, sigma = self.levels(t, x0)
        return signal * x0 + sigma * noise


def step_pairs(scheduler: Any, steps: int) -> list[tuple[int, int]]:
    """The (t, next t) pairs that `scheduler` itself walks in `steps` steps, noisy to clean; the last goes to `CLEAN`."""
    total = scheduler.config.num_train_timesteps
    if not 1 <= steps <= total:
        raise SparsightError(f"{steps} sampling steps are asked for, but the schedule has 1 to {total}")
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    stamps = [round(float(t)) for t in scheduler.timesteps]
    if hasattr(scheduler, "alphas_cumprod"):
        return [
            (t, max(t - total // steps, CLEAN)) for t in stamps
        ]  # what DDIM and DDPM step to, whatever their spacing
    return list(zip(stamps, [*stamps[1:], CLEAN], strict=True))
