"""Panels of matplotlib in the look of every report, and pictures as SVG; matplotlib is imported when they are drawn."""

from __future__ import annotations

import io
from typing import Any

__all__ = ["subplots", "svg"]


def subplots(rows: int, columns: int, size: tuple[float, float], **shared: Any) -> tuple[Any, Any]:
    """A figure and its axes ``(rows, columns)`` without frames on the right and above.

    Args:
        rows: Of panels.
        columns: Of panels.
        size: Width and height in inches.
        shared: As ``matplotlib.pyplot.subplots`` takes it, such as ``sharex=True``.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, found = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **shared)
    for axes in found.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, found


def svg(figure: Any) -> bytes:
    """The figure as SVG, the same bytes for the same picture; it is closed."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()
