"""The interface itself: the unit of strength, what a method is shown, and what an editor may do to a run."""

from dataclasses import dataclass, replace

import pytest
import torch

from baselines.small_data import BRIGHT, LOOP, noise, small_data, small_sae
from sparsight import Direction, Loop, SparsightError, Window, sample
from sparsight.baselines import Editor, FitData, Method, Unedited, applicable, edit_images, fit, method
from sparsight.baselines.units import Timed, in_units

ON_THE_SITE = (
    "random_direction", "random_latent", "mean_difference", "haas_supervised", "haas_pca", "casl", "casl_random_latent",
    "casl_random_direction", "casl_decoder_atom", "casl_no_sae", "difflens",
)  # fmt: skip


@pytest.mark.parametrize("name", ON_THE_SITE)
def test_strength_1_shifts_the_training_tokens_by_their_own_mean_norm(name):
    data = small_data()
    (steering,) = fit(method(name), BRIGHT, data).interventions(1.0)
    rows = data.store.load("tokens", "t")
    sizes = []
    for tokens, t in zip(rows["tokens"], rows["t"], strict=True):
        moved = steering(tokens[None], type("Step", (), {"t": int(t)}))
        sizes.append((moved - tokens).norm(dim=-1).mean())
    assert float(torch.stack(sizes).mean()) == pytest.approx(float(rows["tokens"].norm(dim=-1).mean()), rel=1e-4)


def test_a_timed_shift_takes_the_nearest_timestep_that_it_knows():
    timed = Timed("mid_block", 2.0, Window(0, 999), rule=lambda x, t: torch.full((64,), float(t)), stamps=(100, 500))
    tokens = torch.zeros(1, 16, 64)
    for t, known in ((0, 100), (299, 100), (301, 500), (900, 500)):
        assert torch.equal(timed(tokens, type("Step", (), {"t": t})), torch.full_like(tokens, 2.0 * known))


def test_a_steering_that_shifts_nothing_has_no_strength():
    with pytest.raises(SparsightError, match="shifts nothing"):
        in_units(Direction("mid_block", 1.0, vector=torch.zeros(64)), small_data())


def test_the_unedited_image_is_the_samplers_whatever_the_strength():
    model = small_data().model
    plain = model.decode(sample(model, noise(), LOOP)).clamp(-1, 1)
    assert torch.equal(edit_images(model, Unedited(), 3.0, noise(), LOOP), plain)


def test_with_eta_the_same_generator_gives_the_samplers_own_image():
    model, loop = small_data().model, Loop(10, eta=1.0)
    dice = [torch.Generator().manual_seed(7) for _ in range(2)]
    plain = model.decode(sample(model, noise(), loop, generator=dice[0])).clamp(-1, 1)
    assert torch.equal(edit_images(model, Unedited(), 0, noise(), loop, generator=dice[1]), plain)


class _Mover(Editor):
    def __init__(self):
        self.seen = []

    def move(self, model, x_t, t, strength, conditioning=None):
        self.seen.append(t)
        return x_t + strength


def test_a_state_is_moved_before_every_step():
    model, editor = small_data().model, _Mover()
    found = edit_images(model, editor, 0.1, noise(), LOOP)
    x = noise()
    for index, (t, t_next) in enumerate(model.pairs(10)):
        x = x + 0.1
        x0, eps = model.predict(x, t, index=index)
        signal, sigma = model.schedule.levels(t_next, x)
        x = signal * x0 + sigma * eps
    torch.testing.assert_close(found, x.clamp(-1, 1))
    assert editor.seen == [t for t, _ in model.pairs(10)]


@dataclass(frozen=True)
class _Greedy(Method):
    name, title, paper = "greedy", "Greedy", "none"

    def fit(self, concept, data):
        return data.sae


def test_a_method_gets_what_it_declared_and_nothing_else():
    with pytest.raises(SparsightError, match="asks for 'sae' without declaring it"):
        fit(_Greedy(), BRIGHT, small_data())
    assert _Greedy().fit(BRIGHT, small_data()) is small_data().sae  # outside of `fit` everything is open


def test_nothing_is_opened_before_it_is_asked_for():
    def broken():
        raise AssertionError("opened")

    data = FitData(small_data().model, sources={"sae": broken, "labels": lambda: None, "store": broken})
    assert applicable(method("mean_difference"), data) is None
    assert "CASL's alignment" in applicable(method("casl"), data)


def test_an_sae_that_is_told_the_timestep_is_refused_by_steerings_that_do_not_tell_it():
    data = small_data()
    timed = small_sae(data.store.load("tokens")["tokens"], t_edges=(700,))
    told = replace(data, sources={**data.sources, "sae": lambda: timed})
    for name, options in (("casl", {}), ("random_latent", {}), ("difflens", {"form": "scale"})):
        assert "told the timestep" in applicable(method(name, **options), told)
    for name in ("difflens", "saeuron"):  # these do
        assert fit(method(name), BRIGHT, told).interventions(1.0)


def test_mistakes_are_named():
    data = small_data()
    with pytest.raises(SparsightError, match="did you mean 'casl'"):
        method("cassl")
    with pytest.raises(SparsightError, match="unknown option of casl 'kk'"):
        method("casl", kk=2)
    with pytest.raises(SparsightError, match="unknown source 'stores'"):
        FitData(data.model, sources={"stores": lambda: 0})
    with pytest.raises(SparsightError, match="no label judges the concept 'bright'"):
        fit(method("mean_difference"), replace(BRIGHT, attribute=None), data)
    with pytest.raises(SparsightError, match="has no timestep from 0 to 10"):
        fit(method("mean_difference"), BRIGHT, replace(data, window=Window(0, 10)))
    with pytest.raises(SparsightError, match="unknown form"):
        method("mean_difference", form="vectors")
    with pytest.raises(SparsightError, match="lacks image 99"):
        replace(data, numbers=(0, 99)).at(900, "tokens")
