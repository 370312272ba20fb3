"""What alignment learns: one linear map from latents to an edit of the activation, and the ranking of its latents."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsight.concepts.concept import Concept
from sparsight.errors import SparsightError, unknown
from sparsight.files import atomic, read_json, write_json

RANKINGS = ("l2", "l1", "max", "contribution")


@dataclass
class Alignment:
    """CASL stage 2 for one concept: edit = code @ W + b (eq. 6), in the activation's raw units.

    `W` is (latents, C), row i = column i of the paper's W_c; `b` is (C,). `mean_activation` (latents,) is each
    latent's mean over the tokens of the training images. `basis` says what the code is: "latents" of an SAE,
    or "channels" of the activation itself (the control without an SAE).
    """

    concept: Concept
    site: str
    W: Tensor
    b: Tensor
    mean_activation: Tensor
    basis: str = "latents"
    extra: dict[str, Any] = field(default_factory=dict)

    def scores(self, rule: str = "l2") -> Tensor:
        """One score per latent (eq. 9; the paper does not say how a column becomes one number): (latents,).

        "l2" (default), "l1", "max": that norm of the column. "contribution": l2 times the mean activation,
        the size of the edit that the latent really makes.
        """
        if rule == "contribution":
            return self.W.norm(dim=1) * self.mean_activation
        if rule not in RANKINGS:
            raise unknown("ranking rule", rule, RANKINGS)
        return self.W.norm(dim=1, p={"l2": 2, "l1": 1, "max": float("inf")}[rule])

    def top(self, k: int, rule: str = "l2") -> list[int]:
        """The `k` best latents, best first; latents that never fired on the training images come last."""
        if not 1 <= k <= len(self.W):
            raise SparsightError(f"k is {k}, but there are 1 to {len(self.W)} latents")
        return torch.where(self.mean_activation > 0, self.scores(rule), -1.0).topk(k).indices.tolist()

    def save(self, folder: Path) -> None:
        """Write config.json and alignment.safetensors (weights in fp16)."""
        concept = {k: getattr(self.concept, k) for k in ("name", "source", "target", "attribute")}
        tensors = {"W": self.W.half(), "b": self.b, "mean_activation": self.mean_activation}
        with atomic(Path(folder) / "alignment.safetensors") as temporary:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)
        config = {"schema_version": 1, "concept": concept, "site": self.site, "basis": self.basis, "extra": self.extra}
        write_json(Path(folder) / "config.json", config)

    @classmethod
    def load(cls, folder: Path) -> Alignment:
        """Read what `save` wrote; a missing or broken file is a clear error."""
        config = read_json(Path(folder) / "config.json")
        try:
            tensors = load_file(Path(folder) / "alignment.safetensors")
        except (OSError, SafetensorError) as error:
            raise SparsightError(f"{folder} holds no readable alignment: {error}") from error
        return cls(
            Concept(**config["concept"]), config["site"], tensors["W"].float(), tensors["b"], tensors["mean_activation"],
            config["basis"], config["extra"],
        )  # fmt: skip
