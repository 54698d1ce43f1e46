"""A linear probe: multinomial logistic regression on frozen features, by scikit-learn.

It minimises

    mean cross-entropy + l2 / 2 * ||W||^2

over weights W and biases, the latter free, by L-BFGS. As in Radford et al. 2021, "Learning
Transferable Visual Models From Natural Language Supervision", appendix A.3, l2 is chosen on a part
of the training examples, and the classifier is then fitted to all of them. Unlike there, features
are first shifted to mean 0 and scaled to deviation 1, so that one row of values suits every model.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from vit_jax.errors import UserError

L2 = tuple(10.0**power for power in range(-6, 1))
ITERATIONS = 1000
TOLERANCE = 1e-4  # of the greatest component of the gradient
VALIDATION = 0.1  # of the training examples
SMALL = 1e8  # multiplications of a pass below which threads cost more than they bring


@dataclasses.dataclass(frozen=True)
class Probe:
    """A fitted linear classifier.

    Attributes:
        accuracy: on the test examples.
        l2: that was chosen.
        validation: accuracy on the validation examples for each l2; empty where there was no
            choice.
        converged: whether L-BFGS came to an end; else it stopped after `ITERATIONS`.
        weights: (d, classes), of features as they were given.
        bias: (classes,).
    """

    accuracy: float
    l2: float
    validation: Mapping[float, float]
    converged: bool
    weights: np.ndarray
    bias: np.ndarray


def split(labels: np.ndarray, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Divides examples at random, class by class; returns sorted indices of both parts.

    Args:
        labels: (n,) integers.
        share: of each class that goes to the second part, rounded; at least one example stays.
        seed: of the choice.

    Raises:
        UserError: the share is not between 0 and 1, or one part would be empty.
    """
    check_share(share)
    rng = np.random.default_rng(seed)
    second = [np.zeros(0, np.int64)]
    for label in np.unique(labels):
        indices = rng.permutation(np.flatnonzero(labels == label))
        second.append(indices[: min(round(share * len(indices)), len(indices) - 1)])
    chosen = np.sort(np.concatenate(second))
    if not len(chosen):
        raise UserError(f"a share of {share} of {len(labels)} examples is none: take more")
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def check_share(share: float) -> None:
    """Raises UserError for a share that divides nothing."""
    if not 0 < share < 1:
        raise UserError(f"a share of {share}: expected more than 0 and less than 1")


def linear_probe(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    *,
    l2: Sequence[float] = L2,
    validation: float = VALIDATION,
) -> Probe:
    """Fits the classifier and says how good it is.

    Args:
        train: features (n, d) and labels (n,).
        test: the same of the examples to classify.
        num_classes: how many there are; those without training examples are never chosen.
        l2: regularisations to choose from (of equally good ones the greatest); one is taken as it
            is.
        validation: share of the training examples that l2 is chosen by.

    Raises:
        UserError: a number is out of range, or the training examples are of one class.
    """
    if not l2 or min(l2) <= 0:
        raise UserError(f"l2 is {tuple(l2)}: expected one number above 0, or several")
    if len(np.unique(train[1])) < 2:
        raise UserError("the training examples are of one class: a classifier needs two or more")
    best, judged = l2[0], {}
    if len(l2) > 1:
        fitted, held = split(train[1], validation)
        judged = _judged(_part(train, fitted), _part(train, held), num_classes, l2)
        best = max(judged, key=lambda x: (judged[x], x))
    ((weights, bias, converged),) = _fits(train, num_classes, [best])
    return Probe(accuracy(weights, bias, test), best, judged, converged, weights, bias)


def _judged(
    fitted: tuple[np.ndarray, np.ndarray],
    held: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    l2: Sequence[float],
) -> dict[float, float]:
    """Accuracy on held-out examples for each regularisation, the greatest first."""
    values = sorted(l2, reverse=True)
    fits = _fits(fitted, num_classes, values)
    bar = tqdm(zip(values, fits), "linear probe", len(values), disable=None, leave=False)
    return {value: accuracy(weights, bias, held) for value, (weights, bias, _) in bar}


def _part(
    examples: tuple[np.ndarray, np.ndarray], indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return examples[0][indices], examples[1][indices]


def accuracy(
    weights: np.ndarray, bias: np.ndarray, examples: tuple[np.ndarray, np.ndarray]
) -> float:
    """Share of examples (features, labels) that get the right class."""
    features, labels = examples
    return float(np.mean((features @ weights + bias).argmax(axis=1) == labels))


def _fits(
    examples: tuple[np.ndarray, np.ndarray], num_classes: int, l2: Sequence[float]
) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Yields weights (d, classes) and biases (classes,) of plain features; and if it converged.

    Each regularisation starts from the result of the one before.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    features, labels = np.asarray(examples[0], np.float64), examples[1]
    scaler = StandardScaler().fit(features)
    features = scaler.transform(features)
    # scikit-learn's C multiplies the sum of the losses; of two classes it keeps the difference of
    # the weights alone, whose square is twice the sum of their squares.
    twofold = 2 if len(np.unique(labels)) == 2 else 1
    model = LogisticRegression(max_iter=ITERATIONS, tol=TOLERANCE, warm_start=True)
    threads = 1 if features.size * num_classes < SMALL else None
    for value in l2:
        model.set_params(C=twofold / (value * len(labels)))
        with warnings.catch_warnings(), threadpool_limits(threads):
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is reported
            model.fit(features, labels)
        converged = int(np.max(model.n_iter_)) < ITERATIONS
        kernel, bias = model.coef_, model.intercept_
        if twofold == 2:
            kernel, bias = (np.concatenate([-x, x]) / 2 for x in (kernel, bias))
        scaled = kernel / scaler.scale_
        weights = np.zeros((features.shape[1], num_classes))
        biases = np.full(num_classes, -np.inf)
        weights[:, model.classes_] = scaled.T
        biases[model.classes_] = bias - scaled @ scaler.mean_
        yield weights, biases, converged
