"""What the sites of a denoiser look like, noted while one pass is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsight.diffusion.hooks import activation, input_of, module_of
from sparsight.diffusion.sites import to_tokens


@dataclass(frozen=True)
class SiteInfo:
    """What one site looks like: `channels` C and `grid` (h, w), so that its tokens are (B, h w, C).

    `kind` is the class of its module; `has_update` says whether input and output agree in shape, so that NAME:update
    can be read.
    """

    name: str
    channels: int
    grid: tuple[int, int]
    kind: str = ""
    has_update: bool = False

    @property
    def cross_attention(self) -> bool:
        """Whether it is a block through which the prompt reaches the image."""
        return self.kind.endswith("Transformer2DModel")


@contextmanager
def survey(denoiser: nn.Module, names: Iterable[str]) -> Iterator[dict[str, SiteInfo]]:
    """Note what each of the sites looks like while one pass is run; those that are not called are left out."""
    found: dict[str, SiteInfo] = {}

    def reader(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            first, before = activation(name, None, output), input_of(args, kwargs)
            tokens, grid = to_tokens(first)
            same = before is not None and before.shape == first.shape
            found[name] = SiteInfo(name, tokens.shape[-1], grid, type(module).__name__, same)

        return hook

    with ExitStack() as stack:
        for name in names:
            stack.callback(module_of(denoiser, name).register_forward_hook(reader(name), with_kwargs=True).remove)
        yield found
