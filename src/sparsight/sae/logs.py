"""Where a training's figures go besides `log.jsonl` and the terminal: Weights & Biases and TensorBoard, both extras."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from sparsight.errors import SparsightError, unknown
from sparsight.sae.config import TrainConfig

Progress = Callable[[int, int, dict[str, float]], None]
WANDB_ID = "wandb.txt"


class Sink(Protocol):
    """Something that takes the figures of a step, under names such as train/fve and validation/fve."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the figures of `step`."""

    def close(self) -> None:
        """Flush and let go."""


class WandbSink:
    """A run of Weights & Biases. Its id lies in the folder, so that a resumed training goes on in the same run."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        wandb = _module("wandb", "wandb", "wandb")
        path = folder / WANDB_ID
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(uuid4().hex, "utf-8")
        self.run = wandb.init(
            project="sparsight", name=folder.name, id=path.read_text("utf-8"), resume="allow", config=asdict(config)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the figures of `step`."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self.run.finish()


class TensorBoardSink:
    """An event file in FOLDER/tensorboard. What a killed training wrote past its checkpoint is hidden by what comes again."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        del config  # TensorBoard keeps no record of options; config.json of the SAE does
        self.open = _module("torch.utils.tensorboard", "tensorboard", "tensorboard").SummaryWriter
        self.folder, self.writer = folder / "tensorboard", None  # type: tuple[Path, Any]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the figures of `step`."""
        if self.writer is None:
            self.writer = self.open(str(self.folder), purge_step=step)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the event file."""
        if self.writer is not None:
            self.writer.close()


SINKS: dict[str, type[WandbSink] | type[TensorBoardSink]] = {"wandb": WandbSink, "tensorboard": TensorBoardSink}


@contextmanager
def open_logs(
    names: Sequence[str], folder: Path | str, config: TrainConfig, also: Progress | None = None
) -> Iterator[Progress]:
    """A `progress` for `train_sae` that sends each logged step to the sinks `names` ("wandb", "tensorboard") and to `also`.

    `folder` is the training's. Raises `SparsightError` for an unknown sink, and where its extra is not installed.
    """
    for name in names:
        if name not in SINKS:
            raise unknown("log", name, SINKS)
    with ExitStack() as stack:
        sinks: list[Sink] = []
        for name in dict.fromkeys(names):
            sinks.append(SINKS[name](Path(folder), config))
            stack.callback(sinks[-1].close)

        def progress(step: int, total: int, metrics: dict[str, float]) -> None:
            for sink in sinks:
                sink.write(step, grouped(metrics))
            if also is not None:
                also(step, total, metrics)

        yield progress


def grouped(metrics: Mapping[str, float]) -> dict[str, float]:
    """Figures by group: validation_fve becomes validation/fve, the others train/NAME; the step is no figure."""
    names = {name: name.removeprefix("validation_") for name in metrics if name != "step"}
    return {f"{'train' if name == short else 'validation'}/{short}": metrics[name] for name, short in names.items()}


def _module(name: str, package: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise SparsightError(
            f"the log {extra!r} needs the package {package}: pip install 'sparsight[{extra}]'"
        ) from error
