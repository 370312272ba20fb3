"""The SAE: units, equivalent ways to encode, folders that load exactly or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsight.errors import SparsightError
from sparsight.sae import SAE, SAEConfig, TrainConfig, list_saes
from sparsight.sae.model import initial_bias


def make(activation="relu", d_in=8, d_sae=64, **options):
    sae = SAE(SAEConfig(d_in, d_sae, activation, k=5, **options), seed=1)
    sae.set_statistics(torch.linspace(-50, 50, d_in), 0.1)
    with torch.no_grad():
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(2))
        sae.b_enc.normal_(generator=torch.Generator().manual_seed(3))
    return sae


def tokens(*shape):
    return torch.randn(*shape, 8, generator=torch.Generator().manual_seed(4)) * 10 + torch.linspace(-50, 50, 8)


@pytest.mark.parametrize("pre_bias", [True, False])
def test_encode_and_decode_are_the_written_formulas(pre_bias):
    sae, x = make(pre_bias=pre_bias), tokens(3, 5)
    h = (x - torch.linspace(-50, 50, 8)) * 0.1
    z = ((h - sae.b_dec * pre_bias) @ sae.W_enc + sae.b_enc).relu()
    torch.testing.assert_close(sae.encode(x), z)
    torch.testing.assert_close(sae.decode(z), (z @ sae.W_dec + sae.b_dec) / 0.1 + torch.linspace(-50, 50, 8))
    torch.testing.assert_close(sae.denormalise(sae.normalise(x)), x)


@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_all_ways_to_encode_agree(activation):
    sae, x = make(activation), tokens(3, 5)
    z, code = sae.encode(x), sae.encode_sparse(x)
    assert (z >= 0).all() and z.shape == (3, 5, 64)
    torch.testing.assert_close(code.dense(64).view(3, 5, 64), z)
    torch.testing.assert_close(sae.encode_latents(x, [7, 0, 63]), z[..., [7, 0, 63]])
    torch.testing.assert_close(sae.decode(code).view_as(x), sae.decode(z))
    torch.testing.assert_close(sae(x), sae.decode(z))
    assert torch.equal(code.l0, (z > 0).sum(-1).flatten())
    if activation == "topk":
        assert code.l0.max() == 5
        pre = (sae.normalise(x) - sae.b_dec) @ sae.W_enc + sae.b_enc
        best = pre.topk(5).values.relu()
        torch.testing.assert_close(z.topk(5).values, best)


def test_a_sparse_code_is_what_embedding_bag_reads():
    sae, x = make(), tokens(6)
    code, weight = sae.encode_sparse(x), torch.randn(64, 3)
    product = torch.nn.functional.embedding_bag(
        code.indices, weight, code.offsets, mode="sum", per_sample_weights=code.values, include_last_offset=True
    )
    torch.testing.assert_close(product, sae.encode(x) @ weight)
    torch.testing.assert_close(code.matmul(weight), product)


def test_a_fresh_relu_sae_is_sparse_and_already_reconstructs():
    """The closed form behind the initial bias, on strongly anisotropic data."""
    config = SAEConfig(32, 32 * 32)
    x = torch.randn(500, 32) * torch.linspace(0.1, 3, 32)
    sae = SAE(config)
    h = torch.nn.functional.normalize(x, dim=1) * 32**0.5
    z = sae.encode(h)
    assert 0.7 * 32 < (z > 0).sum(1).float().mean() < 1.4 * 32
    assert 0.8 < ((sae.decode(z) * h).sum() / h.square().sum()) < 1.2
    assert initial_bias(SAEConfig(32, 48)) == 0 and initial_bias(SAEConfig(32, 999, "topk")) == 0


@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_saving_changes_nothing(tmp_path, activation):
    sae, x = make(activation, decoder_norm="free"), tokens(5)
    sae.save_pretrained(tmp_path / "sub", {"site": "mid_block", "l0": 3.5})
    again = SAE.from_pretrained(tmp_path, subfolder="sub")
    assert again.config == sae.config and again.extra == {"site": "mid_block", "l0": 3.5}
    assert torch.equal(again.encode(x), sae.encode(x)) and torch.equal(again(x), sae(x))
    assert again.W_enc.t().is_contiguous()  # rows of latents stay rows in memory
    assert "mid_block" in (tmp_path / "sub" / "README.md").read_text()
    head = json.loads((tmp_path / "sub" / "config.json").read_text())
    assert head["schema_version"] == 1 and head["library_version"]


def rewrite_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite_tensors(folder, drop=(), **changes):
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({k: v.clone() for k, v in tensors.items() if k not in drop}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: rewrite_config(f, activaton="relu"), "unknown SAEConfig field 'activaton'"),
        (lambda f: rewrite_config(f, activation="gelu"), "unknown activation 'gelu'"),
        (lambda f: rewrite_config(f, schema_version=2), "schema 1"),
        (lambda f: rewrite_config(f, d_sae=65), r"has shape .* but its config says"),
        (lambda f: rewrite_config(f, d_sae="many"), "d_sae"),
        (lambda f: rewrite_tensors(f, drop=["b_enc"]), "lacks tensors: b_enc"),
        (lambda f: rewrite_tensors(f, threshold=torch.ones(1)), "unexpected tensors: threshold"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 50), "truncated or corrupt"),
        (lambda f: (f / "model.safetensors").unlink(), "does not exist"),
        (lambda f: (f / "config.json").unlink(), "does not exist"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_in_one_sentence(tmp_path, spoil, words):
    make().save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(SparsightError, match=words):
        SAE.from_pretrained(tmp_path)


def test_a_folder_of_an_earlier_version_loads(tmp_path):
    """Its config.json names none of the fields that came later."""
    sae = make()
    sae.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for name in ("prefixes", "t_edges"):
        del values[name]
    (tmp_path / "config.json").write_text(json.dumps(values))
    again = SAE.from_pretrained(tmp_path)
    assert again.config == sae.config and torch.equal(again.encode(tokens(5)), sae.encode(tokens(5)))
    assert set(again.state_dict()) == {"W_enc", "b_enc", "W_dec", "b_dec", "mean", "scale"}


def test_missing_fields_and_folders(tmp_path):
    make().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["pre_bias"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(SparsightError, match="lacks 'pre_bias'"):
        SAE.from_pretrained(tmp_path)
    with pytest.raises(SparsightError, match="no SAE folder"):
        SAE.from_pretrained(tmp_path / "elsewhere")


def test_the_hub_is_asked_for_the_subfolder_only(tmp_path, monkeypatch):
    sae = make()
    sae.save_pretrained(tmp_path / "mid")
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr("sparsight.sae.hub.snapshot_download", download)
    again = SAE.from_pretrained("someone/saes", subfolder="mid")
    assert torch.equal(again.W_dec, sae.W_dec)
    assert asked["name"] == "someone/saes" and all(p.startswith("mid/") for p in asked["allow_patterns"])


def test_a_repository_of_several_saes_lists_them_and_asks_which(tmp_path, monkeypatch):
    names = ["down_blocks.1/0-499", "mid_block/0-499", "mid_block/500-999"]
    for name in names:
        make().save_pretrained(tmp_path / name)
    assert list_saes(tmp_path) == names
    with pytest.raises(
        SparsightError, match=r"several SAEs: choose one with subfolder \(valid: down_blocks.1/0-499, mid"
    ):
        SAE.from_pretrained(tmp_path)
    assert SAE.from_pretrained(tmp_path, subfolder=names[2]).config == make().config
    make().save_pretrained(tmp_path)
    assert list_saes(tmp_path) == ["", *names]
    files = ["README.md", "mid_block/config.json", "mid_block/model.safetensors", "up/model.safetensors.index.json"]
    monkeypatch.setattr("sparsight.sae.hub.HfApi.list_repo_files", lambda *_, **__: files)
    assert list_saes("someone/saes") == ["mid_block"]
    with pytest.raises(SparsightError, match="there is no SAE folder"):
        list_saes(tmp_path / "nowhere")


def test_the_card_tells_the_metrics(tmp_path):
    make().save_pretrained(tmp_path, {"site": "mid_block", "metrics": {"fve": 0.987654321, "l0": 12}, "store": "abc"})
    card = (tmp_path / "README.md").read_text()
    assert "| fve | 0.98765 |" in card and "| l0 | 12 |" in card and "| store | abc |" in card


def test_wrong_channels_and_configs_are_named():
    with pytest.raises(SparsightError, match=r"reads 8 channels.*have 9"):
        make().encode(torch.zeros(2, 9))
    with pytest.raises(SparsightError, match="k must lie between"):
        SAEConfig(8, 16, "topk", k=17)
    with pytest.raises(SparsightError, match="lr must be a positive number"):
        TrainConfig(lr=float("nan"))
    with pytest.raises(SparsightError, match="steps must be at least 1"):
        TrainConfig(steps=0)
    with pytest.raises(SparsightError, match="revive_every"):
        TrainConfig(aux_k=4)
    assert TrainConfig(expansion=2.5).sae_config(8).d_sae == 20
