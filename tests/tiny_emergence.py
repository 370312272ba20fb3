"""A finished emergence run of the tiny text model, its dictionaries planted: what a user edits his prompts with."""

from dataclasses import asdict

import torch
import yaml

from concepts.planted import code_of, rectangle
from concepts.test_words import Table
from sparsight.activations import harvest_streams
from sparsight.concepts import Annotation, DictionaryBuilder, DictionaryConfig
from sparsight.files import write_json
from sparsight.pipeline.emergence.run import EmergenceRun, stream_name
from sparsight.prompts import Prompts
from sparsight.sae import SAE, SAEConfig
from tiny_text import tiny_text_model

SITE = "mid_block.attentions.0:update"
GRID, CHANNELS, LATENTS, K, STEPS = (4, 4), 64, 40, 4, 10
CHOSEN = {"layout": {"early": 2.0, "middle": 1.0, "final": 0.5}, "style": {"early": 0.7, "middle": 0.6, "final": 0.5}}
PLACE = {"early": 0, "middle": 1, "final": 2}  # by which the latents of a word differ from stage to stage
CAT, DOG, PENCIL = (3, 7), (11,), 20
WORDS = Table({"cat": [1.0, 0.0], "dog": [0.0, 1.0], "pencil": [-1.0, 0.0]})


def tiny_recipe(**changes):
    edit = {"site": SITE, "k": K, "normaliser": "norm", "scope": "cond"}
    return {
        "experiment": "emergence", "name": "tiny", "world": "scenes", "sites": [SITE], "k": [K], "between": 0,
        "prompts": {"train": 4, "held_out": 1, "dictionary": 1, "validation": 1, "test": 1},
        "sampling": {"steps": STEPS, "guidance": 3.0, "batch_size": 4},
        "layout": edit, "style": edit, **changes,
    }  # fmt: skip


def tiny_recipe_in(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tiny_recipe(**changes)))


def tiny_emergence(folder, model=None, **changes):
    """A run in `folder`, done as far as its edits; `changes` are of its recipe."""
    model = model or tiny_text_model()
    tiny_recipe_in(folder, **changes)
    run = opened(folder, model)
    streams = {name: stream for name, stream in run.streams().items() if name.endswith(".cond")}
    prompts = Prompts(["a cat", "a dog", "a cat on a dog", "dog"])
    harvest_streams(model, prompts, {folder / "stores" / name: one for name, one in streams.items()}, numbers=range(4))
    for stage in run.steps_at:
        name = stream_name(SITE, stage, "cond")
        facts = {"site": SITE, "timesteps": [run.stamp(stage)], "conditioning": "cond"}
        made = {**facts, "model": model.name, "model_hash": model.fingerprint()}
        sae = SAE(SAEConfig(CHANNELS, LATENTS, activation="topk", k=K), seed=PLACE[stage])
        sae.save_pretrained(folder / "saes" / f"{name}.k{K}", made)
        planted(stage, facts).save(folder / "dictionaries" / f"{name}.k{K}")
    for kind, strengths in CHOSEN.items():
        stages = {stage: {"strength": strength} for stage, strength in strengths.items()}
        write_json(folder / f"{kind}.json", {"stages": stages, "edit": asdict(getattr(run.recipe, kind))})
    done = {kind: run.key(kind) for kind in CHOSEN}
    write_json(folder / "run.json", {"stages": done, "seconds": {}, "versions": {}})
    return opened(folder, model)


def opened(folder, model):
    run = EmergenceRun.open_own(folder)
    run.model = model
    return run


def planted(stage, facts):
    """A dictionary that knows a cat on the left, a dog on the right, and a pencil drawing everywhere."""
    maps, size = torch.zeros(2, LATENTS, *GRID), (16, 16)
    objects = {
        "cat": (CAT, rectangle(size, 0, 0, 16, 8)),
        "dog": (DOG, rectangle(size, 0, 8, 16, 8)),
        "pencil": ((PENCIL,), rectangle(size, 0, 0, 16, 16)),
    }
    for latents, mask in objects.values():
        for latent in latents:
            maps[:, latent + PLACE[stage]] += mask[::4, ::4]
    found = [Annotation.of(label, mask) for label, (_, mask) in objects.items()]
    builder = DictionaryBuilder(LATENTS, GRID, DictionaryConfig(normaliser="max"))
    builder.add(code_of(maps), [found, found])
    return builder.finish(WORDS, facts)
