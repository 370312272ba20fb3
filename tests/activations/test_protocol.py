"""The written protocol: what docs/store.md says is enough to read and check a store without sparsight."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stores import SPEC, fill

DOCS = Path(__file__).parents[2] / "docs" / "store.md"


def without_sparsight():
    return re.search(r"## Without sparsight\n\n```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)[1]


@pytest.mark.parametrize(
    "options", [{"dtype": "fp16"}, {"dtype": "int8"}, {"dtype": "int8", "kept": 2, "kept_seed": 4}]
)
def test_the_ten_lines_read_any_store(tmp_path, monkeypatch, options):
    store = fill(tmp_path / "store", units=1, spec=replace(SPEC, **options))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(without_sparsight(), names)
    np.testing.assert_array_equal(names["tokens"], store.load("tokens")["tokens"].numpy())
    index = names["index"]
    plain = json.dumps([index["spec"], index["shards"]], sort_keys=True)
    assert hashlib.sha256(plain.encode()).hexdigest()[:16] == store.digest == index["digest"]


def test_the_ten_lines_find_damage(tmp_path, monkeypatch):
    fill(tmp_path / "store", units=2)
    path = tmp_path / "store" / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="shard-00001"):
        exec(without_sparsight(), {})
