import pytest
import torch

from sparsight import load_recipe
from sparsight.pipeline.run import run_of

NATIVE = {"amx_bf16": True, "avx512_f": True}
IN_SOFTWARE = {"amx_bf16": False, "avx512_bf16": False, "avx512_f": True, "num_logical_cores": 2}


@pytest.mark.parametrize(("known", "expected"), [(NATIVE, "bf16"), (IN_SOFTWARE, "fp32"), ({}, "fp32")])
def test_auto_is_bf16_only_where_the_processor_multiplies_it(known, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    run = run_of(load_recipe("demo", ["precision=auto"]), tmp_path)
    assert run.recipe.precision == expected and run.recipe.plain()["precision"] == expected


def test_a_run_that_goes_on_upon_another_machine_keeps_its_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: NATIVE, raising=False)
    begun = run_of(load_recipe("demo", ["precision=auto"]), tmp_path)
    begun.save_recipe()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: IN_SOFTWARE, raising=False)
    again = run_of(load_recipe("demo", ["precision=auto"]), tmp_path)
    assert again.recipe.precision == "bf16" and again.key("harvest") == begun.key("harvest")
    assert run_of(load_recipe("demo", ["precision=fp32"]), tmp_path).recipe.precision == "fp32"
