"""Figures of a training in Weights & Biases and TensorBoard, and what is said where they are not installed."""

import sys
from types import SimpleNamespace

import pytest

from sparsight.errors import SparsightError
from sparsight.sae import TrainConfig, open_logs, train_sae
from sparsight.sae.logs import grouped

CONFIG = TrainConfig(d_sae=24, steps=6, batch_size=16, lr_decay=0, log_every=2, checkpoint_every=3, validate_every=2)


class FakeWandb(SimpleNamespace):
    """What of wandb is used: `init`, which returns a run with `log` and `finish`."""

    def __init__(self):
        super().__init__(asked=[], lines=[], finished=0)

    def init(self, **options):
        self.asked.append(options)
        return self

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_gets_every_logged_step_under_its_group(store, tmp_path, wandb):
    seen = []
    with open_logs(["wandb"], tmp_path / "sae", CONFIG, also=lambda *line: seen.append(line)) as progress:
        train_sae(store, CONFIG, tmp_path / "sae", progress, images=range(1, 20), validation=[20, 21])
    assert [step for step, _ in wandb.lines] == [2, 4, 6] == [step for step, _, _ in seen]
    for (_, values), (_, total, metrics) in zip(wandb.lines, seen, strict=True):
        assert values["train/fve"] == metrics["fve"] and values["validation/fve"] == metrics["validation_fve"]
        assert total == 6 and not any(name.endswith("step") for name in values)
    assert wandb.asked[0]["config"]["d_sae"] == 24 and wandb.asked[0]["name"] == "sae" and wandb.finished == 1


def test_a_resumed_training_goes_on_in_the_same_wandb_run(tmp_path, wandb):
    for folder in ("a", "a", "b"):
        with pytest.raises(KeyboardInterrupt), open_logs(["wandb"], tmp_path / folder, CONFIG):
            raise KeyboardInterrupt
    first, again, other = (options["id"] for options in wandb.asked)
    assert first == again != other and all(options["resume"] == "allow" for options in wandb.asked)
    assert wandb.finished == 3  # closed whatever happens


def test_tensorboard_files_hold_the_figures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_logs(["tensorboard"], tmp_path, CONFIG) as progress:
        for step in (2, 4):
            progress(step, 6, {"step": step, "fve": step / 8, "validation_l0": 3.0})
    with open_logs(["tensorboard"], tmp_path, CONFIG) as progress:  # resumed from step 3: 4 comes again
        progress(4, 6, {"step": 4, "fve": 0.75})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/fve")] == [(2, 0.25), (4, 0.75)]
    assert events.Scalars("validation/l0")[0].value == 3.0


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, name):
    for module in ("wandb", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)  # makes importing it fail
    with (
        pytest.raises(SparsightError, match=rf"needs the package {name}: pip install 'sparsight\[{name}\]'"),
        open_logs([name], tmp_path / "sae", CONFIG),
    ):
        pass
    assert not (tmp_path / "sae").exists()


def test_an_unknown_log_is_refused_before_anything_is_opened(tmp_path, wandb):
    with (
        pytest.raises(SparsightError, match="unknown log 'tensorbord': did you mean 'tensorboard'"),
        open_logs(["wandb", "tensorbord"], tmp_path, CONFIG),
    ):
        pass
    assert not wandb.asked


def test_figures_are_grouped_by_name():
    assert grouped({"step": 3, "l0": 1.0, "validation_l0": 2.0}) == {"train/l0": 1.0, "validation/l0": 2.0}
