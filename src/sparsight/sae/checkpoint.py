"""The state of a training as one safetensors file: weights, Adam's moments, the dead clock and the step.

There is no state of a random generator: all randomness is a function of the seed and the step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.files import atomic
from sparsight.parallel import ALONE, Team
from sparsight.sae.model import SAE
from sparsight.sae.rule import Weights

FILE = "checkpoint.safetensors"
LOG = "log.jsonl"


@dataclass
class TrainState:
    """Everything a training step reads and writes. `since` (m,) int64: tokens since each latent last fired.

    `own` holds what only some SAEs train, by name: see `SAE.own`. Every rank of `team` holds the same state.
    """

    sae: SAE
    weights: Weights
    adam: torch.optim.Adam
    since: Tensor
    step: int = 0
    own: dict[str, Tensor] = field(default_factory=dict)
    team: Team = ALONE

    @classmethod
    def fresh(cls, sae: SAE, betas: tuple[float, float], device: torch.device) -> TrainState:
        """Adam over the SAE's own memory, W_enc seen as (m, d) so that its gradient needs no transposing."""
        sae = sae.to(device).requires_grad_(False)
        views = (sae.W_enc.data.t(), sae.b_enc.data, sae.W_dec.data, sae.b_dec.data)
        weights = Weights(*(torch.nn.Parameter(view) for view in views))
        own: dict[str, Tensor] = {name: torch.nn.Parameter(value.data) for name, value in sae.own.items()}
        adam = torch.optim.Adam([*weights, *own.values()], betas=betas, fused=device.type in ("cpu", "cuda"))
        since = torch.zeros(sae.config.d_sae, dtype=torch.int64, device=device)
        return cls(sae, weights, adam, since, own=own)

    def trained(self) -> dict[str, Tensor]:
        """Every trained tensor by name."""
        return self.weights._asdict() | self.own

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state by name; Adam's are there from the first step on."""
        named = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()} | {"since": self.since}
        for name, weight in self.trained().items():
            named |= {f"adam.{name}.{key}": value for key, value in self.adam.state[weight].items()}
        return named

    def save(self, folder: Path, identity: str) -> None:
        """Write the checkpoint atomically; `identity` says which training it belongs to."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors().items()}
        with atomic(folder / FILE) as temporary:
            save_file(tensors, temporary, {"state": json.dumps({"step": self.step, "identity": identity})})

    def load(self, folder: Path, identity: str) -> bool:
        """Take over the checkpoint in `folder`, if there is one; whether there was.

        Raises `SparsightError` if it is corrupt or belongs to another training.
        """
        path = folder / FILE
        if not path.exists():
            return False
        try:
            with safe_open(path, "pt") as file:
                found = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise SparsightError(f"{path} is truncated or corrupt: {error}") from error
        require_same_training(path, found["identity"], identity)
        self._restore(tensors)
        self.step = found["step"]
        return True

    def take_from_first(self) -> None:
        """Become the state of rank 0, whatever this rank has loaded or computed."""
        if self.team.size == 1:
            return
        self.step = self.team.of_first(self.step)
        tensors = self.team.tensors_of_first(self.tensors())
        if not self.team.leads:
            self._restore(tensors)

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self.sae.load_state_dict({k.removeprefix("sae."): v for k, v in tensors.items() if k.startswith("sae.")})
        self.since.copy_(tensors["since"])
        for name, weight in self.trained().items():
            prefix = f"adam.{name}."
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            self.adam.state[weight] = {k: v.clone().to(weight.device) for k, v in own.items()}


def require_same_training(path: Path, found: str, wanted: str) -> None:
    """Refuse a folder that another configuration, store or choice of images has filled."""
    if found != wanted:
        raise SparsightError(f"{path} belongs to a training with another configuration or store: use another folder")


class Log:
    """`log.jsonl`: one line of metrics a logged step. Lines after `step` are dropped, for they will come again.

    `last` is the line that is left, for a training that was killed when all steps were done.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self.path, self.last = folder / LOG if folder else None, {}  # type: tuple[Path | None, dict[str, float]]
        if self.path and self.path.exists():
            lines = [line for line in self.path.read_text("utf-8").splitlines() if _step_of(line) <= step]
            self.last = json.loads(lines[-1]) if lines else {}
            with atomic(self.path) as temporary:
                temporary.write_text("".join(line + "\n" for line in lines), "utf-8")

    def write(self, metrics: dict[str, float]) -> None:
        """Append one line."""
        if self.path:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(metrics) + "\n")
            except OSError as error:
                raise SparsightError(f"cannot write {self.path}: {error.strerror or error}") from error


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line that a kill cut short
        return float("inf")
