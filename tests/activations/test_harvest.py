import pytest
import torch

from sparsight import DiffusionModel, SparsightError
from sparsight.activations.harvest import HarvestConfig, harvest
from stores import Pictures
from tiny import tiny_pipeline


@pytest.fixture
def v_model():
    return DiffusionModel.from_pipeline(tiny_pipeline(prediction_type="v_prediction"), name="tiny")


@pytest.mark.parametrize("method", ["inversion", "noising"])
@pytest.mark.parametrize("refine", [0, 1])
def test_stored_tokens_are_what_the_model_says_at_the_stored_state(v_model, tmp_path, method, refine):
    config = HarvestConfig(steps=10, batch_size=2, dtype="fp32", method=method, refine=refine)
    store = harvest(v_model, Pictures(), tmp_path, config)
    columns = store.load("tokens", "x_t", "t", "image")
    assert sorted(set(columns["t"].tolist())) == [500, 600, 700, 800, 900]
    assert sorted(set(columns["image"].tolist())) == [0, 1, 2, 3, 4]
    with torch.no_grad(), v_model.capture(["mid_block"]) as tape:
        for row in (0, 7, 24):
            v_model.predict(columns["x_t"][row : row + 1], int(columns["t"][row]))
            torch.testing.assert_close(tape["mid_block"][0], columns["tokens"][row], atol=1e-4, rtol=1e-4)


def test_noised_states_are_the_schedules_own(v_model, tmp_path):
    store = harvest(v_model, Pictures(), tmp_path, HarvestConfig(steps=10, method="noising", dtype="fp32"))
    columns = store.load("x_t", "t", "image")
    images = Pictures().batch(columns["image"].tolist())
    signal, sigma = v_model.schedule.levels(columns["t"], images)
    noise = (columns["x_t"] - signal * images) / sigma
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05


def test_a_killed_harvest_goes_on_where_it_stopped(v_model, tmp_path):
    config = HarvestConfig(steps=10, batch_size=2)

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest(v_model, Pictures(), tmp_path / "a", config, progress=stop)
    rest = Pictures()
    resumed = harvest(v_model, rest, tmp_path / "a", config)
    assert rest.drawn == [4]  # only the missing batch is drawn again
    whole = harvest(v_model, Pictures(), tmp_path / "b", config)
    assert torch.equal(resumed.load("tokens")["tokens"], whole.load("tokens")["tokens"])


def test_a_store_of_another_site_is_not_continued(v_model, tmp_path):
    harvest(v_model, Pictures(), tmp_path, HarvestConfig(steps=10))
    with pytest.raises(SparsightError):
        harvest(v_model, Pictures(), tmp_path, HarvestConfig(steps=10, site="up_blocks.0"))


@pytest.mark.parametrize("bad", [{"method": "guess"}, {"low": 600, "high": 500}, {"batch_size": 0}])
def test_bad_options_are_refused(bad):
    with pytest.raises(SparsightError):
        HarvestConfig(**bad)


def test_an_empty_window_names_itself(v_model, tmp_path):
    with pytest.raises(SparsightError, match="no timestep of a 10-step run lies between 901 and 950"):
        harvest(v_model, Pictures(), tmp_path, HarvestConfig(steps=10, low=901, high=950))


def test_activations_that_are_not_numbers_are_refused(v_model, tmp_path):
    with torch.no_grad():
        v_model.denoiser.mid_block.resnets[0].conv1.bias[0] = float("nan")
    with pytest.raises(SparsightError, match="mid_block"):
        harvest(v_model, Pictures(), tmp_path, HarvestConfig(steps=10))
