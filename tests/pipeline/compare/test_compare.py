"""A very small comparison end to end, and what must hold when it is stopped, fails, or is asked for what cannot be."""

import json
import re

import pyarrow.parquet as pq
import pytest
import torch

from sparsight import Run, SparsightError, load_recipe, run_recipe
from sparsight.baselines import METHODS
from sparsight.images import read_sheet
from sparsight.metrics import editing_precision
from sparsight.pipeline.compare import edit, stages
from sparsight.pipeline.compare.cells import Cell, cell_key, plan, record
from sparsight.pipeline.compare.images import Group, invert_group
from sparsight.pipeline.results import results_of
from sparsight.pipeline.run import run_of
from sparsight.report import write_report

CASL = ["data.train=16", "data.held_out=40", "harvest.steps=6", "harvest.batch_size=8", "sae.steps=30", "sae.expansion=4",
        "sae.batch_size=256", "sae.lr_decay=10", "sae.revive_every=0", "align.updates=6", "align.batch_size=4",
        "steer.steps=6"]  # fmt: skip
SMALL = [
    "concepts=[Eyeglasses, Beard]", "methods=[casl, mean_difference, text_slider]",
    "variants={map: {method: mean_difference, form: map}}",
    f"casl.set={json.dumps(CASL)}", "levels=[0.2, 0.4]", "tolerance=0.5", "test=4", "validation=2",
    "few={methods: [map], concepts: [Beard], counts: [8], test: 2}",
    "two={methods: [mean_difference], pairs: [[Eyeglasses, Beard]], level: 0.4, test: 2}",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_recipe(load_recipe("demo-compare", SMALL), tmp_path_factory.mktemp("compare"), command="a test")


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run.folder / "metrics.json").read_text())


def test_every_method_has_its_figures_and_its_costs(run, metrics):
    acting = sum(500 <= t <= 999 for t, _ in run.model.pairs(6))  # an asymmetric step asks twice where an edit acts
    assert set(metrics["methods"]) == {"casl", "mean_difference"}
    for one in metrics["methods"].values():
        assert {"value", "low", "high", "n"} == set(one["auc"]) and one["auc"]["n"] == 8
        assert set(one["classifiers"]) == {"resnet", "mobilenetv2", "vgg", "vit"}
        assert one["model_calls"]["each"] == 6 + acting and one["cells"] == {"done": 2, "of": 2}
    assert metrics["methods"]["casl"]["versus_casl"] is None
    assert metrics["methods"]["mean_difference"]["versus_casl"]["value"] == pytest.approx(
        metrics["methods"]["casl"]["auc"]["value"] - metrics["methods"]["mean_difference"]["auc"]["value"]
    )


def test_what_a_method_cannot_do_is_said(metrics, run):
    why = metrics["not_applicable"]["text_slider"]["why"]
    assert why.startswith("it needs") and "text-to-image" in why
    assert not list(run.folder.glob("cells/*/*/*/text_slider*"))
    assert "not applicable: it needs" in (run.folder / "report.html").read_text()


def test_figures_are_those_of_the_saved_images(run, metrics):
    folder = run.folder / "cells/main/seed0/Eyeglasses/casl"
    place = json.loads((folder / "cell.json").read_text())["chosen"]
    original = read_sheet(run.folder / "images/seed0/Eyeglasses/test/original.png", 4, (64, 64))
    edited = read_sheet(folder / f"level{place}.png", 4, (64, 64))
    judge = run.world.classifiers["resnet"]
    with torch.no_grad():
        report = editing_precision(judge(original), judge(edited), "Eyeglasses", ["Sunglasses"], run.world.attributes)
    found = metrics["concepts"]["Eyeglasses"]["methods"]["casl"]
    assert found["epr"]["value"] == pytest.approx(report.epr.value, rel=1e-4)
    assert found["true_epr"]["value"] == pytest.approx(report.true_epr.value, rel=1e-6)


def test_the_true_edit_is_measured_as_methods_are(run, metrics):
    truth, judged = metrics["truth"], json.loads((run.folder / "images/seed0/Beard/test/images.json").read_text())
    assert truth["auc"]["n"] == 8 and truth["auc_damage"]["value"] > 0
    own = metrics["concepts"]["Beard"]["truth"]["curve"]
    assert own["share"][-1]["value"] == pytest.approx(1, abs=0.15)  # the whole of it, but for the autoencoder
    assert own["distance"][-1]["value"] == pytest.approx(judged["truth_distance"], rel=0.1)
    shares = [one["value"] for one in own["share"]]
    assert shares == sorted(shares) and shares[0] < 0.5
    assert "the true edit, faded in" in (run.folder / "report.html").read_text()


