"""A very small comparison on scenes, end to end on the model that ships: prompts, judges, what does not apply, resuming."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sparsight import SparsightError, load_recipe, run_recipe, sample
from sparsight.baselines.editing import Unedited
from sparsight.baselines.retelling import retold
from sparsight.images import read_sheet
from sparsight.metrics import QUADRANTS
from sparsight.pipeline.compare.cells import plan
from sparsight.pipeline.compare.edit import fitted
from sparsight.pipeline.compare.images import Group, edited, load_images
from sparsight.pipeline.emergence.dictionaries import evidence_of, objects_of
from sparsight.pipeline.emergence.run import stream_name
from sparsight.pipeline.emergence.saes import by_stamp
from sparsight.pipeline.emergence.selection import dictionary_of, evidence_at
from sparsight.pipeline.results import results_of
from sparsight.pipeline.run import run_of
from sparsight.terminal_compare import print_comparison
from sparsight.worlds.scenes.judging import ATTRIBUTES
from sparsight.worlds.scenes.world import Scenes

EMERGENCE = [
    "sites=[mid_block.attentions.0:update]", "style.site=mid_block.attentions.0:update",
    "k=[4]", "between=0", "calibrate=false", "sampling.steps=5", "sampling.batch_size=8",
    "prompts.train=8", "prompts.held_out=2", "prompts.dictionary=20", "prompts.validation=1", "prompts.test=1",
    "sae.steps=20", "sae.batch_size=256", "sae.lr_decay=5", "sae.lr_warmup=2", "sae.aux_k=8", "layout.k=4", "style.k=4",
    "dictionary.iou=0.01", "dictionary.threshold=0.0",
]  # fmt: skip
SMALL = [
    "concepts=[night, cat top-left]", "methods=[evidence, prompt_to_prompt, detect_and_replace, swiftedit]",
    "options={detect_and_replace: {to: concept}}", f"emergence.set={json.dumps(EMERGENCE)}",
    "levels=[0.5]", "tolerance=0.5", "test=2", "validation=2", "workers=1",
    "few={methods: [evidence], concepts: [cat top-left], counts: [12], test: 2}",
    "two={methods: [evidence], pairs: [[night, cat top-left]], level: 0.5, test: 2}",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_recipe(load_recipe("compare-scenes", SMALL), tmp_path_factory.mktemp("scenes"), command="a test")


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run.folder / "metrics.json").read_text())


def test_images_are_what_the_model_draws_from_their_prompts_and_noise(run):
    folder = run.folder / "images/seed0/cat_top-left/test"
    facts, images = json.loads((folder / "images.json").read_text()), load_images(run, Group(0, "cat_top-left"), "test")
    assert all("cat" in prompt and prompt.endswith(", cartoon") for prompt in facts["prompts"])
    assert facts["prompts"] == list(images.told.prompts) == [run.subject.prompt("test", n) for n in images.numbers]
    model, told = run.model, model_told(run, facts["prompts"])
    drawn = model.decode(sample(model, images.noise, run.subject.loop, conditioning=told)).clamp(-1, 1)
    torch.testing.assert_close(drawn, images.original, atol=1.01 / 127.5, rtol=0)
    others = model.decode(
        sample(model, images.noise, run.subject.loop, conditioning=model_told(run, ["a dog in a room"] * 2))
    )
    assert (others - drawn).abs().mean() > 0.05


def model_told(run, prompts):
    return run.model.encode_prompts(prompts, guidance=7.5)


def test_images_lack_what_they_are_to_be_given(run):
    judge, images = run.subject.classifiers["annotators"], load_images(run, Group(0, "cat_top-left"), "test")
    found = judge(images.original)
    assert (found[:, ATTRIBUTES.index("cat")] > 0).all() and (found[:, ATTRIBUTES.index("cat_top-left")] <= 0).all()
    for n in images.numbers:
        assert "cat" in [thing.kind for thing in Scenes("test").scene(n).things]


def test_zero_strength_is_the_unedited_image_for_every_cell(run):
    for cell in (c for c in plan(run) if c.kind != "two"):
        images = load_images(run, Group(0, cell.concept), "test").first(1)
        plain = edited(run, Unedited(), 0.0, images.noise, images.told)
        assert torch.equal(edited(run, fitted(run, cell, cell.concept), 0.0, images.noise, images.told), plain)


def test_what_does_not_apply_is_said_method_by_method_and_concept_by_concept(run, metrics):
    assert (
        list(metrics["not_applicable"]) == ["swiftedit"]
        and "authors' weights" in metrics["not_applicable"]["swiftedit"]["why"]
    )
    assert metrics["unfit"] == {
        "prompt_to_prompt": {"cat_top-left": "it edits by words, and no words tell this concept"},
        "detect_and_replace": {"night": "it moves an object to a place, and this concept has none"},
    }
    assert not list(run.folder.glob("cells/main/seed0/cat_top-left/prompt_to_prompt"))
    assert metrics["failed"] == {} and metrics["methods"]["prompt_to_prompt"]["cells"] == {"done": 1, "of": 1}
    page = (run.folder / "report.html").read_text()
    assert "cat top-left: not applicable: it edits by words" in page


def test_plain_prompts_name_no_style_and_are_edited_by_adding_one(run, tmp_path):
    plain = run_of(load_recipe("compare-scenes", [*SMALL, "emergence.plain=true", "concepts=[cartoon, cat top-left]",
                                                  "few={}", "two={}"]), tmp_path / "plain")  # fmt: skip
    plain.check()
    said, named = plain.subject.prompt("test", 3), run.subject.prompt("test", 3)
    assert named == f"{said}, cartoon" and plain.subject.key(0) != run.subject.key(0)
    cartoon, night = (plain.subject.concepts[name] for name in ("cartoon", "night"))
    told = plain.subject.conditioning("test", [3])
    assert retold(plain.model, told, night, 1.0).prompts == (f"{said}, at night",)
    assert torch.equal(retold(plain.model, told, cartoon, 1.0).text, model_told(run, [named]).text)
    assert "cartoon" not in run.subject.concepts


def test_styles_and_layouts_are_ranked_apart(metrics):
    kinds = metrics["kinds"]
    assert {kind: set(own["methods"]) for kind, own in kinds.items()} == {
        "style": {"evidence", "prompt_to_prompt"}, "layout": {"evidence", "detect_and_replace"}
    }  # fmt: skip
    ours, other = (kinds["style"]["methods"][n] for n in ("evidence", "prompt_to_prompt"))
    assert ours["versus_evidence"] is None and other["versus_evidence"]["value"] == pytest.approx(
        ours["auc"]["value"] - other["auc"]["value"]
    )
    assert (
        other["model_calls"]["each"] == 2 * ours["model_calls"]["each"] == 2 * 2 * 5
    )  # two paths, two halves, 5 steps


def test_few_images_are_all_that_latents_are_found_on(run, metrics):
    assert "Latents are found on these images alone" in (run.folder / "report.html").read_text()
    assert list(metrics["few"]["evidence"]) == ["12"]
    emergence, concept = run.subject.runs[0], run.subject.concepts["cat_top-left"]
    stream, few = stream_name(emergence.recipe.layout.site, "early", "cond"), emergence.numbers("dictionary")[:12]
    ((t, tokens),) = by_stamp(emergence.store(stream), few).items()
    sae, labels = emergence.sae(stream, 4), emergence.dictionary(f"{stream}.k4").labels
    alone = evidence_of(
        sae, tokens, t, run.model.site(emergence.recipe.layout.site).grid, labels, objects_of(emergence, few)
    )
    found = run.subject.data(0, "cat_top-left", 12).source("latents")(concept, "evidence", 3)
    assert found == tuple(alone.best("cat", 3))
    layout, site = emergence.recipe.layout, emergence.recipe.layout.site
    assert [dictionary_of(emergence, layout, "early", n).images for n in (0, 12)] == [20, 12]
    every, first = (evidence_at(emergence, site, "early", 4, n).images for n in (0, 12))
    assert (first <= every).all() and first.sum() < every.sum()


def test_two_concepts_are_edited_in_pictures_that_lack_both(run, metrics):
    assert list(metrics["two"]) == ["night+cat_top-left"]
    images = load_images(run, Group(0, "night+cat_top-left"), "test")
    found = run.subject.classifiers["annotators"](images.original)
    assert (found[:, [ATTRIBUTES.index(n) for n in ("night", "cat_top-left")]] <= 0).all()
    assert (found[:, ATTRIBUTES.index("cat")] > 0).all()
    record = metrics["two"]["night+cat_top-left"]["evidence"]
    both = read_sheet(run.folder / "cells/two/seed0/night+cat_top-left/evidence/both.png", 2, (64, 64))
    logits = (
        run.subject.classifiers["annotators"](both)[:, [ATTRIBUTES.index(n) for n in ("night", "cat_top-left")]] > 0
    )
    assert record["both"]["value"] == pytest.approx(float(logits.all(1).float().mean()))


def test_heights_are_shares_of_the_way_to_the_worlds_own_renderings(run):
    rows = [r for r in pq.read_table(run.folder / "results.parquet").to_pylist() if r["concept"] == "night"]
    folder = run.folder / "images/seed0/night/test"
    original = read_sheet(folder / "original.png", 2, (64, 64))
    scenes, numbers = Scenes("test"), []
    while len(numbers) < 32:  # the first renderings at night
        at = numbers[-1] + 1 if numbers else 0
        numbers.append(next(n for n in range(at, at + 200) if scenes.scene(n).style == "night"))
    column = ATTRIBUTES.index("night")
    for name, judge in run.subject.classifiers.items():
        gap = judge(scenes.batch(numbers))[:, column].mean() - judge(original)[:, column].mean()
        edit = read_sheet(run.folder / "cells/main/seed0/night/prompt_to_prompt/level0.png", 2, (64, 64))
        change = (judge(edit) - judge(original))[:, column] / gap
        found = [r["share"] for r in rows if r["judge"] == name and r["method"] == "prompt_to_prompt"]
        np.testing.assert_allclose(found, change.numpy(), rtol=1e-3, atol=1e-4)


def test_the_page_speaks_of_pictures_and_nothing_inverted(run, metrics, capsys):
    page = (run.folder / "report.html").read_text()
    said = re.sub(r"<style.*?</style>|<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"\bfaces?\b|true change|true edit|CASL", said)
    assert "nothing is inverted" in said and metrics["inversion"]["psnr"] is None
    assert said.count("<h4>night</h4>") == said.count("<h4>cat top-left</h4>") == 1
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", page)
    print_comparison(metrics)
    assert "nothing was inverted" in capsys.readouterr().out


def test_results_have_a_table_for_each_kind(run, tmp_path):
    results_of([run.folder], tmp_path / "scenes", "a test")
    tables = (tmp_path / "scenes.tables.md").read_text()
    assert "## Methods, style" in tables and "## Methods, layout" in tables and "no words tell this concept" in tables


def test_a_second_run_does_nothing_again_and_a_lost_cell_is_made_again(run):
    def stamps():
        files = (p for p in run.folder.rglob("*") if p.is_file() and p.name not in ("recipe.yaml", "run.json"))
        return {p: p.stat().st_mtime_ns for p in files}

    before = stamps()
    run_recipe(load_recipe("compare-scenes", SMALL), run.folder)
    assert stamps() == before
    lost = run.folder / "cells/main/seed0/night/evidence/cell.json"
    kept = {p: p.stat().st_mtime_ns for p in run.folder.glob("cells/main/seed0/*/*/cell.json") if p != lost}
    lost.unlink()
    run_recipe(load_recipe("compare-scenes", SMALL), run.folder, until="edit")
    assert lost.exists() and {p: p.stat().st_mtime_ns for p in kept} == kept


def test_a_finished_run_serves_and_is_only_read(run, tmp_path):
    own = run.folder / "seed0"
    before = {p: p.stat().st_mtime_ns for p in own.rglob("*")}
    serving = [*SMALL, f"emergence.runs=[{own}]"]
    other = run_recipe(load_recipe("compare-scenes", serving), tmp_path / "other", until="prepare")
    assert {p: p.stat().st_mtime_ns for p in own.rglob("*")} == before
    assert other.subject.key(0) == run.subject.key(0) and not (tmp_path / "other/seed0").exists()
    data = other.subject.data(0, "cat_top-left")
    assert data.labels("cat").dtype == torch.bool and data.stamps() == [other.subject.first.stamp("early")]
    cats, there = data.labels("cat"), torch.stack([data.labels(f"cat_{q}") for q in QUADRANTS])
    assert torch.equal(there.sum(0).bool(), cats) and there.sum(0).max() <= 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("concepts=[cat top]", "did you mean 'cat_top-left'"),
        ("judge=resnet", "unknown judge 'resnet'"),
        ("world=scene", "unknown world of a comparison 'scene': did you mean 'scenes'"),
        ("emergence.early=x", "unknown recipe key 'emergence.early'"),
        ("emergence.layout=first", "unknown stage 'first'"),
        ("emergence.recipe=avatars", "emergence.recipe must be one of the emergence experiment"),
        ("emergence.runs=[a, b]", "one run for each seed: 2 for 1"),
        ("emergence.runs=[nowhere]", "nowhere is no run folder"),
        ("ours=evidenze", "did you mean 'evidence'"),
    ],
)
def test_a_recipe_that_cannot_be_is_named_and_writes_nothing(tmp_path, wrong, said):
    with pytest.raises(SparsightError, match=re.escape(said)):
        run_recipe(load_recipe("compare-scenes", [*SMALL, wrong]), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_run_of_another_seed_or_unfinished_does_not_serve(run, tmp_path):
    serving = [*SMALL, f"emergence.runs=[{run.folder / 'seed0'}]"]
    with pytest.raises(SparsightError, match="cannot serve: its seed is 0, and the comparison's is 1"):
        run_recipe(load_recipe("compare-scenes", [*serving, "seeds=[1]"]), tmp_path / "new")
    own = run.recipe.precision
    with pytest.raises(SparsightError, match=f"cannot serve: its precision is {own}"):
        other = "fp32" if own == "bf16" else "bf16"
        run_recipe(load_recipe("compare-scenes", [*serving, f"precision={other}"]), tmp_path / "new")
