"""How far two implementations of a network are apart, place by place, as a figure.

The rows are those of `vit_jax.validate`'s report. The error of rounding grows slowly from block to
block; a wrong weight is a step, at the place where it is.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vit_jax.convert.report import Difference
from vit_jax.visualize.canvas import new_figure, title_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR = 1e-18  # where equal arrays are drawn: a logarithmic scale has no zero


def differences_figure(reports: Mapping[str, Sequence[Difference]], title: str) -> "Figure":
    """A line for each report over its places, on a logarithmic scale, and the limits, dashed.

    Args:
        reports: `report.states` or `report.gradients` by the name of the line.
        title: above all.
    """
    places = list(dict.fromkeys(row.place for rows in reports.values() for row in rows))
    figure = new_figure(max(4.0, 1.6 + 0.35 * len(places)), 4.0)
    title_above(figure, title)
    axes = figure.subplots()
    drawn: set[tuple[tuple[str, float], ...]] = set()
    for name, rows in reports.items():
        where = [places.index(row.place) for row in rows]
        values = [max(row.max_rel, FLOOR) for row in rows]
        (line,) = axes.plot(where, values, marker="o", markersize=4, label=name)
        limits = tuple((row.place, row.limit) for row in rows)
        if limits not in drawn:  # several reports may share theirs
            drawn.add(limits)
            heights = [row.limit for row in rows]
            axes.plot(where, heights, "--", color=line.get_color(), label=f"limit of {name}")
    axes.set_yscale("log")
    axes.set_ylabel("max |a - b| / max |b|", fontsize=8)
    axes.set_xticks(range(len(places)), places, rotation=90, fontsize=7)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(alpha=0.3)
    figure.legend(fontsize=7, loc="outside lower center", ncols=2)
    return figure
