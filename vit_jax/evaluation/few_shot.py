"""Few-shot linear regression on frozen features, in closed form.

Dosovitskiy et al. 2021, section 4.1, "Metrics": the features x of a few training examples a class
are mapped to the targets y in {-1, 1}^classes by regularised least squares,

    W = argmin ||X W - Y||^2 + l2 ||W||^2 = (X'X + l2 I)^-1 X'Y,

and the greatest output is the class. The rest is as in big_vision's evaluator `fewshot_lsr`:
features are shifted to mean 0 and divided by their standard deviation plus 1e-5, both of the
examples that are shown; a constant feature of 100 makes a bias that is hardly regularised; l2 is
1024; 1, 5, 10 and 25 examples a class; the examples of a seed for few shots are among those for
more. It computes in float64.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from vit_jax.errors import UserError

SHOTS = (1, 5, 10, 25)
SEEDS = 3
L2 = 2.0**10
BIAS = 100.0
EPSILON = 1e-5  # added to standard deviations


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Accuracies with some examples a class.

    Attributes:
        l2: the regularisation of the results.
        accuracies: on the test examples, one for each seed.
        by_l2: mean accuracy over the seeds for each regularisation that was tried, on the
            validation examples where there are several.
    """

    l2: float
    accuracies: tuple[float, ...]
    by_l2: Mapping[float, float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds, of a sample (n - 1); 0 for one seed."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


class Regression:
    """Regularised least squares of a few examples, solved for any regularisation.

    The eigenvectors of X'X, or of XX' where there are fewer examples than features, are found once:
    X' (XX' + l2 I)^-1 = (X'X + l2 I)^-1 X'.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, num_classes: int):
        """Decomposes the problem.

        Args:
            features: (n, d).
            labels: (n,) integers.
            num_classes: how many there are.
        """
        features = np.asarray(features, np.float64)
        self._mean, self._scale = features.mean(axis=0), features.std(axis=0) + EPSILON
        x = self._prepared(features)
        y = np.where(labels[:, None] == np.arange(num_classes), 1.0, -1.0)
        if len(x) >= x.shape[1]:
            self._values, vectors = np.linalg.eigh(x.T @ x)
            self._left, self._right = vectors, vectors.T @ (x.T @ y)
        else:
            self._values, vectors = np.linalg.eigh(x @ x.T)
            self._left, self._right = x.T @ vectors, vectors.T @ y

    def weights(self, l2: float) -> np.ndarray:
        """W `(d + 1, classes)`, of prepared features and the constant one."""
        return (self._left / (self._values + l2)) @ self._right

    def scores(self, features: np.ndarray, l2: float) -> np.ndarray:
        """What the classes get `(m, classes)` for features `(m, d)`."""
        return self._prepared(np.asarray(features, np.float64)) @ self.weights(l2)

    def _prepared(self, features: np.ndarray) -> np.ndarray:
        x = (features - self._mean) / self._scale
        return np.concatenate([x, np.full((len(x), 1), BIAS)], axis=1)


def draw(labels: np.ndarray, num_classes: int, shots: int, seed: int) -> np.ndarray:
    """Indices of `shots` examples of each class, class by class; more shots of a seed add to them.

    Args:
        labels: (n,) integers.
        num_classes: how many there are.
        shots: examples a class.
        seed: of the choice.

    Raises:
        UserError: a class has fewer.
    """
    rng = np.random.default_rng(seed)
    of_class = [rng.permutation(np.flatnonzero(labels == i)) for i in range(num_classes)]
    fewest = min(map(len, of_class))
    if not 1 <= shots <= fewest:
        raise UserError(f"{shots} shots: expected 1 to {fewest}, the examples of the rarest class")
    return np.concatenate([indices[:shots] for indices in of_class])


def few_shot(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    shots: int,
    *,
    l2: Sequence[float] = (L2,),
    seeds: int = SEEDS,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> FewShot:
    """Accuracy with some training examples a class.

    Args:
        train: features (n, d) and labels (n,).
        test: the same of the examples to classify.
        num_classes: how many there are.
        shots: training examples a class.
        l2: regularisations; of several the one is taken that is best on the validation examples,
            over all seeds (of equals the greatest).
        seeds: 0 to `seeds` - 1 choose the training examples.
        validation: features and labels; needed where there are several regularisations.

    Raises:
        UserError: a class has fewer examples, a number is out of range, or there is no validation.
    """
    if seeds < 1:
        raise UserError(f"{seeds} seeds: expected 1 or more")
    if not l2 or min(l2) <= 0:
        raise UserError(f"l2 is {tuple(l2)}: expected one number above 0, or several")
    if len(l2) > 1 and validation is None:
        raise UserError(f"{len(l2)} values of l2 and no validation examples to choose by")
    fitted = []
    for seed in tqdm(range(seeds), f"{shots} shots", disable=None, leave=False):
        chosen = draw(train[1], num_classes, shots, seed)
        fitted.append(Regression(train[0][chosen], train[1][chosen], num_classes))

    def accuracies(examples: tuple[np.ndarray, np.ndarray], x: float) -> tuple[float, ...]:
        return tuple(accuracy(fit, examples, x) for fit in fitted)

    judged = {x: accuracies(test if validation is None else validation, x) for x in l2}
    by_l2 = {x: float(np.mean(found)) for x, found in judged.items()}
    best = max(by_l2, key=lambda x: (by_l2[x], x))
    return FewShot(best, judged[best] if validation is None else accuracies(test, best), by_l2)


def accuracy(fit: Regression, examples: tuple[np.ndarray, np.ndarray], l2: float) -> float:
    """Share of examples (features, labels) that get the right class."""
    features, labels = examples
    return float(np.mean(fit.scores(features, l2).argmax(axis=1) == labels))
