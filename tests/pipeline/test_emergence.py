"""A very small emergence run on a world that is hardly trained, end to end, and everything that must hold of it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sparsight import Run, SparsightError, load_recipe, run_recipe
from sparsight.concepts import Tally
from sparsight.images import read_sheet
from sparsight.pipeline.casl.run import CaslRun
from sparsight.pipeline.emergence import edits, layout, style
from sparsight.pipeline.emergence.calibrate import calibrated
from sparsight.pipeline.emergence.evaluate import pooled_metrics, require_alike
from sparsight.pipeline.emergence.layout import drawn, editor, move
from sparsight.pipeline.emergence.reading import split_of
from sparsight.pipeline.emergence.run import EmergenceRun
from sparsight.pipeline.emergence.saes import by_stamp
from sparsight.pipeline.emergence.selection import evidence_at, object_latents, style_latents
from sparsight.pipeline.reporter import Silent
from sparsight.steering import spatial_edit, stage_window
from sparsight.worlds.scenes.build import build

SITE = "mid_block.attentions.0:update"
SMALL = [
    "sampling.steps=5", "sampling.batch_size=8", "precision=fp32", "between=3", "k=[4]", f"sites=[{SITE}]",
    "prompts.train=16", "prompts.held_out=8", "prompts.dictionary=16", "prompts.validation=8", "prompts.test=8",
    "sae.steps=20", "sae.batch_size=256", "sae.lr_decay=5", "sae.lr_warmup=2", "sae.aux_k=8",
    "objects=[cat, dog]", "styles=[night]", "layout.k=4", "layout.strengths=[0.5, 1]", "layout.validation=1",
    "layout.test=1", "style.k=4", "style.strengths=[0.5, 1]", "style.validation=2", "style.test=3",
    "dictionary.iou=0.01", "dictionary.threshold=0.0",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"), Silent(), scale=0.0002)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    recipe = load_recipe("demo-scenes", [*SMALL, f"world={world}"])
    return run_recipe(recipe, tmp_path_factory.mktemp("run"), command="a test")


def name_of(stage, half="cond"):
    return f"mid_block.attentions.0-update.{stage}.{half}"


def test_metrics_have_the_documented_core(run):
    metrics = json.loads((run.folder / "metrics.json").read_text())
    for key in ("spatial_success", "global_success", "composition_iou"):
        assert list(metrics[key]) == ["early", "middle", "final"]
        for figure in metrics[key].values():
            assert set(figure) >= {"value", "low", "high", "n"} and 0 <= figure["low"] <= figure["value"] <= 1
    assert all(figure["chance"] == 0.25 and figure["n"] == 8 for figure in metrics["spatial_success"].values())
    assert all("mean_map" in figure for figure in metrics["composition_iou"].values())
    for stage in metrics["layout"]["stages"].values():
        assert set(stage) >= {"concept", "random_latents", "random_directions"}
    assert f"{name_of('all')}.k4.t1" in metrics["composition"] and "attention.early" in metrics["composition"]


def test_the_images_are_those_that_the_prompts_draw_alone(run):
    numbers = run.numbers("test")[:2]
    plain = edits.draw_plain(run, run.prompts.batch(numbers), numbers)
    saved = torch.stack([read_sheet_like(run, n) for n in numbers])
    torch.testing.assert_close(plain.images, saved, atol=1.01 / 127.5, rtol=0)


def read_sheet_like(run, number):
    from sparsight.images import image_path, read_image

    return read_image(image_path(run.folder / "images", number))[0]


def test_the_first_step_is_read_from_noise_alone(run):
    numbers = run.numbers("test")
    (t,) = run.streams()[name_of("early")].stamps(run.model)
    told = run.told(run.prompts.batch(numbers))
    with torch.no_grad():
        tape = run.model.read(run.noise(numbers), t, [SITE], told)
    stored = by_stamp(run.store(name_of("early")), numbers)[t]
    torch.testing.assert_close(stored, tape.half(SITE, "cond").float(), atol=2e-3, rtol=2e-3)  # the store is fp16


def test_composition_equals_a_dense_reading_by_hand(run):
    name = f"{name_of('middle')}.k4"
    split, sae = split_of(run, "test"), run.sae(name_of("middle"), 4)
    dictionary = run.dictionary(name).only((*run.world.kinds, *run.world.backgrounds))
    (tokens,) = by_stamp(run.store(name_of("middle")), split.numbers).values()
    vectors, has = dictionary.embeddings()
    codes = sae.encode(tokens) * has
    seen = torch.nn.functional.normalize(codes @ vectors, dim=-1)
    figure = json.loads((run.folder / "reading.json").read_text())["readings"][name]
    found = []
    for image, noun, mask in zip(split.targets.image.tolist(), split.targets.nouns, split.targets.masks, strict=True):
        word = torch.nn.functional.normalize(run.words.vectors([noun])[0], dim=0)
        score = torch.where((codes[image] > 0).any(1), seen[image] @ word, -1.0).reshape(8, 8)
        guess = (score > figure["threshold"]).repeat_interleave(8, 0).repeat_interleave(8, 1)
        found.append(float((guess & mask).sum() / (guess | mask).sum().clamp_min(1)))
    saved = load_file(run.folder / "reading" / "iou.safetensors")[name]
    torch.testing.assert_close(saved, torch.tensor(found), atol=1e-5, rtol=0)


def test_an_edit_of_no_strength_changes_nothing(run):
    plain = drawn(run, "cat", 50, 2)
    region = torch.ones(8, 8, dtype=torch.bool)
    sae = run.sae(name_of("early"), 4)
    nothing = spatial_edit(sae, [0, 1], region, site=SITE, beta=0.0, window=stage_window("early"))
    images, strength = edits.draw_edited(run, plain, "early", nothing)
    assert torch.equal(images, plain.images) and strength == 0


@pytest.mark.parametrize("normaliser", ["none", "norm", "norm_over_sum", "norm_over_mean"])
def test_a_strength_is_the_mean_push_over_the_mean_token(run, normaliser):
    tokens = edits.tokens_of(run, SITE, "early")
    sae = run.sae(name_of("early"), 4)
    latents = sae.encode_sparse(tokens).indices.unique()[:3].tolist()
    edit = spatial_edit(sae, latents, torch.ones(8, 8, dtype=torch.bool), site=SITE, beta=1.0, normaliser=normaliser,
                        window=stage_window("early"))  # fmt: skip
    shift = edits.at_strength(edit, tokens, 0.7).change(tokens)
    assert float(shift.norm(dim=-1).mean() / tokens.norm(dim=-1).mean()) == pytest.approx(0.7, rel=1e-4)


def test_controls_move_as_far_as_the_edit(run):
    config = run.recipe.layout
    kinds = [k for k in run.world.kinds if editor(run, config, k, "early", 1.0, 1) is not None]
    assert kinds, "the fixture's dictionary stands for nothing"
    facts, images = move(run, config, kinds[0], "early", 1.0, drawn(run, kinds[0], 10, config.test))
    assert set(images) == set(edits.METHODS) and all(len(own) == 4 * config.test for own in images.values())
    edit = editor(run, config, kinds[0], "early", 1.0, config.test)
    tokens = edits.tokens_of(run, SITE, "early", 4)
    sizes = [float(own.change(tokens).norm(dim=-1).mean()) for own in edits.with_controls(edit, tokens, 0).values()]
    assert sizes == pytest.approx([sizes[0]] * 3, rel=1e-3) and facts["latents"]


def test_latents_found_by_evidence_are_those_that_code_the_annotated_positions(run):
    config = replace(run.recipe.layout, by="evidence", most=2)
    found = evidence_at(run, SITE, "early", 4)
    numbers = run.numbers("dictionary")
    ((_, tokens),) = by_stamp(run.store(name_of("early")), numbers).items()
    active = (run.sae(name_of("early"), 4).encode(tokens) > 0).double().mean((0, 1))
    torch.testing.assert_close(found.active / found.positions, active)
    kinds = [kind for kind in run.world.kinds if found.best(kind)]
    assert kinds, "nothing was annotated"
    assert object_latents(run, config, kinds[0], "early") == found.best(kinds[0], 2)
    assert style_latents(run, config, "night", "early") == (found.best("night", 2), "evidence")
    edit = editor(run, config, kinds[0], "early", 1.0, 1)
    assert list(edit.latents) == found.best(kinds[0], 2) and editor(run, config, "unicorn", "early", 1.0, 1) is None


def test_the_weakest_strength_that_is_nearly_the_best_is_chosen():
    trials = [{"strength": s, "success": r} for s, r in ((1, 0.5), (2, 0.97), (4, 1.0), (8, 1.0))]
    assert edits.chosen(trials)["strength"] == 2
    assert edits.chosen([{"strength": 3, "success": 0.0}, {"strength": 1, "success": 0.0}])["strength"] == 1


def test_a_finished_run_does_nothing_again_and_a_change_redoes_what_it_must(run):
    class Log(Silent):
        def __init__(self):
            self.cached = {}

        def finish(self, stage, seconds, cached):
            self.cached[stage] = cached

    again, changed = Log(), Log()
    run_recipe(run.recipe, run.folder, again)
    assert set(again.cached.values()) == {True} and list(again.cached) == list(run.stages())
    before = (run.folder / "layout.json").read_text()
    other = replace(run.recipe, style=replace(run.recipe.style, strengths=(0.5,)))
    run_recipe(other, run.folder, changed)
    assert [stage for stage, cached in changed.cached.items() if not cached] == ["style", "evaluate", "report"]
    assert (run.folder / "layout.json").read_text() == before
    run_recipe(run.recipe, run.folder)


def test_a_killed_stage_of_edits_keeps_the_parts_that_are_done(run, monkeypatch):
    (run.folder / "layout" / "final.json").unlink()
    monkeypatch.setattr(layout, "move", lambda *a: pytest.fail("early again") if a[3] != "final" else move(*a))
    before = (run.folder / "layout" / "final.concept.png").read_bytes()
    layout.layout_stage(run)
    assert (run.folder / "layout" / "final.concept.png").read_bytes() == before


def test_runs_of_several_seeds_are_pooled_image_by_image(run, tmp_path):
    one = json.loads((run.folder / "metrics.json").read_text())
    two = pooled_metrics([run, run])
    assert two["spatial_success"]["early"]["n"] == 2 * one["spatial_success"]["early"]["n"]
    assert two["composition_iou"]["early"]["value"] == pytest.approx(one["composition_iou"]["early"]["value"])
    assert two["composition_iou"]["early"]["n"] == 2 * one["composition_iou"]["early"]["n"]
    other = EmergenceRun(
        tmp_path, replace(run.recipe, seed=1, calibrate=True, layout=replace(run.recipe.layout, share=0.9))
    )
    with pytest.raises(SparsightError, match=r"has no reading.json: run its earlier stages first"):
        pooled_metrics([run, other])
    for name in ("reading.json", "layout.json", "style.json"):
        shutil.copy(run.folder / name, tmp_path / name)
    require_alike([run, other])  # what was done is the same, however it was found
    told = json.loads((run.folder / "layout.json").read_text())
    (tmp_path / "layout.json").write_text(json.dumps({**told, "edit": {**told["edit"], "scope": "both"}}))
    with pytest.raises(SparsightError, match=r"differ in their seed alone, but .* differ in 'layout'"):
        pooled_metrics([run, other])
    with pytest.raises(SparsightError, match="run of the experiment emergence"):
        CaslRun.open_own(run.folder)


def test_every_seed_draws_other_prompts_from_other_noise(run):
    wide = [
        range(base + 1000 * kind, base + 1000 * kind + 100) for base in (layout.TEST, style.TEST) for kind in range(32)
    ]
    found = [
        number
        for seed in (0, 1, 2)
        for own in wide
        for number in edits.numbers_from(EmergenceRun(run.folder, replace(run.recipe, seed=seed)), own.start, len(own))
    ]
    assert len(set(found)) == len(found) and found[:100] == list(wide[0])


def test_calibration_keeps_every_trial_and_takes_the_best(run, tmp_path):
    class Fake:
        recipe = replace(run.recipe, calibrate=True, k=(4, 5))
        folder, report, steps_at = tmp_path, Silent(), run.steps_at

    calls = []

    def attempt(config, strength, stage):
        calls.append((stage, config.by, config.share, config.most, config.normaliser, config.scope, config.k, strength))
        right = {"by": "evidence", "most": 3, "normaliser": "none", "scope": "both", "k": 5}
        good = sum(getattr(config, key) == value for key, value in right.items())
        return {"strength": strength, "success": 0.2 * good, "n": 4}

    (tmp_path / "layout").mkdir()
    best = calibrated(Fake(), "layout", run.recipe.layout, "early", attempt)
    assert (best.by, best.most, best.normaliser, best.scope, best.k) == ("evidence", 3, "none", "both", 5)
    assert len(calls) == len(set(calls)) == 11 * (2 + 2)  # what a choice starts from was tried before it
    assert calibrated(Fake(), "layout", run.recipe.layout, "early", attempt) == best and len(calls) == 44
    assert calibrated(run, "layout", run.recipe.layout, "early", attempt) == run.recipe.layout and len(calls) == 44


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("objects=[cat, unicorn]", "unicorn"),
        ("styles=[oil]", "pencil"),
        ("sampling.steps=3", "too few"),
        ("layout.site=up_blocks.1.attentions.0:update", "site of the edits"),
        ("layout.k=11", "k must be one of"),
        ("layout.normaliser=mean", "norm_over_mean"),
        ("layout.by=hand", "evidence"),
        ("world=avatars", "use scenes"),
        ("prompts.test=0", "one prompt at least"),
        ("experiment=casl2", "emergence"),
    ],
)
def test_a_recipe_that_cannot_be_run_leaves_no_trace(world, tmp_path, override, says):
    with pytest.raises(SparsightError, match=says):
        run_recipe(load_recipe("demo-scenes", [*SMALL, f"world={world}", override]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_opens_as_what_it_is(run):
    assert type(Run.open(run.folder)) is type(run)
    images = read_sheet(run.folder / "layout" / "early.concept.png", 8, (64, 64))
    assert images.shape == (8, 3, 64, 64)


def test_a_tally_without_targets_is_refused():
    with pytest.raises(SparsightError, match="no target"):
        Tally().best()
