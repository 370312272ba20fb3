"""Tasks over several processes: each is done once, errors stay with their task."""

import pytest

from pipeline.compare.jobs import die, note
from sparsight import SparsightError, load_recipe
from sparsight.pipeline.compare.engine import spread
from sparsight.pipeline.compare.run import CompareRun


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_done_once_and_an_error_costs_its_own_task(tmp_path, workers):
    run = CompareRun(tmp_path, load_recipe("demo-compare", [f"workers={workers}"]))
    found = dict(spread(run, note, list(range(6))))
    assert found == {**dict.fromkeys(range(6)), 3: "ValueError: three is not done"}
    assert sorted(p.stem for p in tmp_path.glob("*.json")) == ["0", "1", "2", "4", "5"]


def test_a_dead_worker_is_said_and_not_waited_for(tmp_path):
    run = CompareRun(tmp_path, load_recipe("demo-compare", ["workers=2"]))
    with pytest.raises(SparsightError, match="a worker process died"):
        list(spread(run, die, [1, 2]))
