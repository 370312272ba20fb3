import pytest

from sparsight import SparsightError, load_recipe
from sparsight.baselines import METHODS
from sparsight.pipeline import recipe_names
from sparsight.pipeline.run import run_of


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid(name):
    recipe = load_recipe(name)
    if recipe.experiment == "casl":
        assert len(recipe.concepts) >= 6 and recipe.steer.k == 1
    elif name == "compare-avatars":
        assert len(recipe.concepts) >= 8 and recipe.test >= 64 and len(recipe.seeds) == 3
        assert {type(one) for one in recipe.entries().values()} == set(METHODS.values())  # none is left out in silence
    elif name == "compare-scenes":
        assert set(METHODS) <= set(recipe.entries()) and recipe.ours in recipe.entries()
    elif name == "demo-compare":
        assert set(recipe.methods) == set(recipe.entries())
    else:
        assert recipe.experiment == "emergence" and len(recipe.sites) == 3


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_passes_its_own_checks(name, tmp_path):
    run_of(load_recipe(name), tmp_path / "new").check()
    assert not (tmp_path / "new").exists()


def test_overrides_reach_their_key_and_keep_the_rest():
    recipe, plain = load_recipe("demo", ["sae.expansion=7", "concepts=[Beard]", "seed=3"]), load_recipe("demo")
    assert (recipe.sae.expansion, recipe.concepts, recipe.seed) == (7, ("Beard",), 3)
    assert recipe.harvest == plain.harvest


def test_a_resolved_recipe_loads_as_itself(tmp_path):
    import yaml

    recipe = load_recipe("demo", ["sae.expansion=7"])
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.plain()))
    assert load_recipe(tmp_path / "r.yaml") == recipe


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sae.expanson=8", "did you mean 'sae.expansion'"),
        ("sead=8", "did you mean 'seed'"),
        ("sae.expansion=lots", "sae.expansion"),
        ("sae.activation=rely", "did you mean 'relu'"),
        ("steer=3", "section"),
        ("seed", "key=value"),
        ("seed.deeper=1", "no section"),
        ("concepts=[]", "no concept"),
        ("precision=fp8", "precision"),
    ],
)
def test_a_wrong_override_is_one_clear_line(override, words):
    with pytest.raises(SparsightError, match=words) as error:
        load_recipe("demo", [override])
    assert "\n" not in str(error.value)


def test_unknown_and_broken_recipes(tmp_path):
    with pytest.raises(SparsightError, match="did you mean 'avatars'"):
        load_recipe("avatar")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(SparsightError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(SparsightError, match="mapping"):
        load_recipe(tmp_path / "list.yaml")
    with pytest.raises(SparsightError, match="cannot read"):
        load_recipe(tmp_path / "nowhere.yaml")
