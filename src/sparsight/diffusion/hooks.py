"""Hooks that read and write sites while the denoiser runs. They are removed whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.diffusion.sites import (
    EditRecord,
    Intervention,
    Step,
    Tape,
    from_tokens,
    site_names,
    split_site,
    to_tokens,
)  # fmt: skip
from sparsight.errors import SparsightError, unknown


@contextmanager
def capture(
    denoiser: nn.Module, sites: Iterable[str], step: Callable[[], Step] = lambda: Step(t=0),
    at: Collection[int] | None = None, done: Callable[[], None] = lambda: None,
) -> Iterator[Tape]:  # fmt: skip
    """Record the tokens of `sites` at every call. Hooks are removed whatever happens.

    `step` tells where the run is. With `at`, only calls at those timesteps are recorded, and each stays in `past`.
    `done` is called whenever every site has spoken. Raises `SparsightError` for a site that does not exist, naming the
    nearest ones.
    """
    tape, names = Tape(), list(dict.fromkeys(sites))

    def reader(site: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            now = step()
            if at is not None and now.t not in at:
                return
            _record(tape, site, to_tokens(activation(site, input_of(args, kwargs), output)), now, at is not None)
            if len(tape.tokens) == len(names):
                done()

        return hook

    with ExitStack() as stack:
        for site in names:
            handle = module_of(denoiser, site).register_forward_hook(reader(site), with_kwargs=True)
            stack.callback(handle.remove)
        yield tape


def _record(tape: Tape, site: str, seen: tuple[Tensor, tuple[int, int]], now: Step, keep: bool) -> None:
    tape.tokens[site], tape.grids[site] = seen
    tape.conditional = now.conditional
    if keep:
        assert isinstance(now.t, int)
        _record(tape.past.setdefault(now.t, Tape()), site, seen, now, False)


class _Stop(BaseException):
    """Every wanted site has spoken. No `Exception`, so that no module on the way can take it for a failure."""


def _stop() -> None:
    raise _Stop


@contextmanager
def capture_once(denoiser: nn.Module, sites: Iterable[str], step: Callable[[], Step]) -> Iterator[Tape]:
    """As `capture`, for one call of the denoiser, which ends together with the block once every site has spoken.

    A site that a pass calls several times is read at its first call.
    """
    with capture(denoiser, sites, step, done=_stop) as tape, suppress(_Stop):
        yield tape


@contextmanager
def edit(denoiser: nn.Module, interventions: Sequence[Intervention], step: Callable[[], Step]) -> Iterator[EditRecord]:
    """Apply `interventions` in their order at each call; `step` tells where the run is.

    An intervention may return tokens of a wider type than it got: they are added up as they are and rounded once.
    """
    record = EditRecord()

    def writer(intervention: Intervention) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
            tokens, grid = to_tokens(activation(intervention.site, input_of(args, kwargs), output))
            now = replace(step(), grid=grid)
            changed = intervention(tokens, now)
            if changed is tokens:
                return None  # an idle intervention leaves the very same numbers
            _note(record, intervention.site, tokens, changed, now)
            first = output if isinstance(output, Tensor) else output[0]
            if split_site(intervention.site)[1] == "output":
                return _write(output, from_tokens(changed, first).to(first.dtype))
            return _write(output, (first + from_tokens(changed - tokens, first)).to(first.dtype))

        return hook

    with ExitStack() as stack:
        for intervention in interventions:
            module = module_of(denoiser, intervention.site)
            stack.callback(module.register_forward_hook(writer(intervention), with_kwargs=True).remove)
        yield record


def module_of(denoiser: nn.Module, site: str) -> nn.Module:
    """The module of a site. Raises `SparsightError` with the nearest names where there is none."""
    path, _ = split_site(site)
    modules = dict(denoiser.named_modules())
    if not path or path not in modules:
        raise unknown("site", path, site_names(denoiser))
    return modules[path]


def input_of(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """What the module was called with first; U-Nets with prompts name it."""
    first = args[0] if args else kwargs.get("hidden_states")
    return first if isinstance(first, Tensor) else None


def activation(site: str, before: Tensor | None, output: Any) -> Tensor:
    """The site's activation: first tensor of the output, minus the module's input where the mode is `update`."""
    first = output if isinstance(output, Tensor) else output[0]
    if split_site(site)[1] == "output":
        return first
    if before is None or before.shape != first.shape:
        raise SparsightError(f"site {site!r} has no update: its input and output differ in shape")
    return first - before


def _write(output: Any, first: Tensor) -> Any:
    """`output` with its first tensor replaced, in the same kind of container (tuple or diffusers' ModelOutput)."""
    if isinstance(output, Tensor):
        return first
    if isinstance(output, tuple):
        return (first, *output[1:])
    fields = dict(output.items())
    return type(output)(**{**fields, next(iter(fields)): first})


@torch.no_grad()
def _note(record: EditRecord, site: str, before: Tensor, after: Tensor, now: Step) -> None:
    before, shift = before.float(), after.float() - before.float()
    record.strengths.setdefault(site, []).append(_ratio(shift, before))
    for half in now.halves:
        rows = now.rows(half)
        record.halves.setdefault((site, half), []).append(_ratio(shift[rows], before[rows]))


def _ratio(shift: Tensor, tokens: Tensor) -> float:
    return float(shift.norm() / tokens.norm().clamp_min(1e-12))
