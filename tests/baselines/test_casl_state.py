"""CASL on the state: where its latents point to, what its loss asks for, and the push of x_t that comes of both."""

from dataclasses import replace

import pytest
import torch
from sklearn.svm import SVC

from baselines.small_data import BRIGHT, BrightClip, alignment, noise, small_data
from sparsight import Loop, SparsightError
from sparsight.baselines import applicable, edit_images, fit, method
from sparsight.baselines.state_editor import StateEditor
from sparsight.concepts.state_map import StateConfig, learn_state_map, located
from sparsight.pipeline.compare.together import Together


def sizes(tokens, sae, W):
    """The mean norm of the edit at each position, token by token."""
    edits = torch.stack([torch.stack([sae.encode(x[None])[0] @ W for x in image]) for image in tokens])
    return edits.norm(dim=-1).mean(0)


@pytest.mark.parametrize("share", [0.3, 0.8, 1.0])
def test_the_place_is_the_fewest_positions_that_hold_the_share(share):
    data = small_data()
    tokens = data.at(700, "tokens")["tokens"]
    kept = located(tokens, data.sae, alignment(BRIGHT), share)
    rest = sizes(tokens, data.sae, alignment(BRIGHT).W)
    rest = (rest - rest.median()).clamp_min(0)
    assert float(rest[kept].sum() / rest.sum()) >= share - 1e-4
    without_least = rest[kept].sum() - rest[kept].min()
    assert float(without_least / rest.sum()) < share
    assert rest[kept].min() >= rest[~kept].max()


def test_an_edit_that_is_everywhere_the_same_has_no_place():
    data = small_data()
    flat = data.at(700, "tokens")["tokens"][:, :1].expand(-1, 4, -1)
    with pytest.raises(SparsightError, match="'bright' has no place"):
        located(flat, data.sae, alignment(BRIGHT))
    for share in (0.0, 1.1):
        with pytest.raises(SparsightError, match="share of an edit"):
            located(flat, data.sae, alignment(BRIGHT), share)


def loss_of(model, states, t, change):
    """CASL's loss, written out: 3 (1 - cos) + L1, of bright pictures as `BrightClip` sees them."""
    clip = BrightClip()
    with torch.no_grad():
        before, after = (model.decode(model.predict(x, t).x0) for x in (states, states + change))
    source, target = clip.text(["a picture", "a bright picture"])
    cosine = torch.cosine_similarity(clip.image(after) - clip.image(before), (target - source)[None])
    return float(3 * (1 - cosine).mean() + (after - before).abs().mean())


def test_the_map_lowers_casls_loss_and_is_nothing_outside_its_place():
    data, where = small_data(), torch.zeros(8, 8, dtype=torch.bool)
    where[2:6, 1:5] = True
    states = data.at(700, "x_t")["x_t"]
    pair = tuple(data.clip.text(["a picture", "a bright picture"]))
    change = learn_state_map(data.model, states, 700, pair, data.clip, where, StateConfig(updates=30, batch_size=4))
    assert change.shape == (3, 8, 8) and not change[:, ~where].any() and change[:, where].all()
    against = [loss_of(data.model, states, 700, sign * change) for sign in (1, -1)]
    assert against[0] < against[1] - 1  # the other way is darker: the cosine turns its sign
    whole = learn_state_map(data.model, states, 700, pair, data.clip, torch.ones_like(where), StateConfig(updates=30))
    assert loss_of(data.model, states, 700, whole) < 3  # doing nothing scores 3


def test_the_editor_adds_the_map_once_and_denoises():
    data = small_data()
    editor = fit(method("casl_state", t=690, updates=5, hold=False), BRIGHT, data)
    assert editor.t == 700 and not editor.interventions(1.0)
    norm = data.at(700, "x_t")["x_t"].flatten(1).norm(dim=1).mean()
    torch.testing.assert_close(editor.change.norm(), norm)
    found, x = edit_images(data.model, editor, 0.2, noise(), Loop(10, "plain")), noise()
    for t, t_next in data.model.pairs(10):
        x = x + (0.2 * editor.change if t == 700 else 0)
        with torch.no_grad():
            x0, eps = data.model.predict(x, t)
        signal, sigma = data.model.schedule.levels(t_next, x)
        x = signal * x0 + sigma * eps
    torch.testing.assert_close(found, x.clamp(-1, 1))


def test_the_ablation_pushes_everywhere_and_needs_no_latent():
    data = small_data()
    kept, whole = (
        fit(method("casl_state", where=w, by="text", updates=3), BRIGHT, data).change for w in ("latents", "everywhere")
    )
    tokens = data.at(500, "tokens")["tokens"]
    place = located(tokens, data.sae, alignment(BRIGHT), 0.95).reshape(data.model.site("mid_block").grid)
    inside = torch.nn.functional.interpolate(place[None, None].float(), size=(8, 8))[0, 0] > 0
    assert not kept[:, ~inside].any() and kept[:, inside].any() and whole.all()


def test_labels_teach_the_normal_of_the_state_in_that_place():
    data = replace(small_data(), sources={k: v for k, v in small_data().sources.items() if k != "text"})
    editor = fit(method("casl_state", by="labels", t=700), BRIGHT, data)
    rows = data.at(700, "x_t", "tokens")
    inside = editor.change.abs().sum(0) > 0
    x = (rows["x_t"] * inside).flatten(1).double()
    svm = SVC(kernel="linear").fit(x.numpy(), data.labels(BRIGHT).numpy())
    cosine = torch.cosine_similarity(editor.change.flatten().double(), torch.tensor(svm.coef_[0]), dim=0)
    assert 0 < inside.sum() < 64 and float(cosine) == pytest.approx(1, abs=1e-4)


