"""Metrics of runs over their steps, as a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vit_jax import naming
from vit_jax.visualize.canvas import new_figure, title_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKED = 40  # points of a line that are few enough to be marked


def curves_figure(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str], title: str
) -> "Figure":
    """A panel for each metric, and in it a line for each split of each run that has it.

        runs = {"mine": read_metrics("runs/mine")}
        curves_figure(runs, ["loss", "top1"], "digits")

    Args:
        runs: lines of `vit_jax.training.metrics.read_metrics`, by the name of the run.
        metrics: names such as "loss", "top1", "learning_rate".
        title: above all.

    Raises:
        UserError: no run has such a metric.
    """
    known = {name for lines in runs.values() for line in lines for name in line}
    naming.check_known("metric", metrics, known - {"step", "split"})
    figure = new_figure(4.2 * len(metrics), 3.8)
    title_above(figure, title)
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics):
        for run, lines in runs.items():
            for split in dict.fromkeys(line["split"] for line in lines if metric in line):
                chosen = [x for x in lines if x["split"] == split and metric in x]
                steps, values = zip(*((line["step"], line[metric]) for line in chosen))
                marker = "o" if len(chosen) <= MARKED else None
                axes.plot(steps, values, marker=marker, markersize=3, label=f"{run}, {split}")
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel(metric, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure
