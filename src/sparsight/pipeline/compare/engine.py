"""Many tasks over several processes. The parent alone hands them out, so that none is done twice; each writes its own folder."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.errors import SparsightError

if TYPE_CHECKING:
    from sparsight.pipeline.compare.recipe import CompareRecipe
    from sparsight.pipeline.compare.run import CompareRun

Job = Callable[["CompareRun", Any], None]
_own: list[CompareRun] = []  # the run of a worker process


def spread(run: CompareRun, job: Job, tasks: Sequence[Any]) -> Iterator[tuple[Any, str | None]]:
    """Do `job(run, task)` for every task and yield each with its error, None where it went well, as they end.

    With one worker, or one task, it is done in this process. `job` must be a function of a module. Raises `SparsightError`
    where a worker process dies.
    """
    if min(run.recipe.workers, len(tasks)) < 2:
        for task in tasks:
            yield task, attempt(run, job, task)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(run.recipe.workers, len(tasks)), context, _start, (run.folder, run.recipe, _threads(run))
    )
    try:
        futures = {pool.submit(_one, job, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise SparsightError(
            "a worker process died (was memory short?): start the same command again, with fewer workers perhaps; what is "
            "finished is kept"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def attempt(run: CompareRun, job: Job, task: Any) -> str | None:
    """Do one task; what goes wrong becomes a sentence."""
    try:
        job(run, task)
    except SparsightError as error:
        return str(error)
    except Exception as error:  # whatever a method raises must cost its own cell alone
        return f"{type(error).__name__}: {error}"
    return None


def _threads(run: CompareRun) -> int:
    return run.recipe.threads or max(1, (os.cpu_count() or 1) // run.recipe.workers)


def _start(folder: Path, recipe: CompareRecipe, threads: int) -> None:
    """What a worker process does first."""
    import torch

    from sparsight.pipeline.compare.run import CompareRun

    threading.Thread(target=_end_with_parent, daemon=True).start()
    _own.append(CompareRun(folder, recipe))
    torch.set_num_threads(threads)


def _end_with_parent() -> None:
    """A parent that is killed cannot say so to its workers, which would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _one(job: Job, task: Any) -> str | None:
    return attempt(_own[0], job, task)