def test_text_and_labels_are_summed_as_directions():
    data = small_data()
    asked, shown, both = (
        fit(method("casl_state", by=by, text=0.3, updates=3), BRIGHT, data).change.flatten()
        for by in ("text", "labels", "both")
    )
    assert asked.norm() == pytest.approx(float(shown.norm()), rel=1e-4)
    sum_ = 0.3 * asked + 0.7 * shown
    torch.testing.assert_close(both, sum_ * both.norm() / sum_.norm(), rtol=1e-3, atol=1e-3)
    assert torch.cosine_similarity(asked, shown, dim=0) < 0.99


def test_what_is_used_is_what_is_asked_for():
    data = small_data()

    def lacks(*names):
        return replace(data, sources={k: v for k, v in data.sources.items() if k not in names})

    assert fit(method("casl_state", by="text", updates=1), BRIGHT, lacks("labels", "images")).place is not None
    everywhere = fit(method("casl_state", where="everywhere", by="labels"), BRIGHT, lacks("sae", "alignments", "text"))
    assert everywhere.place is None
    for missing in ("labels", "text", "sae", "alignments"):
        assert "it needs" in (applicable(method("casl_state"), lacks(missing)) or "")


def held(model, x, push, t_push, place, steps=10):
    """The pushed path, all of it outside of `place` replaced by the unedited one after the push; written out."""
    plain = x
    for t, t_next in model.pairs(steps):
        if t == t_push:
            x = plain + push
        elif t < t_push:
            x = place * x + (1 - place) * plain
        with torch.no_grad():
            (x0, eps), (y0, e) = model.predict(x, t), model.predict(plain, t)
        signal, sigma = model.schedule.levels(t_next, x)
        x, plain = signal * x0 + sigma * eps, signal * y0 + sigma * e
    return x


def test_the_rest_of_the_picture_keeps_to_its_unedited_path():
    data, place = small_data(), torch.zeros(8, 8, dtype=torch.bool)
    place[2:6, 1:5] = True
    change = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1)) * place
    editor, loop = StateEditor(700, change, place=place), Loop(10, "plain")
    found = edit_images(data.model, editor, 0.7, noise(), loop)
    expected = held(data.model, noise(), 0.7 * change, 700, place.float())
    torch.testing.assert_close(found, expected.clamp(-1, 1), atol=1e-5, rtol=0)
    free = edit_images(data.model, StateEditor(700, change), 0.7, noise(), loop)
    assert (found - free).abs().max() > 1e-3
    everywhere = StateEditor(700, change, place=torch.ones_like(place))
    torch.testing.assert_close(edit_images(data.model, everywhere, 0.7, noise(), loop), free)


def test_two_editors_with_places_leave_each_other_free():
    data, loop = small_data(), Loop(10, "plain")
    places = torch.zeros(2, 8, 8, dtype=torch.bool)
    places[0, :3], places[1, 5:] = True, True
    changes = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * places[:, None]
    one, two = (StateEditor(700, c, place=p) for c, p in zip(changes, places, strict=True))
    union = StateEditor(700, changes.sum(0), place=places.any(0))
    found = edit_images(data.model, Together(((one, 1.0), (two, 1.0))), 1.0, noise(), loop)
    expected = edit_images(data.model, union, 1.0, noise(), loop)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (edit_images(data.model, one, 1.0, noise(), loop) - expected).abs().max() > 1e-2
    with_free = Together(((one, 1.0), (StateEditor(700, changes[1]), 1.0)))
    torch.testing.assert_close(
        edit_images(data.model, with_free, 1.0, noise(), loop),
        edit_images(data.model, StateEditor(700, changes.sum(0)), 1.0, noise(), loop),
    )


def test_a_held_picture_needs_a_run_without_fresh_noise_and_its_context():
    data = small_data()
    editor = StateEditor(700, torch.ones(3, 8, 8), place=torch.zeros(8, 8, dtype=torch.bool))
    with pytest.raises(SparsightError, match=r"eta must be 0, not 0\.5"):
        edit_images(data.model, editor, 1.0, noise(), Loop(10, eta=0.5))
    with pytest.raises(SparsightError, match="use edit_images"):
        editor.move(data.model, noise(), 700, 1.0)
    assert torch.equal(editor.move(data.model, noise(), 700, 0.0), noise())


def test_what_cannot_be_is_said():
    data = small_data()
    with pytest.raises(SparsightError, match="place of CASL on the state"):
        method("casl_state", where="nowhere")
    with pytest.raises(SparsightError, match="teacher of CASL on the state"):
        method("casl_state", by="heart")
    with pytest.raises(SparsightError, match=r"text.s weight in CASL on the state is 1\.5"):
        method("casl_state", text=1.5)
    with pytest.raises(SparsightError, match="acts at timestep 500, which a run of 7 steps leaves out"):
        edit_images(data.model, fit(method("casl_state", updates=1), BRIGHT, data), 1.0, noise(), Loop(7))
    lacking = replace(data, sources={k: v for k, v in data.sources.items() if k != "text"})
    with pytest.raises(SparsightError, match="CASL on the state is not applicable: it needs a CLIP"):
        fit(method("casl_state"), BRIGHT, lacking)
