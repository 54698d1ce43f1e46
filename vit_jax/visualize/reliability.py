"""A reliability plot: accuracy over confidence, and how many examples have which confidence.

Guo et al. 2017, "On Calibration of Modern Neural Networks", figure 1. Bars below the diagonal
are of a model that is too sure of itself, bars above it of one that is not sure enough.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from vit_jax.visualize.canvas import new_figure, title_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vit_jax.evaluation.calibration import Reliability

BAR, GAP = "tab:blue", "tab:red"


def reliability_figure(panels: Mapping[str, "Reliability"], title: str) -> "Figure":
    """Draws what is right in each bin, and below it the share of examples in each.

    Args:
        panels: by the name above each, side by side.
        title: above all.
    """
    figure = new_figure(3.6 * len(panels) + 0.2, 5.4)
    title_above(figure, title)
    rows = figure.subplots(2, len(panels), squeeze=False, sharex=True, height_ratios=(2.4, 1))
    for column, (name, found) in enumerate(panels.items()):
        _bars(rows[0, column], found, name)
        _histogram(rows[1, column], found)
    legends = [axes.get_legend_handles_labels() for axes in rows[:, 0]]
    handles, labels = (parts[0] + parts[1] for parts in zip(*legends))
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7)
    return figure


def _bars(axes: "Axes", found: "Reliability", name: str) -> None:
    edges, width = found.edges[:-1], np.diff(found.edges)
    accuracy = np.nan_to_num(found.accuracy)
    gap = np.nan_to_num(found.confidence - found.accuracy)
    at_edge = dict(width=width, align="edge", linewidth=0.5)
    axes.bar(edges, accuracy, color=BAR, edgecolor="black", label="accuracy", **at_edge)
    axes.bar(
        edges,
        gap,
        bottom=accuracy,
        color=GAP,
        alpha=0.35,
        edgecolor=GAP,
        hatch="//",
        label="gap to the confidence",
        **at_edge,
    )
    axes.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy", fontsize=8)
    right, sure = (100 * _mean(found, x) for x in (found.accuracy, found.confidence))
    lines = [
        f"accuracy {right:.2f} %, mean confidence {sure:.2f} %",
        f"ECE {100 * found.ece:.2f} %, MCE {100 * found.mce:.2f} %",
    ]
    axes.set_title("\n".join([name, *lines] if name else lines), fontsize=8)
    axes.tick_params(labelsize=7)


def _histogram(axes: "Axes", found: "Reliability") -> None:
    axes.bar(
        found.edges[:-1],
        found.counts / found.counts.sum(),
        width=np.diff(found.edges),
        align="edge",
        color="0.7",
        edgecolor="black",
        linewidth=0.5,
    )
    for values, color, name in (
        (found.accuracy, BAR, "accuracy of all"),
        (found.confidence, GAP, "mean confidence of all"),
    ):
        place = _mean(found, values)
        axes.axvline(place, color=color, linestyle="--", linewidth=1, label=name)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence", fontsize=8)
    axes.set_ylabel("share of examples", fontsize=8)
    axes.tick_params(labelsize=7)


def _mean(found: "Reliability", of_bins: np.ndarray) -> float:
    """Over the examples."""
    return float(np.nansum(found.counts * of_bins) / found.counts.sum())
