"""What every metric asks of its inputs: plain, finite numbers with matching rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsight.errors import SparsightError

Array = Tensor | NDArray[Any] | Sequence[float]
Numbers = NDArray[np.float64]


def numbers(values: Array, what: str = "values") -> Numbers:
    """Return `values` as a detached float64 NumPy array; NaN or infinity is a `SparsightError` that names `what`."""
    # Tensor.numpy() refuses bfloat16 and tensors with a graph, so both go first.
    plain = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    array = np.asarray(plain, dtype=np.float64)
    if not np.isfinite(array).all():
        raise SparsightError(f"the {what} hold NaN or infinite numbers")
    return array


def same_rows(arrays: Sequence[Numbers]) -> int:
    """The common number of rows; no array, a scalar or unequal lengths are a `SparsightError`."""
    if not arrays or any(array.ndim == 0 for array in arrays):
        raise SparsightError("a metric needs arrays with one row for each image")
    lengths = {len(array) for array in arrays}
    if len(lengths) > 1:
        raise SparsightError(f"the arrays must have one row for each image, but have {sorted(lengths)} rows")
    return lengths.pop()


def same_shape(what: str, *tensors: Tensor) -> None:
    """Raise a `SparsightError` unless all `tensors` have the same shape."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) > 1:
        raise SparsightError(f"the {what} must have equal shapes, but have {', '.join(map(str, shapes))}")


def images(*batches: Tensor) -> None:
    """Raise a `SparsightError` unless all `batches` are float images of one shape (n, channels, H, W)."""
    same_shape("images", *batches)
    if batches[0].ndim != 4 or not all(torch.is_floating_point(batch) for batch in batches):
        raise SparsightError(f"images must be float tensors (n, 3, H, W), but the shape is {tuple(batches[0].shape)}")
