"""Least squares with non-negative coefficients, for a handful of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations


def fit_non_negative(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Coefficients >= 0 that minimise the squared *relative* errors of rows . c against values.

    Relative, so that a millisecond matters more in a step of two than in one of two hundred. All
    subsets of columns are tried, which is exact and quick for the three that profiles have.

    Args:
        rows: one row of features a measurement. values: what was measured, above 0.
    """
    width = len(rows[0])
    scaled = [[feature / v for feature in row] for row, v in zip(rows, values, strict=True)]
    best, best_error = [0.0] * width, float(len(rows))
    for size in range(1, width + 1):
        for columns in combinations(range(width), size):
            found = _solve([[row[c] for c in columns] for row in scaled])
            if found is None or min(found) < 0.0:
                continue
            error = sum(
                (sum(row[c] * x for c, x in zip(columns, found, strict=True)) - 1.0) ** 2
                for row in scaled
            )
            if error < best_error:
                best, best_error = [0.0] * width, error
                for column, x in zip(columns, found, strict=True):
                    best[column] = x
    return best


def _solve(rows: Sequence[Sequence[float]]) -> list[float] | None:
    """Least squares of rows . x = 1 by the normal equations; None when they are singular."""
    width = len(rows[0])
    scale = [max(abs(row[i]) for row in rows) or 1.0 for i in range(width)]
    unit = [[row[i] / scale[i] for i in range(width)] for row in rows]
    matrix = [
        [sum(row[i] * row[j] for row in unit) for j in range(width)] + [sum(row[i] for row in unit)]
        for i in range(width)
    ]
    for i in range(width):
        pivot = max(range(i, width), key=lambda r: abs(matrix[r][i]))
        if abs(matrix[pivot][i]) < 1e-9:
            return None
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        for j in range(width):
            if j != i:
                factor = matrix[j][i] / matrix[i][i]
                matrix[j] = [a - factor * b for a, b in zip(matrix[j], matrix[i], strict=True)]
    return [matrix[i][-1] / matrix[i][i] / scale[i] for i in range(width)]
