"""Sites: named places in the denoiser, read and written as tokens (batch, position, channel)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from sparsight.errors import SparsightError, unknown

HALVES = ("uncond", "cond")
"""The halves of a guidance batch: the rows that see the empty or the negative prompt, and those that see the prompt."""


@dataclass(frozen=True)
class Step:
    """Where in a run an intervention is called.

    `t` is the scheduler's timestep, `index` counts the steps of the loop from 0, `grid` is (height, width)
    of the site's positions. `conditional` (rows,) bool marks the rows of a guidance batch that see the prompt; it is
    None for a model without prompts.
    """

    t: int | Tensor
    index: int = 0
    steps: int = 1
    grid: tuple[int, int] = (1, 1)
    conditional: Tensor | None = None

    @property
    def halves(self) -> tuple[str, ...]:
        """Which halves the batch has, by name: ("uncond", "cond"), ("cond",) at guidance 1, () without prompts."""
        if self.conditional is None:
            return ()
        return HALVES if not self.conditional.all() else ("cond",)

    def rows(self, half: str) -> Tensor | slice:
        """The rows of a half as a mask (rows,) bool; every row counts as "cond" for a model without prompts.

        Raises `SparsightError` for another name, and for "uncond" where no row sees the empty prompt.
        """
        return half_rows(self.conditional, half)


def half_rows(conditional: Tensor | None, half: str) -> Tensor | slice:
    """`Step.rows` for a mask of the conditional rows (None: the model takes no prompts)."""
    if half not in HALVES:
        raise unknown("half of a guidance batch", half, HALVES)
    if half == "cond":
        return slice(None) if conditional is None else conditional
    if conditional is None or bool(conditional.all()):
        raise SparsightError("this pass has no 'uncond' half: it needs a prompt and a guidance above 1")
    return ~conditional


class Intervention(Protocol):
    """A change of one site's tokens. Every steering method and every baseline is one."""

    @property
    def site(self) -> str:
        """The site whose tokens it changes."""
        ...

    def active(self, t: int) -> bool:
        """Whether it acts at timestep `t`; where nothing acts, the loop saves the second pass."""
        ...

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        """New tokens (B, N, C) for `tokens` (B, N, C)."""
        ...


@dataclass
class Tape:
    """What was captured: `tape["mid_block"]` is the last call's tokens (B, N, C), `grids` their (h, w).

    A pass with guidance has twice the rows; `half` picks one half by name. Where the capture was asked for chosen
    timesteps, `past[t]` is the tape of timestep t.
    """

    tokens: dict[str, Tensor] = field(default_factory=dict)
    grids: dict[str, tuple[int, int]] = field(default_factory=dict)
    conditional: Tensor | None = None
    past: dict[int, Tape] = field(default_factory=dict)

    def __getitem__(self, site: str) -> Tensor:
        return self.tokens[site]

    def half(self, site: str, half: str) -> Tensor:
        """The tokens (B, N, C) of one half of a guidance batch, "cond" or "uncond"; "" takes all rows."""
        tokens = self.tokens[site]
        return tokens[half_rows(self.conditional, half)] if half else tokens


@dataclass
class EditRecord:
    """How strong each edit was: ‖shift‖ / ‖tokens‖ of every call, by site; `halves` has it by (site, half)."""

    strengths: dict[str, list[float]] = field(default_factory=dict)
    halves: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def mean(self, site: str, half: str | None = None) -> float:
        """Mean strength at `site`, over all rows or over those of one half; 0 where nothing acted."""
        values = self.strengths.get(site, []) if half is None else self.halves.get((site, half), [])
        return sum(values) / len(values) if values else 0.0


def to_tokens(activation: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """(B, C, H, W) or (B, N, C) to tokens (B, N, C) and the grid; sequences count as a grid of height 1."""
    if activation.ndim == 4:
        return activation.flatten(2).transpose(1, 2), (activation.shape[2], activation.shape[3])
    if activation.ndim == 3:
        return activation, (1, activation.shape[1])
    raise SparsightError(
        f"an activation of shape {tuple(activation.shape)} is neither a map (B,C,H,W) nor tokens (B,N,C)"
    )


def from_tokens(tokens: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_tokens`, in the shape and memory format of `like`: another format rounds differently."""
    if like.ndim == 3:
        return tokens
    layout = torch.contiguous_format if like.is_contiguous() else torch.channels_last
    return tokens.transpose(1, 2).reshape(like.shape).contiguous(memory_format=layout)


def site_names(denoiser: nn.Module) -> list[str]:
    """Every site: the blocks of the U-Net and the resnets, attentions and samplers inside them, as module paths."""
    names = []
    for name, module in denoiser.named_modules():
        head = name.split(".")[0]
        kind = type(module).__name__
        if head in ("down_blocks", "mid_block", "up_blocks", "transformer_blocks", "blocks") and (
            "Block" in kind or "Attention" in kind or "Transformer" in kind or "sample2D" in kind
        ):
            names.append(name)
    return names


def split_site(site: str) -> tuple[str, str]:
    """`"mid_block:update"` to ("mid_block", "update"); the mode is "output" where none is named."""
    path, _, mode = site.partition(":")
    if mode not in ("", "output", "update"):
        raise unknown("site mode", mode, ("output", "update"))
    return path, mode or "output"
