import pytest
import torch

from sparsight import DiffusionModel, SparsightError
from sparsight.activations.harvest import HarvestConfig, harvest
from sparsight.concepts import AlignConfig, Alignment, Concept, align, choose, refit
from sparsight.sae import SAE, SAEConfig
from tiny import tiny_pipeline


class Pictures:
    name = "random"

    def __len__(self):
        return 6

    def batch(self, numbers):
        return torch.stack([torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in numbers])


class BrightClip:
    """Two words on a circle: the angle of an image is its brightness, the text pair points to brighter."""

    def image(self, images):
        angle = images.mean((1, 2, 3))
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    def text(self, texts):
        return torch.tensor([[1.0, 0.0], [0.8, 0.6]])[: len(texts)]


@pytest.fixture
def world(tmp_path):
    model = DiffusionModel.from_pipeline(tiny_pipeline(prediction_type="v_prediction"), name="tiny")
    store = harvest(model, Pictures(), tmp_path / "store", HarvestConfig(steps=10, batch_size=4, dtype="fp32"))
    sae = SAE(SAEConfig(64, 32))
    tokens = store.load("tokens")["tokens"]
    sae.set_statistics(tokens.mean((0, 1)), float(tokens.std()))
    return model, store, sae.requires_grad_(False)


@pytest.mark.parametrize("trajectory", ["walk", "inversion"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_alignment_moves_images_toward_the_concept(world, trajectory, optimizer):
    model, store, sae = world
    config = AlignConfig(
        trajectory=trajectory, optimizer=optimizer, updates=30, batch_size=3, lr=0.02 if optimizer == "adam" else 2.0
    )
    losses = []
    found = align(
        model, sae, store, Pictures(), [Concept("bright", "a", "b")], BrightClip(), config, without_sae=True,
        progress=lambda done, total, loss: losses.append(loss["bright"]),
    )  # fmt: skip
    assert set(found) == {("bright", "latents"), ("bright", "channels")}
    x_t, t = store.load("x_t")["x_t"][:3], store.spec.timesteps[0]
    alignment = found["bright", "latents"]

    class Edit:
        site = "mid_block"

        def __call__(self, tokens, step):
            return tokens + sae.encode(tokens) @ alignment.W + alignment.b

    with torch.no_grad():
        before = model.predict(x_t, t).x0.mean()
        with model.edit([Edit()]):
            after = model.predict(x_t, t).x0.mean()
    assert after > before


def test_latents_that_never_fire_keep_a_zero_column(world):
    model, store, sae = world
    with torch.no_grad():
        sae.b_enc[5] = -1e6
    config = AlignConfig(trajectory="inversion", updates=5, batch_size=3)
    found = align(model, sae, store, Pictures(), [Concept("bright", "a", "b")], BrightClip(), config)
    alignment = found["bright", "latents"]
    assert torch.equal(alignment.W[5], torch.zeros(64)) and alignment.mean_activation[5] == 0
    assert alignment.W.norm(dim=1).max() > 0


def test_the_same_seed_gives_the_same_map(world):
    model, store, sae = world
    maps = [
        align(
            model, sae, store, Pictures(), [Concept("b", "a", "b")], BrightClip(), AlignConfig(updates=3, batch_size=3)
        )
        for _ in range(2)
    ]
    assert torch.equal(maps[0]["b", "latents"].W, maps[1]["b", "latents"].W)


def test_shared_work_does_not_mix_concepts(world):
    """Two concepts in one run learn what each learns alone."""
    model, store, sae = world
    one, two = Concept("one", "a", "b"), Concept("two", "a", "b")
    config = AlignConfig(trajectory="inversion", updates=4, batch_size=3)
    alone = align(model, sae, store, Pictures(), [two], BrightClip(), config)["two", "latents"]
    together = align(model, sae, store, Pictures(), [one, two], BrightClip(), config)["two", "latents"]
    torch.testing.assert_close(together.W, alone.W)


def test_a_store_of_another_model_is_refused(world):
    _, store, sae = world
    other = tiny_pipeline(prediction_type="v_prediction")
    with torch.no_grad():
        next(other.unet.parameters())[0] += 0.1
    with pytest.raises(SparsightError):
        align(DiffusionModel.from_pipeline(other), sae, store, Pictures(), [Concept("b", "a", "b")], BrightClip())


@pytest.mark.parametrize("bad", [{"trajectory": "run"}, {"optimizer": "adamw"}, {"form": "cos"}, {"updates": 0}])
def test_bad_options_are_refused(bad):
    with pytest.raises(SparsightError):
        AlignConfig(**bad)


def test_concepts_are_chosen_by_name():
    known = {"Wearing_Hat": Concept("Wearing_Hat", "a", "b"), "Smiling": Concept("Smiling", "a", "c")}
    assert [c.name for c in choose(["wearing hat", "SMILING"], known)] == ["Wearing_Hat", "Smiling"]
    with pytest.raises(SparsightError, match="did you mean 'Smiling'"):
        choose(["smilling"], known)


def _drawn():
    columns = torch.randn(32, 64, generator=torch.Generator().manual_seed(3))
    return Alignment(Concept("bright", "a", "b"), "mid_block", columns, torch.zeros(64), torch.ones(32))


def test_refitting_takes_adams_first_step_down_the_loss_of_the_kept_latents_alone(world):
    """One image and one timestep, so that the batch is known; the loss is written out again here."""
    model, store, sae = world
    alignment, kept = _drawn(), [1, 4]
    config = AlignConfig(batch_size=1, clip_reference="prediction", lambda_clip=3.0, lambda_recon=1.0)
    one_t = min(store.spec.timesteps)
    store = harvest(model, Pictures(), store.folder.parent / "one", HarvestConfig(steps=10, low=one_t, high=one_t, dtype="fp32"),
                    numbers=[2])  # fmt: skip
    found = refit(model, sae, store, Pictures(), alignment, kept, BrightClip(), config, updates=1)

    loaded = store.load("x_t", "tokens")
    x_t, tokens, clip = loaded["x_t"], loaded["tokens"], BrightClip()
    z = sae.encode(tokens)[..., kept]
    start = alignment.W[kept]
    start = start * (0.02 * tokens.norm(dim=-1).mean() / (z @ start).norm(dim=-1).mean())
    columns = start.clone().requires_grad_()

    class Edit:
        site = "mid_block"

        def __call__(self, given, step):
            return given + z @ columns

    with torch.no_grad():
        plain = model.decode(model.predict(x_t, one_t).x0)
    with model.edit([Edit()]):
        image = model.decode(model.predict(x_t, one_t).x0)
    text = torch.tensor([0.8 - 1.0, 0.6])
    moved = clip.image(image) - clip.image(plain)
    softened = (moved.square().sum() + 1e-3**2).sqrt()  # the length that directional_loss documents
    (3 * (1 - (moved @ text).sum() / text.norm() / softened) + (image - plain).abs().mean()).backward()
    step = start - 0.1 * start.square().mean().sqrt() * columns.grad.sign()
    clear = columns.grad.abs() > 0.01 * columns.grad.abs().max()  # the sign of a gradient near 0 is rounding
    assert clear.float().mean() > 0.5
    expected = step * alignment.W[kept].norm() / step.norm()
    torch.testing.assert_close(found[clear], expected[clear], rtol=5e-3, atol=5e-3)


def test_refitting_latents_that_never_fire_leaves_their_columns(world):
    model, store, sae = world
    with torch.no_grad():
        sae.b_enc[5] = -1e6
    alignment = _drawn()
    found = refit(model, sae, store, Pictures(), alignment, [5], BrightClip(), AlignConfig(batch_size=3), updates=3)
    torch.testing.assert_close(found, alignment.W[[5]])
