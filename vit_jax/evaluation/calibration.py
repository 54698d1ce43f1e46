"""Whether a model's probabilities are true: of what it is 80 % sure, 80 % should be right.

Guo et al. 2017, "On Calibration of Modern Neural Networks": the confidence of a prediction is its
probability, and examples are put into M bins B_m by it. With acc(B_m) the share of them that is
right and conf(B_m) their mean confidence, over n examples,

    ECE = sum_m |B_m| / n * |acc(B_m) - conf(B_m)|          (equation 3)
    MCE = max_m |acc(B_m) - conf(B_m)|                      (equation 5)

Bins are of equal width, ((m - 1) / M, m / M], as there; or of equal mass (Nguyen & O'Connor 2015,
"Posterior calibration and exploratory analysis for natural language processing models"), bounded by
quantiles, so that none holds next to nothing. Two scores are of all probabilities and not of the
highest alone; lower is better, and both also reward being right:

    NLL   = mean of -log p(right class)                     (equation 6)
    Brier = mean over examples of sum_k (p_k - y_k)^2       (Brier 1950), 0 to 2

Where each class was learned by itself (sigmoid), the NLL is the sum of the classes' binary
cross-entropies. Temperature scaling (equation 9) divides logits by the one number T that makes the
NLL of held-out examples least; which class is predicted stays as it was.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, special

from vit_jax.convert.folder import Model
from vit_jax.errors import UserError
from vit_jax.evaluation.logistic import check_share, split
from vit_jax.evaluation.predictions import Predictions, classify
from vit_jax.visualize.canvas import check_figure, save_figure
from vit_jax.visualize.reliability import reliability_figure

BINS = 15  # as Guo et al., table 1
WIDTH, MASS = "width", "mass"
TEMPERATURES = (0.01, 100.0)  # where the best is looked for


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Examples by their confidence, in M bins.

    Attributes:
        edges: (M + 1,) bounds of the bins; each holds its upper one.
        counts: (M,) examples.
        confidence: (M,) their mean confidence, NaN in an empty bin.
        accuracy: (M,) the share that is right, NaN in an empty bin.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """The expected calibration error, 0 to 1."""
        weights = self.counts / self.counts.sum()
        return float(np.nansum(weights * np.abs(self.accuracy - self.confidence)))

    @property
    def mce(self) -> float:
        """The maximum calibration error, 0 to 1, of the bins that hold an example."""
        return float(np.nanmax(np.abs(self.accuracy - self.confidence)))


def reliability(
    confidence: np.ndarray, right: np.ndarray, bins: int = BINS, equal: str = WIDTH
) -> Reliability:
    """Puts examples into bins by their confidence.

    Args:
        confidence: (n,) from 0 to 1.
        right: (n,) whether each prediction is right.
        bins: how many.
        equal: what bins have in common, "width" or "mass" (as many examples, up to ties, which
            stay together).

    Raises:
        UserError: a number is out of range, or there is no example.
    """
    confidence, right = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    if bins < 1:
        raise UserError(f"{bins} bins: expected 1 or more")
    if equal not in (WIDTH, MASS):
        raise UserError(f"bins of equal {equal!r}: expected {WIDTH!r} or {MASS!r}")
    if not len(confidence) or not (confidence.min() >= 0 and confidence.max() <= 1):
        raise UserError("confidences are missing, or not all from 0 to 1")
    edges = np.linspace(0, 1, bins + 1)
    if equal == MASS:
        edges = np.quantile(confidence, edges)
    place = np.searchsorted(edges[1:-1], confidence)
    counts, confident, correct = (
        np.bincount(place, weights, minlength=bins) for weights in (None, confidence, right)
    )
    empty = np.where(counts > 0, 1.0, np.nan)
    whole = np.maximum(counts, 1) * empty
    return Reliability(edges, counts, confident / whole, correct / whole)


def negative_log_likelihood(
    logits: np.ndarray, labels: np.ndarray, probabilities: str = "softmax"
) -> float:
    """The mean over examples, in nats.

    Args:
        logits: (n, classes).
        labels: (n,) integers.
        probabilities: what makes them of logits, "softmax" or "sigmoid".
    """
    logits = logits.astype(np.float64)
    own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    if probabilities == "softmax":
        return float(np.mean(special.logsumexp(logits, axis=1) - own))
    return float(np.mean(np.logaddexp(0, logits).sum(axis=1) - own))


def brier_score(shares: np.ndarray, labels: np.ndarray) -> float:
    """The mean over examples of the squared distance to the right answer, 0 to 2 for a softmax.

    Args:
        shares: probabilities (n, classes).
        labels: (n,) integers.
    """
    right = labels[:, None] == np.arange(shares.shape[1])
    return float(np.mean(np.square(shares - right).sum(axis=1)))


def fit_temperature(
    logits: np.ndarray, labels: np.ndarray, probabilities: str = "softmax"
) -> float:
    """The temperature that makes the negative log-likelihood least.

    That is convex in 1 / T, so it has one minimum in T.

    Args:
        logits: (n, classes) of held-out examples.
        labels: (n,) integers.
        probabilities: see `negative_log_likelihood`.

    Raises:
        UserError: there is none within `TEMPERATURES`, as where every example is right.
    """

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / math.exp(log_temperature)
        return negative_log_likelihood(scaled, labels, probabilities)

    low, high = map(math.log, TEMPERATURES)
    options = dict(bounds=(low, high), method="bounded", options={"xatol": 1e-7})
    best = float(optimize.minimize_scalar(loss, **options).x)
    # At an end of the range, or where the loss is flat up to there.
    if min(best - low, high - best) < 1e-3 or min(map(loss, (low, high))) <= loss(best):
        raise UserError(
            f"no temperature from {TEMPERATURES[0]} to {TEMPERATURES[1]} is best for the "
            f"{len(labels)} examples that it is fitted to: it goes to 0 where all are right, and "
            "beyond all bounds where the model knows nothing; fit to more examples"
        )
    return math.exp(best)


@dataclasses.dataclass(frozen=True)
class Scores:
    """How true probabilities are.

    Attributes:
        examples: how many.
        accuracy: share that is right.
        confidence: mean probability of what is predicted.
        nll: negative log-likelihood, nats an example.
        brier: score.
        by_width: in bins of equal width.
        by_mass: in bins of equal mass.
    """

    examples: int
    accuracy: float
    confidence: float
    nll: float
    brier: float
    by_width: Reliability
    by_mass: Reliability

    def numbers(self) -> dict[str, float]:
        """By name."""
        return {
            "accuracy": self.accuracy,
            "confidence": self.confidence,
            "nll": self.nll,
            "brier": self.brier,
            "ece": self.by_width.ece,
            "mce": self.by_width.mce,
            "ece_equal_mass": self.by_mass.ece,
        }


def scores(found: Predictions, bins: int = BINS) -> Scores:
    """Scores of predictions.

    Args:
        found: with n examples.
        bins: by confidence.
    """
    shares, right = found.shares(), found.predicted == found.labels
    confidence = np.clip(shares.max(axis=1), 0, 1)
    return Scores(
        len(right),
        float(right.mean()),
        float(confidence.mean()),
        negative_log_likelihood(found.logits, found.labels, found.probabilities),
        brier_score(shares, found.labels),
        reliability(confidence, right, bins, WIDTH),
        reliability(confidence, right, bins, MASS),
    )


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A model's scores, and what a temperature makes of them.

    Attributes:
        plain: of the logits as they are.
        temperature: that was fitted; None where it was not asked for, as the following.
        fitted_on: examples, which are not among those of the scores.
        scaled: of the logits over the temperature, of the same examples as `plain`.
    """

    plain: Scores
    temperature: float | None = None
    fitted_on: int | None = None
    scaled: Scores | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON has it; None in an empty bin."""
        found: dict[str, Any] = {"examples": self.plain.examples, **self.plain.numbers()}
        found["bins"] = _bins(self.plain.by_width)
        if self.scaled is not None:
            found["temperature"] = self.temperature
            found["fitted_on"] = self.fitted_on
            found["scaled"] = {**self.scaled.numbers(), "bins": _bins(self.scaled.by_width)}
        return found

    def as_text(self) -> str:
        """A table."""
        lines = [f"{self.plain.examples:,} examples, {len(self.plain.by_width.counts)} bins"]
        columns = [self.plain.numbers()]
        if self.scaled is not None:
            columns.append(self.scaled.numbers())
            lines[0] += f"; temperature {self.temperature:.4f}, fitted to {self.fitted_on:,} others"
            lines.append(f"{'':18}{'as it is':>10}{'scaled':>10}")
        for name, text in NAMES.items():
            values = "".join(_number(name, column[name]) for column in columns)
            lines.append(f"{text:18}{values}")
        return "\n".join(lines)


NAMES = {
    "accuracy": "accuracy",
    "confidence": "mean confidence",
    "ece": "ECE",
    "ece_equal_mass": "ECE, equal mass",
    "mce": "MCE",
    "brier": "Brier score",
    "nll": "NLL",
}


def _number(name: str, value: float) -> str:
    return f"{value:10.4f}" if name in ("brier", "nll") else f"{100 * value:8.2f} %"


def _bins(found: Reliability) -> list[dict[str, float | None]]:
    rows = zip(found.edges, found.edges[1:], found.counts, found.confidence, found.accuracy)
    return [
        {
            "from": float(low),
            "to": float(high),
            "examples": int(count),
            "confidence": None if not count else float(confidence),
            "accuracy": None if not count else float(accuracy),
        }
        for low, high, count, confidence, accuracy in rows
    ]


def calibrated(
    found: Predictions, bins: int = BINS, fit_share: float | None = None, seed: int = 0
) -> Calibration:
    """Scores of predictions, and with a temperature that is fitted to some of them.

    Args:
        found: predictions.
        bins: by confidence.
        fit_share: of the examples of each class that the temperature is fitted to; these are in no
            score. None: no temperature.
        seed: of the choice of these examples.

    Raises:
        UserError: a number is out of range, or no temperature is best.
    """
    if fit_share is None:
        return Calibration(scores(found, bins))
    judged, held = split(found.labels, fit_share, seed)
    kind = found.probabilities
    temperature = fit_temperature(found.logits[held], found.labels[held], kind)
    part = found.part(judged)
    scaled = dataclasses.replace(part, logits=part.logits.astype(np.float64) / temperature)
    return Calibration(scores(part, bins), temperature, len(held), scores(scaled, bins))


def calibration(
    source: Model | str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    bins: int = BINS,
    fit_share: float | None = None,
    seed: int = 0,
    picture: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] = print,
    **options: Any,
) -> Calibration:
    """Lets a model classify labelled pictures and says how true its probabilities are.

        found = vit_jax.calibration("runs/digits", fit_share=0.5, picture="reliability.png")
        found.plain.by_width.ece, found.temperature

    Args:
        source: a model, or predictions, see `predictions.classify`.
        data: see `predictions.classify`.
        bins: see `calibrated`.
        fit_share: see `calibrated`.
        seed: see `calibrated`.
        picture: a PNG, SVG or PDF file, replaced if it is there; None draws nothing.
        report: is given the sentences a user should read.
        **options: of `predictions.classify`.

    Raises:
        UserError: see `predictions.classify` and `calibrated`; the picture cannot be written.
    """
    if picture is not None:
        check_figure(picture)
    if bins < 1:
        raise UserError(f"{bins} bins: expected 1 or more")
    if fit_share is not None:
        check_share(fit_share)
    predictions = classify(source, data, report=report, **options)
    found = calibrated(predictions, bins, fit_share, seed)
    if picture is not None:
        panels = {"": found.plain.by_width}
        if found.scaled is not None:
            name = f"temperature {found.temperature:.3g}"
            panels = {"as it is": found.plain.by_width, name: found.scaled.by_width}
        title = f"Reliability over {found.plain.examples:,} pictures"
        save_figure(reliability_figure(panels, title), Path(picture))
        report(f"reliability plot: {picture}")
    return found
