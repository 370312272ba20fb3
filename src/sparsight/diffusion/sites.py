"""Sites: named places in the denoiser, read and written as tokens (batch, position, channel)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparsight.errors import SparsightError, unknown


@dataclass(frozen=True)
class Step:
    """Where in a run an intervention is called.

    `t` is the scheduler's timestep, `index` counts the steps of the loop from 0, `grid` is (height, width)
    of the site's positions. `conditional` marks the rows of a guidance batch that see the prompt (None: all).
    """

    t: int | Tensor
    index: int = 0
    steps: int = 1
    grid: tuple[int, int] = (1, 1)
    conditional: Tensor | None = None


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
    """What was captured: `tape["mid_block"]` is the last call's tokens (B, N, C), `grids` their (h, w)."""

    tokens: dict[str, Tensor] = field(default_factory=dict)
    grids: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __getitem__(self, site: str) -> Tensor:
        return self.tokens[site]


@dataclass
class EditRecord:
    """How strong each edit was: ‖shift‖ / ‖tokens‖ of every call, by site."""

    strengths: dict[str, list[float]] = field(default_factory=dict)

    def mean(self, site: str) -> float:
        """Mean strength at `site`; 0 where nothing acted."""
        values = self.strengths.get(site, [])
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


def _module(denoiser: nn.Module, site: str) -> nn.Module:
    path, _ = split_site(site)
    modules = dict(denoiser.named_modules())
    if not path or path not in modules:
        raise unknown("site", path, site_names(denoiser))
    return modules[path]


def _read(site: str, args: tuple, output: Any) -> Tensor:
    """The site's activation: first tensor of the output, minus the module's input where the mode is `update`."""
    first = output if isinstance(output, Tensor) else output[0]
    if split_site(site)[1] == "output":
        return first
    if not args or args[0].shape != first.shape:
        raise SparsightError(f"site {site!r} has no update: its input and output differ in shape")
    return first - args[0]


def _write(output: Any, first: Tensor) -> Any:
    """`output` with its first tensor replaced, in the same kind of container (tuple or diffusers' ModelOutput)."""
    if isinstance(output, Tensor):
        return first
    if isinstance(output, tuple):
        return (first, *output[1:])
    fields = dict(output.items())
    return type(output)(**{**fields, next(iter(fields)): first})


@contextmanager
def capture(denoiser: nn.Module, sites: Iterable[str], done: Callable[[], None] = lambda: None) -> Iterator[Tape]:
    """Record the tokens of `sites` at every call. Hooks are removed whatever happens.

    `done` is called whenever every site has spoken. Raises `SparsightError` for a site that does not exist, naming the
    nearest ones.
    """
    tape, names = Tape(), list(dict.fromkeys(sites))

    def reader(site: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple, output: Any) -> None:
            tape.tokens[site], tape.grids[site] = to_tokens(_read(site, args, output))
            if len(tape.tokens) == len(names):
                done()

        return hook

    with ExitStack() as stack:
        for site in names:
            handle = _module(denoiser, site).register_forward_hook(reader(site))
            stack.callback(handle.remove)
        yield tape


class _Stop(BaseException):
    """Every wanted site has spoken. No `Exception`, so that no module on the way can take it for a failure."""


def _stop() -> None:
    raise _Stop


@contextmanager
def capture_once(denoiser: nn.Module, sites: Iterable[str]) -> Iterator[Tape]:
    """As `capture`, for one call of the denoiser, which ends together with the block once every site has spoken.

    A site that a pass calls several times is read at its first call.
    """
    with capture(denoiser, sites, _stop) as tape, suppress(_Stop):
        yield tape


@contextmanager
def edit(denoiser: nn.Module, interventions: Sequence[Intervention], step: Callable[[], Step]) -> Iterator[EditRecord]:
    """Apply `interventions` in their order at each call; `step` tells where the run is."""
    record = EditRecord()

    def writer(intervention: Intervention) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple, output: Any) -> Any:
            before = _read(intervention.site, args, output)
            tokens, grid = to_tokens(before)
            changed = intervention(tokens, replace(step(), grid=grid))
            if changed is tokens:
                return None  # an idle intervention leaves the very same numbers
            _note(record, intervention.site, tokens, changed)
            first = output if isinstance(output, Tensor) else output[0]
            if split_site(intervention.site)[1] == "output":
                return _write(output, from_tokens(changed, first))
            return _write(output, first + from_tokens(changed - tokens, first))

        return hook

    with ExitStack() as stack:
        for intervention in interventions:
            handle = _module(denoiser, intervention.site).register_forward_hook(writer(intervention))
            stack.callback(handle.remove)
        yield record


@torch.no_grad()
def _note(record: EditRecord, site: str, before: Tensor, after: Tensor) -> None:
    ratio = (after - before).norm() / before.norm().clamp_min(1e-12)
    record.strengths.setdefault(site, []).append(float(ratio))
