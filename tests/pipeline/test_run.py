"""One very small run of the shipped world, end to end, and everything that must hold of it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sparsight import Alignment, Run, SparsightError, casl_steer, load_recipe, run_recipe
from sparsight.images import read_sheet
from sparsight.metrics import editing_precision
from sparsight.pipeline.casl.editing import edited, faces, window
from sparsight.pipeline.casl.openers import open_sae
from sparsight.pipeline.casl.own import steer_image

SMALL = [
    "concepts=[Eyeglasses]", "data.train=16", "data.held_out=40", "harvest.steps=6", "harvest.batch_size=8",
    "sae.steps=30", "sae.expansion=4", "sae.batch_size=256", "sae.lr_decay=10", "sae.revive_every=0",
    "align.updates=6", "align.batch_size=4", "steer.steps=6", "steer.test=4", "steer.validation=2",
    "steer.alphas=[64]", "steer.candidates=3", "steer.screen=2", "steer.refit=2",
    "steer.sweep_k=[1, 2]", "steer.sweep_alphas=[16, 64]",
    "steer.sweep_images=2",
]  # fmt: skip


class Log:
    def __init__(self):
        self.done = {}

    def start(self, stage):
        pass

    def update(self, done, total, text=""):
        assert 0 <= done <= total

    def finish(self, stage, seconds, cached):
        self.done[stage] = cached


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return run_recipe(load_recipe("demo", SMALL), folder, command="a test")


def test_metrics_have_the_documented_core(run):
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert set(metrics["sae"]) >= {"expansion", "mse", "cosine", "fve", "l0", "dar", "dead"}
    concept = metrics["concepts"]["Eyeglasses"]
    assert concept["alpha"] == 64 and concept["exclude"] == ["Sunglasses"]
    wanted = {"casl", "random_latent", "random_direction", "decoder_atom", "mean_difference", "no_sae"}
    assert set(concept["methods"]) >= wanted
    for method in concept["methods"].values():
        assert set(method["epr"]) == {"value", "low", "high", "n"} and method["epr"]["n"] == 4
        assert {"true_epr", "flip_rate", "signed_change", "lpips", "identity", "clip"} <= set(method)
        assert set(method["classifiers"]) == {"resnet", "mobilenetv2", "vgg", "vit"}
    assert {"top1", "top2", "top4", "top8", "top16", "shuffled"} == set(concept["probe"])
    assert len(concept["sweep"]["epr"]) == 2


def test_what_is_steered_did_best_on_validation_faces(run):
    folder = run.folder / "concepts" / "Eyeglasses"
    steer, alignment = json.loads((folder / "steer.json").read_text()), Alignment.load(folder / "alignment")
    together, alone = steer["trials"][:4], steer["trials"][4:]
    assert [one["refitted"] for one in steer["trials"]] == [False, True, True, True, False, False, False]
    assert sorted(one["latents"][0] for one in alone) == sorted(alignment.top(3))
    merits = [(one["met"], one["epr"] if one["met"] else one["flipped"]) for one in alone]
    assert merits == sorted(merits, reverse=True)
    best = max(together, key=lambda one: (one["met"], one["epr"] if one["met"] else one["flipped"], one["epr"]))
    assert steer["latents"] == best["latents"] == steer["order"][:1]
    assert _validation_epr(run, alignment, best) == pytest.approx(best["epr"], rel=1e-4)


def _validation_epr(run, alignment, trial):
    columns = load_file(run.folder / "concepts" / "Eyeglasses" / "steer.safetensors")["directions"]
    casl = casl_steer(open_sae(run), alignment, latents=trial["latents"], alpha=trial["alpha"], window=window(run))
    validation = faces(run, run.world.concepts["Eyeglasses"], "validation", 2)
    judge, column = run.world.classifiers["resnet"], run.world.attributes.index("Eyeglasses")
    with torch.no_grad():
        after = judge(edited(run, replace(casl, directions=columns), validation.noise))
        before = judge(validation.original)
    return editing_precision(before, after, column, exclude=["Sunglasses"], names=run.world.attributes).epr.value


def test_the_papers_own_choice_stands_beside_as_a_variant(run):
    concept = json.loads((run.folder / "metrics.json").read_text())["concepts"]["Eyeglasses"]
    assert set(concept["variants"]) == {"casl_by_norm"} and "casl_by_norm" not in concept["methods"]
    assert concept["variants"]["casl_by_norm"]["epr"]["n"] == 4


def test_every_figure_is_recomputed_from_the_saved_images(run):
    from sparsight.pipeline.casl.evaluate import evaluate_stage

    before = (run.folder / "metrics.json").read_text()
    (run.folder / "metrics.json").unlink()
    evaluate_stage(Run.open(run.folder))
    assert (run.folder / "metrics.json").read_text() == before


def test_equal_norm_controls_are_equally_strong(run):
    record = json.loads((run.folder / "concepts/Eyeglasses/steer.json").read_text())["methods"]
    assert record["random_direction"]["strength"] == pytest.approx(record["casl"]["strength"], rel=1e-3)
    assert record["random_latent"]["strength"] == pytest.approx(record["casl"]["strength"], rel=1e-3)


def test_the_unedited_sheet_shows_the_test_faces(run):
    steer = json.loads((run.folder / "concepts/Eyeglasses/steer.json").read_text())
    faces = run.world.source("test").batch(steer["numbers"])
    shown = read_sheet(run.folder / "concepts/Eyeglasses/images/original.png", 4, (64, 64))
    labels = run.world.source("test").labels(steer["numbers"])[:, run.world.attributes.index("Eyeglasses")]
    assert not labels.any()  # a face that has the concept already cannot be edited toward it
    assert (faces - shown).abs().mean() < (faces - faces.flip(0)).abs().mean()


def test_a_second_run_does_nothing_again_and_a_changed_key_redoes_only_what_follows(run):
    log = Log()
    run_recipe(load_recipe("demo", SMALL), run.folder, log)
    assert all(log.done.values())
    log = Log()
    run_recipe(load_recipe("demo", [*SMALL, "steer.k=2"]), run.folder, log, until="align")
    assert log.done == {"harvest": True, "train": True, "align": True}


def test_a_users_own_picture(run, tmp_path):
    from PIL import Image

    from sparsight.images import to_pixels

    picture = run.world.source("test").batch([5])
    Image.fromarray(to_pixels(picture)[0]).save(tmp_path / "me.png")
    before, same = steer_image(run, tmp_path / "me.png", ["eyeglasses"], [0.0])
    assert torch.equal(before, same)  # zero strength is exactly the reconstruction
    _, after = steer_image(run, tmp_path / "me.png", ["eyeglasses"], [64.0])
    assert not torch.equal(before, after)
    Image.new("RGB", (20, 30)).save(tmp_path / "small.png")
    with pytest.raises(SparsightError, match="20x30 pixels, but 64x64"):
        steer_image(run, tmp_path / "small.png", ["eyeglasses"])
    with pytest.raises(SparsightError, match="unknown concept 'beard'"):
        steer_image(run, tmp_path / "me.png", ["beard"])
    with pytest.raises(SparsightError, match="2 alphas are given for 1"):
        steer_image(run, tmp_path / "me.png", ["eyeglasses"], [1.0, 2.0])


def test_an_unknown_concept_writes_nothing(tmp_path):
    with pytest.raises(SparsightError, match="did you mean 'Smiling'"):
        run_recipe(load_recipe("demo", ["concepts=[Smilling]"]), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(SparsightError, match="no run folder"):
        Run.open(tmp_path)


def test_kill_minus_nine_loses_nothing_that_was_finished(tmp_path):
    """Kill a run in its harvest; the next one keeps the whole shards and ends like an undisturbed one."""
    options = [argument for override in SMALL for argument in ("-s", override)]
    command = [sys.executable, "-m", "sparsight.cli", "run", "demo", "-o", str(tmp_path), "--until", "train", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("store/shard-*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("store/shard-*.safetensors")}
    assert kept
    run_recipe(load_recipe("demo", SMALL), tmp_path, until="train")
    assert all((tmp_path / "store" / name).stat().st_mtime_ns == stamp for name, stamp in kept.items())
    assert json.loads((tmp_path / "sae/metrics.json").read_text())["n_tokens"] > 0


def test_pooled_seeds_have_twice_the_images_and_the_same_values(run, tmp_path):
    from sparsight.pipeline.casl.results import write_results

    alone = json.loads((run.folder / "metrics.json").read_text())["concepts"]["Eyeglasses"]["methods"]["casl"]
    pooled = write_results([Run.open(run.folder), Run.open(run.folder)], tmp_path / "table", "a test")
    casl = pooled["concepts"]["Eyeglasses"]["methods"]["casl"]
    assert casl["epr"]["n"] == 2 * alone["epr"]["n"]
    assert casl["epr"]["value"] == pytest.approx(alone["epr"]["value"])
    assert f"{casl['epr']['value']:.2f}" in (tmp_path / "table.tables.md").read_text()
    assert json.loads((tmp_path / "table.json").read_text())["command"] == "a test"


def test_runs_of_different_recipes_are_not_pooled(run, tmp_path):
    from sparsight.pipeline.casl.evaluate import pooled_metrics

    other = Run(tmp_path, load_recipe("demo", [*SMALL, "sae.lr=0.5"]))
    with pytest.raises(SparsightError, match="differ in 'sae'"):
        pooled_metrics([Run.open(run.folder), other])


def test_saes_stand_side_by_side(run, tmp_path):
    from sparsight.pipeline.casl.results import write_saes

    write_saes([Run.open(run.folder)] * 2, tmp_path / "saes", "a test")
    found = json.loads((tmp_path / "saes.json").read_text())["runs"]
    assert [one["sae"] for one in found] == [json.loads((run.folder / "sae" / "metrics.json").read_text())] * 2
    assert f"| {30 * 256:,} |" in (tmp_path / "saes.tables.md").read_text()


def test_a_run_without_an_sae_is_named(run, tmp_path):
    from sparsight.pipeline.casl.results import write_saes

    (tmp_path / "recipe.yaml").write_text((run.folder / "recipe.yaml").read_text())
    with pytest.raises(SparsightError, match="holds no trained SAE"):
        write_saes([Run.open(tmp_path)], tmp_path / "saes", "a test")
    assert not (tmp_path / "saes.json").exists()