def test_the_parquet_file_has_a_row_for_every_image_judge_and_strength(run):
    table = pq.read_table(run.folder / "results.parquet")
    cells = [json.loads(p.read_text()) for p in run.folder.glob("cells/**/cell.json")]
    sheets = sum(c["count"] * (3 if c["kind"] == "two" else len(c["matches"])) for c in cells)
    assert table.num_rows == 4 * sheets
    row = table.slice(0, 1).to_pylist()[0]
    assert {"seed", "concept", "method", "strength", "image", "judge", "share", "damage", "distance", "gain"} <= set(
        row
    )


def test_few_images_and_two_concepts_are_there(metrics):
    assert list(metrics["few"]["map"]) == ["8"]
    both = metrics["two"]["Eyeglasses+Beard"]["mean_difference"]
    assert both["both"]["value"] <= min(both["first"]["value"], both["second"]["value"])
    assert len(metrics["entanglement"]["methods"]["casl"]["Beard"]) == 22


def test_the_page_holds_everything_and_loads_nothing(run):
    page = (run.folder / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", page)
    for text in ("The ranking", "Change against damage", "What moves with what", "model calls"):
        assert text in page


def test_a_page_without_casl_and_without_extras_is_a_page(run, metrics, tmp_path):
    methods = {"mean_difference": metrics["methods"]["mean_difference"]}
    left = {**metrics, "methods": methods, "few": {}, "two": {}, "failed": {"a cell": "<b>why</b>"}, "stability": {}}
    (tmp_path / "metrics.json").write_text(json.dumps(left))
    page = write_report(tmp_path).read_text()
    assert "1 way to edit" in page and "&lt;b&gt;why" in page and "With few images" not in page


def test_a_second_run_does_nothing_again(run):
    stamps = {
        p: p.stat().st_mtime_ns
        for p in run.folder.rglob("*")
        if p.is_file() and p.name not in ("recipe.yaml", "run.json")
    }
    run_recipe(load_recipe("demo-compare", SMALL), run.folder)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_a_default_that_is_spelled_out_is_no_other_cell_and_another_option_is(run):
    cell, keys = Cell("main", 0, "Beard", "mean_difference"), []
    for options in ({}, {"form": "vector"}, {"form": "map"}):
        asked = load_recipe("demo-compare", [*SMALL, f"options={json.dumps({'mean_difference': options})}"])
        keys.append(cell_key(run_of(asked, run.folder), cell))
    assert keys[0] == keys[1] == record(run, cell)["key"] and keys[2] != keys[0]


def test_results_have_the_documented_form(run, tmp_path):
    results_of([run.folder], tmp_path / "comparison", "a test")
    found = json.loads((tmp_path / "comparison.json").read_text())["methods"]["casl"]
    assert {"auc", "epr", "true_epr", "model_calls"} <= set(found)
    assert "text_slider" in (tmp_path / "comparison.tables.md").read_text()
    whole = json.loads((tmp_path / "comparison.json").read_text())
    beard, text = whole["concepts"]["Beard"], (tmp_path / "comparison.tables.md").read_text()
    assert set(beard["methods"]["casl"]) == {"auc", "epr", "true_epr"} and "curve" not in beard["truth"]
    for said in ("## AUC, concept by concept", "## EPR, concept by concept", "The true edit, faded in: AUC"):
        assert said in text
    few, two = whole["few"]["map"]["8"], whole["two"]["Eyeglasses+Beard"]["mean_difference"]
    assert f"| map | {few['value']:.2f} [" in text.split("## AUC with few images")[1]
    row = text.split("## Two concepts at once: Eyeglasses and Beard")[1].split("| mean_difference | ")[1]
    assert row.startswith(f"{two['first_alone']['value']:.2f} [")


def test_a_failed_cell_is_recorded_and_tried_again_and_only_it(run, monkeypatch):
    more = [*SMALL, "methods=[casl, mean_difference, random_direction]"]
    kept = {p: p.stat().st_mtime_ns for p in run.folder.glob("cells/main/seed0/*/casl/cell.json")}
    own = edit.fit

    def broken(method, concept, data):
        if method.name == "random_direction" and concept.name == "Beard":
            raise ZeroDivisionError("as asked")
        return own(method, concept, data)

    monkeypatch.setattr(edit, "fit", broken)
    run_recipe(load_recipe("demo-compare", more), run.folder)
    found = json.loads((run.folder / "metrics.json").read_text())
    assert found["failed"] == {"random_direction on Beard, seed 0": "ZeroDivisionError: as asked"}
    assert found["methods"]["random_direction"]["cells"] == {"done": 1, "of": 2}
    assert "ZeroDivisionError: as asked" in (run.folder / "report.html").read_text()
    done = run.folder / "cells/main/seed0/Eyeglasses/random_direction/cell.json"
    stamp = done.stat().st_mtime_ns
    monkeypatch.setattr(edit, "fit", own)
    run_recipe(load_recipe("demo-compare", more), run.folder)
    found = json.loads((run.folder / "metrics.json").read_text())
    assert found["failed"] == {} and found["methods"]["random_direction"]["cells"] == {"done": 2, "of": 2}
    assert done.stat().st_mtime_ns == stamp and {p: p.stat().st_mtime_ns for p in kept} == kept


def test_a_stopped_run_goes_on_without_doing_cells_again(run, monkeypatch):
    more = load_recipe("demo-compare", [*SMALL, "methods=[casl, mean_difference, random_direction, map]"])
    own, seen = stages.edit_cell, []

    def stopping(asked, cell):
        seen.append(cell)
        if len(seen) == 2:
            raise KeyboardInterrupt
        own(asked, cell)

    monkeypatch.setattr(stages, "edit_cell", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(more, run.folder)
    first, second = seen
    assert record(run_of(more, run.folder), first) is not None and not (run.folder / second.path / "cell.json").exists()
    monkeypatch.setattr(stages, "edit_cell", lambda asked, cell: (seen.append(cell), own(asked, cell)))
    run_recipe(more, run.folder, until="edit")
    opened = Run.open(run.folder)
    assert seen[2:] == [second] and all(record(opened, c) for c in plan(opened))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("methods=[cassl]", "unknown method 'cassl': did you mean 'casl'"),
        ("concepts=[Smilling]", "did you mean 'Smiling'"),
        ("options={casl: {kk: 2}}", "unknown option of casl 'kk'"),
        ("levels=[0.4, 0.2]", "levels must rise"),
        ("judge=alexnet", "unknown judge 'alexnet'"),
        ("two.level=0.3", "none of the levels"),
        ("seed=1", "write seeds=[1]"),
        ("seeds=[0, 0]", "seeds must be different numbers"),
        ("seeds=[100]", "from 0 to 99"),
        ("few.counts=[10, 5000]", "5000 images, but the store has 56"),
        ("casl.recipe=scenes", "casl.recipe must be one of CASL"),
        ("few.concepts=[Bald]", "unknown concept of few-shot"),
        ("variants={map: {form: map}}", "which method it is of"),
    ],
)
def test_a_recipe_that_cannot_be_is_named_and_writes_nothing(tmp_path, wrong, said):
    with pytest.raises(SparsightError, match=re.escape(said)):
        run_recipe(load_recipe("demo-compare", [*SMALL, wrong]), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_methods_can_be_chosen_on_validation_faces_that_no_search_has_seen(tmp_path, run):
    choosing = run_of(load_recipe("demo-compare", [*SMALL, "curves_on=validation", "seeds=[0, 1]"]), tmp_path)
    choosing.subject.first.world, choosing.subject.first.model = run.subject.first.world, run.subject.first.model
    seen = []
    for seed in (0, 1):
        invert_group(choosing, Group(seed, "Beard"))
        for use in ("validation", "test"):
            facts = json.loads((tmp_path / f"images/seed{seed}/Beard/{use}/images.json").read_text())
            seen += facts["numbers"]
    assert len(set(seen)) == len(seen) == 12
    assert set(seen) == set(run.subject.eligible("validation", ["Beard"], 12))


def test_a_seed_has_the_same_faces_and_cells_whichever_seeds_are_run_beside_it(tmp_path, run):
    def of(seeds):
        found = run_of(load_recipe("demo-compare", [*SMALL, f"seeds={seeds}"]), tmp_path / seeds)
        found.subject.first.world, found.subject.first.model = run.subject.first.world, run.subject.first.model
        invert_group(found, Group(1, "Beard"))
        facts = json.loads((found.folder / "images/seed1/Beard/test/images.json").read_text())
        return facts["numbers"], cell_key(found, Cell("main", 1, "Beard", "casl"))

    alone, beside = of("[1]"), of("[0, 1]")
    assert alone == beside
    test = run.recipe.test
    assert alone[0] == run.subject.eligible("test", ["Beard"], 2 * test)[test:]


def test_no_name_asks_every_method():
    assert set(load_recipe("demo-compare", ["methods=[]", "variants={}", "few={}", "two={}"]).entries()) >= set(METHODS)
