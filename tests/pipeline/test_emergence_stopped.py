"""An emergence run that stops while it annotates: what is missing is said, and what was done is kept."""

import json
from types import SimpleNamespace

import pytest

from concepts.planted import rectangle
from sparsight import SparsightError
from sparsight.concepts import Annotation, Annotations
from sparsight.pipeline.emergence.dictionaries import annotate_stage
from sparsight.pipeline.emergence.stages import harvest_stage
from sparsight.prompts import Prompts
from sparsight.worlds.scenes.domain import ScenesDomain
from tiny_emergence import opened, tiny_recipe_in
from tiny_text import tiny_text_model

COUNTS = {"train": 2, "held_out": 1, "dictionary": 65, "validation": 5, "test": 10}


class Fake:
    """Sees a cat in every image; told to, it is stopped after so many."""

    name, stop, seen = "fake", None, 0

    def annotate(self, images, captions=None, numbers=None):
        if Fake.stop is not None and Fake.seen >= Fake.stop:
            raise KeyboardInterrupt
        Fake.seen += len(images)
        return [[Annotation.of("cat", rectangle((16, 16), 0, 0, 8, 8))] for _ in images]


@pytest.fixture(scope="module")
def model():
    return tiny_text_model()


@pytest.fixture
def run(tmp_path, model):
    tiny_recipe_in(tmp_path, prompts=COUNTS, sampling={"steps": 5, "guidance": 2.0, "batch_size": 24})
    run = opened(tmp_path, model)
    run.prompts = Prompts(["a cat", "a dog", "dog"] * 28)
    run.do("harvest", harvest_stage)
    return run


def kept(run):
    return {path: path.stat().st_mtime_ns for name in ("stores", "images") for path in (run.folder / name).rglob("*.*")}


def test_a_missing_annotator_is_one_sentence_and_the_harvest_is_kept(run, tmp_path):
    before = kept(run)
    run.world = ScenesDomain(tmp_path / "nowhere")
    with pytest.raises(
        SparsightError, match=r"the world .scenes. has no trained segmenter in .*world build scenes"
    ) as caught:
        run.do("annotate", annotate_stage)
    assert "\n" not in str(caught.value) and kept(run) == before and list(run.state["stages"]) == ["harvest"]
    run.do("harvest", lambda _: pytest.fail("the harvest was done again"))


def test_an_interrupted_annotation_goes_on_where_it_stopped(run, monkeypatch):
    monkeypatch.setattr(Fake, "stop", 64)
    monkeypatch.setattr(Fake, "seen", 0)
    before, run.world = kept(run), SimpleNamespace(annotator=Fake())
    with pytest.raises(KeyboardInterrupt):
        run.do("annotate", annotate_stage)
    folder = run.folder / "annotations"
    whole = {path.name: path.read_bytes() for path in folder.glob("unit-*")}
    assert whole and list(run.state["stages"]) == ["harvest"]
    monkeypatch.setattr(Fake, "stop", None)
    run.do("annotate", annotate_stage)
    assert Fake.seen == 80  # none twice
    assert all((folder / name).read_bytes() == content for name, content in whole.items())
    assert [number for number, _ in Annotations(folder)] == list(range(3, 83)) and kept(run) == before
    assert list(json.loads((run.folder / "run.json").read_text())["stages"]) == ["harvest", "annotate"]
