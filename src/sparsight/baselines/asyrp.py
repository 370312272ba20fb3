"""Asyrp (Kwon et al., ICLR 2023, arXiv 2210.10960): a learned shift of the bottleneck that moves the predicted x0 alone.

At each timestep from the noisiest to t_edit, along the edited path and updating at every step:

    L = w_clip * -log((2 - L_dir) / 2) + w_l1 * cos(source, target) * mean |P_t - P_t^plain|

L_dir is the directional CLIP loss between the edited prediction P_t and the real image; P_t^plain is that of a second,
unedited path. t_edit is the smallest t at which the perceptual distance of P_t^plain from the image is
`threshold` * cos(source, target). Of the paper's parts the noise below t_boost is left to the loop's eta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.baselines.data import FitData
from sparsight.baselines.delta_block import DeltaBlock, time_embedding
from sparsight.baselines.method import GRADIENTS, IMAGES, PERCEPTUAL, TEXT, Editor, Method
from sparsight.baselines.units import SteeringEditor, Timed, mean_norm
from sparsight.concepts.concept import Concept
from sparsight.concepts.paths import Add
from sparsight.diffusion.model import DiffusionModel
from sparsight.diffusion.sampling import Loop, invert, walk
from sparsight.errors import SparsightError, unknown
from sparsight.metrics import PerceptualDistance, directional_loss
from sparsight.metrics.clip import cosine
from sparsight.steering import Window

WINDOWS = ("perceptual", "given")
T_EDIT = 500  # the released code's value where it has no curve


@dataclass(frozen=True)
class Asyrp(Method):
    """The released scripts' settings. `window` "given" edits in the harness's window in place of t_edit and up.

    `threshold` is for LPIPS (AlexNet), whose distances are not those of other networks; where no prediction is that far
    from its image, t_edit is 500. The texts are the concept's own pair, without prompt templates.
    """

    name = "asyrp"
    title = "Asyrp"
    paper = "arXiv 2210.10960"
    needs = frozenset({IMAGES, TEXT, PERCEPTUAL, GRADIENTS})
    mode = "asymmetric"

    images: int = 100
    epochs: int = 5
    batch_size: int = 1
    lr: float = 0.5
    clip_weight: float = 1.0
    l1_weight: float = 3.0
    threshold: float = 0.33
    window: str = "perceptual"

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise unknown("window of Asyrp", self.window, WINDOWS)

    def refusal(self, data: FitData) -> str | None:
        """Its training runs no prompts."""
        return "it is trained on a model without prompts" if data.model.takes_prompts else None

    def fit(self, concept: Concept, data: FitData) -> Editor:
        """Invert the images, choose the window, train the block, and put it into the shared unit."""
        pictures = data.images.batch(list(data.numbers[: self.images])).to(data.model.device)
        noise = torch.cat([invert(data.model, data.model.encode(part), data.loop) for part in pictures.split(16)])
        source, target = data.clip.text([concept.source, concept.target])
        alike = float(cosine(source[None], target[None]))
        window = data.window
        if self.window == "perceptual":
            curve = perceptual_curve(data.model, data.perceptual, pictures, noise, data.loop.steps)
            window = Window(first_far(curve, self.threshold * alike), 999)
        teacher = _Teacher(self, data, (source, target), alike, window)
        block = teacher.train(pictures, noise)
        return teacher.editor(block, noise)


@torch.no_grad()
def perceptual_curve(
    model: DiffusionModel, distance: PerceptualDistance, pictures: Tensor, noise: Tensor, steps: int
) -> dict[int, float]:
    """The mean distance of the prediction P_t from its picture (n, 3, H, W), by timestep, along the path from `noise`."""
    sums: dict[int, float] = {}
    for own, start in zip(pictures.split(16), noise.split(16), strict=True):
        for moment in walk(model, start, Loop(steps)):
            far = distance(own, model.decode(moment.x0).clamp(-1, 1)).sum()
            sums[moment.t] = sums.get(moment.t, 0.0) + float(far)
    return {t: total / len(pictures) for t, total in sums.items()}


def first_far(curve: Mapping[int, float], threshold: float) -> int:
    """The smallest timestep at which the curve reaches the threshold; 500 where none does."""
    return min((t for t, distance in curve.items() if distance >= threshold), default=T_EDIT)


@dataclass(frozen=True)
class _Teacher:
    """Everything that training holds fixed."""

    method: Asyrp
    data: FitData
    direction: tuple[Tensor, Tensor]
    alike: float
    window: Window

    @property
    def pairs(self) -> Sequence[tuple[int, int]]:
        pairs = [pair for pair in self.data.model.pairs(self.data.loop.steps) if pair[0] in self.window]
        if not pairs:
            raise SparsightError(f"no step of the run lies between {self.window.low} and {self.window.high}")
        return pairs

    def train(self, pictures: Tensor, noise: Tensor) -> DeltaBlock:
        """SGD over all images `epochs` times, at a tenth of the rate after every third."""
        model, method = self.data.model, self.method
        times = time_embedding(model, 0)
        block = DeltaBlock(model.site(self.data.site).channels, len(times), self.data.seed).to(model.device)
        optimizer = torch.optim.SGD(block.parameters(), lr=method.lr)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.1)
        for _ in range(method.epochs):
            for own, start in zip(pictures.split(method.batch_size), noise.split(method.batch_size), strict=True):
                self.one_path(block, optimizer, own, start)
            schedule.step()
        if not all(torch.isfinite(p).all() for p in block.parameters()):
            raise SparsightError("Asyrp's training diverged: lower its lr")
        return block.requires_grad_(False)

    def one_path(self, block: DeltaBlock, optimizer: torch.optim.Optimizer, pictures: Tensor, noise: Tensor) -> None:
        """Down both paths of some images, an update at every step; nothing flows from one step to the next."""
        model, edited = self.data.model, noise
        seen = self.data.clip.image(pictures)
        plain = {m.t: m.x0 for m in walk(model, noise, Loop(self.data.loop.steps)) if m.t in self.window}
        for t, t_next in self.pairs:
            with torch.no_grad(), model.capture([self.data.site]) as tape:
                eps = model.predict(edited, t).eps
            shift = block(tape[self.data.site].float(), time_embedding(model, t))
            with model.edit([Add(self.data.site, shift)]):
                x0 = model.predict(edited, t).x0
            loss = self.loss(model.decode(x0), model.decode(plain[t]), seen)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal, sigma = model.schedule.levels(t_next, edited)
            edited = (signal * x0 + sigma * eps).detach()

    def loss(self, image: Tensor, plain: Tensor, seen: Tensor) -> Tensor:
        """The loss of edited predictions (B, 3, H, W), given the plain ones and the embeddings of the real images."""
        toward = directional_loss(seen, self.data.clip.image(image), *self.direction, form="log")
        near = (image - plain).abs().mean()
        return self.method.clip_weight * toward + self.method.l1_weight * self.alike * near

    @torch.no_grad()
    def editor(self, block: DeltaBlock, noise: Tensor) -> Editor:
        """The block as a steering, scaled by what it does along the unedited paths of some images."""
        data, shifts, sizes = self.data, 0.0, 0.0
        times = {t: time_embedding(data.model, t) for t, _ in self.pairs}
        for moment in walk(data.model, noise[:16], Loop(data.loop.steps)):
            if moment.t in self.window:
                tokens = data.model.read(moment.x_t, moment.t, [data.site])[data.site].float()
                shifts += mean_norm(block(tokens, times[moment.t]))
                sizes += mean_norm(tokens)
        timed = Timed(
            data.site, 1.0, self.window, stamps=tuple(times), rule=lambda tokens, t: block(tokens.float(), times[t])
        )
        return SteeringEditor(timed.scaled(sizes / shifts), own=shifts / sizes)
