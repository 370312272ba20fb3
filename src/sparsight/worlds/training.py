"""The one training loop of the worlds' models: AdamW, cosine schedule, EMA, checkpoints that resume exactly."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparsight.files import atomic

Progress = Callable[[int, int, float], None]  # (step, steps, loss)


class Training:
    """Train `model` for `steps` steps of a loss that draws its batch from the generator it is given.

    The generator is seeded anew from (seed, step), so a resumed run sees exactly the batches that an
    uninterrupted one would. A checkpoint is one safetensors file: weights, EMA, Adam's moments, the step.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        *,
        steps: int,
        learning_rate: float,
        warmup: int = 100,
        ema: float = 0.999,
        weight_decay: float = 1e-4,
        seed: int = 0,
        checkpoint_every: int = 250,
    ) -> None:
        self.model, self.steps, self.warmup, self.ema, self.seed = model, steps, warmup, ema, seed
        self.learning_rate, self.checkpoint_every = learning_rate, checkpoint_every
        self.path = Path(folder) / "checkpoint.safetensors"
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )
        self.step = self._resume() if self.path.exists() else 0

    def run(self, loss_of: Callable[[torch.Generator], Tensor], progress: Progress | None = None) -> None:
        """Train to the end, writing a checkpoint every `checkpoint_every` steps and one at the end."""
        self.model.train()
        while self.step < self.steps:
            loss = self._train_one(loss_of)
            if self.step % self.checkpoint_every == 0 or self.step == self.steps:
                self._save()
            if progress is not None:
                progress(self.step, self.steps, loss)

    def _train_one(self, loss_of: Callable[[torch.Generator], Tensor]) -> float:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        loss = loss_of(generator)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._average()
        return loss.item()

    def _rate(self) -> float:
        decay = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        return self.learning_rate * min(1.0, (self.step + 1) / self.warmup) * (0.02 + 0.98 * decay)

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.ema, self.step / (self.step + 10))  # a young average forgets faster
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1 - keep)
        for mine, theirs in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
            mine.copy_(theirs)

    def _save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.averaged.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v for k, v in state.items()}
        with atomic(self.path) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"step": json.dumps(self.step)})

    def _resume(self) -> int:
        tensors = load_file(self.path)
        for prefix, module in (("model.", self.model), ("ema.", self.averaged)):
            module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        return int(next(iter(state.values()))["step"].item()) if state else 0
