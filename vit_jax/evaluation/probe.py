"""What frozen features are worth: classifiers that need no training of the model.

| method | what |
|---|---|
| "knn" | nearest neighbours, weighted and plain, see `neighbours` |
| "few-shot" | linear regression on a few examples a class, in closed form, see `few_shot` |
| "linear" | logistic regression on all examples, see `logistic` |
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import naming, ranges
from vit_jax.convert.folder import Model
from vit_jax.data.sources import Source
from vit_jax.errors import UserError
from vit_jax.evaluation import few_shot, logistic
from vit_jax.evaluation import neighbours as nearest
from vit_jax.evaluation.examples import open_examples, over, renamed
from vit_jax.evaluation.few_shot import FewShot
from vit_jax.inference import store
from vit_jax.inference.features import Features, available, extractor, seeing
from vit_jax.inference.forward import Forward
from vit_jax.inference.images import Place
from vit_jax.inference.predict import opened, report_skipped

METHODS = ("knn", "few-shot", "linear")
RANGES = {
    **dict.fromkeys(("neighbours", "shots"), ranges.or_none(ranges.several(ranges.whole(1)))),
    "seeds": ranges.whole(1),
    "temperature": ranges.POSITIVE,
    **dict.fromkeys(("shot_l2", "l2"), ranges.filled(ranges.POSITIVE)),
}
Examples = tuple[np.ndarray, np.ndarray]  # features (n, d), labels (n,)


@dataclasses.dataclass(frozen=True)
class Choices:
    """How features are judged.

    Attributes:
        methods: of `METHODS`.
        neighbours: votes of nearest neighbours; None: those of 10, 20, 100 and 200 that there are
            examples for.
        temperature: of weighted nearest neighbours.
        shots: examples a class; None: those of 1, 5, 10 and 25 that each class has.
        seeds: how many choices of these examples.
        shot_l2: of few-shot regression; of several the best on validation examples is taken.
        l2: of the linear probe; of several the best on validation examples is taken.
        validation: share of the training examples that are kept to choose by.
    """

    methods: Sequence[str] = METHODS
    neighbours: Sequence[int] | None = None
    temperature: float = nearest.TEMPERATURE
    shots: Sequence[int] | None = None
    seeds: int = few_shot.SEEDS
    shot_l2: Sequence[float] = (few_shot.L2,)
    l2: Sequence[float] = logistic.L2
    validation: float = logistic.VALIDATION

    def check(self) -> None:
        """Raises UserError for a number that is out of range, whatever the features are."""
        naming.check_known("method", self.methods, METHODS)
        given = {name: getattr(self, name) for name in RANGES}
        given |= {name: tuple(x) for name, x in given.items() if isinstance(x, Sequence)}
        ranges.check(given, RANGES)
        logistic.check_share(self.validation)


PLAIN = Choices()


@dataclasses.dataclass(frozen=True)
class Results:
    """What features are worth; of a method that was not asked for, nothing.

    Attributes:
        features: length of one.
        classes: how many.
        train: training examples.
        test: examples that were classified.
        knn: accuracy of weighted nearest neighbours, by their number.
        plain_knn: the same with votes of one each.
        few_shot: by the number of examples a class.
        linear: of all training examples; None where it was not asked for.
    """

    features: int
    classes: int
    train: int
    test: int
    knn: dict[int, float] = dataclasses.field(default_factory=dict)
    plain_knn: dict[int, float] = dataclasses.field(default_factory=dict)
    few_shot: dict[int, FewShot] = dataclasses.field(default_factory=dict)
    linear: logistic.Probe | None = None

    def as_json(self) -> dict[str, Any]:
        """The same as JSON has it, without the probe's weights."""
        found: dict[str, Any] = {
            name: getattr(self, name) for name in ("features", "classes", "train", "test")
        }
        if self.knn:
            found |= {"knn": self.knn, "plain_knn": self.plain_knn}
        if self.few_shot:
            found["few_shot"] = {
                shots: {
                    "mean": x.mean,
                    "deviation": x.deviation,
                    "seeds": list(x.accuracies),
                    "l2": x.l2,
                    "by_l2": x.by_l2,
                }
                for shots, x in self.few_shot.items()
            }
        if self.linear is not None:
            names = ("accuracy", "l2", "validation", "converged")
            found["linear"] = {name: getattr(self.linear, name) for name in names}
        return found

    def as_text(self) -> str:
        """The same as a table of per cent."""
        lines = [
            f"{self.test:,} test examples by {self.train:,} of training, {self.classes} classes, "
            f"features of {self.features} numbers"
        ]
        for k, share in self.knn.items():
            lines.append(_line(f"{k} nearest", share, f"plain votes {_percent(self.plain_knn[k])}"))
        for shots, x in self.few_shot.items():
            spread = f"+- {100 * x.deviation:.2f} over {len(x.accuracies)} seeds, l2 {x.l2:g}"
            lines.append(_line(f"{shots} shots", x.mean, spread))
        if self.linear is not None:
            text = f"l2 {self.linear.l2:g}" + ("" if self.linear.converged else ", NOT CONVERGED")
            lines.append(_line("linear probe", self.linear.accuracy, text))
        return "\n".join(lines)


def _line(name: str, share: float, more: str) -> str:
    return f"{name:14}{_percent(share):>9}   {more}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def probe(
    source: Model | str | os.PathLike[str] | None = None,
    data: Place | None = None,
    *,
    train: Place | Features | None = None,
    test: Place | Features | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    data_dir: str | None = None,
    kind: str | None = None,
    choices: Choices = PLAIN,
    batch_size: int = 32,
    skip_unreadable: bool = False,
    report: Callable[[str], None] = print,
    **options: Any,
) -> Results:
    """Says what a model's features are worth, without training it.

        vit_jax.probe("runs/mae_digits").linear.accuracy
        vit_jax.probe("hf-hub:facebook/dinov2-small", "folder:flowers")
        vit_jax.probe(train="train.npz", test="test.npz")  # of vit-jax features

    Args:
        source: a model from `vit_jax.open_model`, or what that opens; None where both parts are
            features already.
        data: of both parts, see `evaluation.examples`; a run has its own.
        train: training examples, in the place of `data`: a folder of classes, a file that
            `vit-jax features` wrote, or `Features`.
        test: the same of the examples to classify.
        train_split: of `data`.
        test_split: of `data`.
        data_dir: where prepared TFDS data sets are.
        kind: of features, see `inference.features`; None: the first of "pooled", "cls" and "mean"
            that the model has.
        choices: methods and their numbers.
        batch_size: pictures that the device works on at once; of no effect on the results.
        skip_unreadable: leaves out, and reports, pictures that cannot be decoded.
        report: is given the sentences a user should read.
        **options: of `vit_jax.open_model`, where `source` is what that opens.

    Raises:
        UserError: data is missing or contradicts itself, a number is out of range, or the model has
            no such features; see `open_model`.
    """
    choices.check()
    _check_given(data, train, test)
    found = {"train": _read(train), "test": _read(test)}
    pictures = {
        "train": (train or data, train_split, "train_split"),
        "test": (test or data, test_split, "eval_split"),
    }
    missing = {name: place for name, place in pictures.items() if found[name] is None}
    if missing:
        if source is None:
            raise UserError(f"the {next(iter(missing))} examples are no features: give a model too")
        examples = {
            name: open_examples(source, place, split, data_dir, default)
            for name, (place, split, default) in missing.items()
        }
        forward = _extractor(opened(source, report, options), kind, batch_size, report)
        for name, of_part in examples.items():
            found[name] = _extracted(forward, of_part, name, skip_unreadable)
            report_skipped(forward, report)
    elif source is not None or options or kind is not None:
        raise UserError("both parts are features already: leave out the model and its options")
    return judge(found["train"], found["test"], choices, report)


def _check_given(data: Place | None, train: Any, test: Any) -> None:
    """Raises UserError unless there is data for both parts, or for none, as of a run."""
    if (train is None) != (test is None):
        raise UserError("training and test examples come in pairs: give both, or data instead")
    if train is not None and data is not None:
        raise UserError(f"data {data} and training and test examples are given: give one of these")


def _read(part: Place | Features | None) -> Features | None:
    """Features that are there already; None for pictures."""
    if part is None or isinstance(part, Features):
        return part
    return store.read(part) if os.fspath(part).endswith(tuple(store.READERS)) else None


def _extractor(
    model: Model, kind: str | None, batch_size: int, report: Callable[[str], None]
) -> Forward:
    if kind is None:
        kind = next(x for x in ("pooled", "cls", "mean") if x in available(seeing(model).module))
        report(f"features: {kind}")
    return extractor(model, kind, batch_size)


def _extracted(forward: Forward, examples: Source, name: str, skip_unreadable: bool) -> Features:
    """Features of all examples of a source."""
    rows = list(over(forward, examples, f"features of {name}", skip_unreadable))
    shown = [x for row in rows for x in row.paths]
    return Features(
        tuple(Path(x.name) for x in shown),
        np.concatenate([row.values for row in rows]),
        np.asarray([x.label for x in shown], np.int64),
        examples.class_names,
    )


def judge(
    train: Features,
    test: Features,
    choices: Choices = PLAIN,
    report: Callable[[str], None] = print,
) -> Results:
    """Says what features are worth.

    Args:
        train: features (n, d), with labels.
        test: the same of other examples, of the same classes or some of them.
        choices: methods and their numbers.
        report: is given the sentences a user should read.

    Raises:
        UserError: features without labels, of several vectors each, or of different lengths; or a
            number is out of range.
    """
    fit, judged = _checked(train, test)
    classes = len(train.class_names)
    counts = dict(classes=classes, train=len(fit[1]), test=len(judged[1]))
    parts: dict[str, Any] = {}
    if "knn" in choices.methods:
        parts["knn"], parts["plain_knn"] = _neighbours(fit, judged, classes, choices, report)
    if "few-shot" in choices.methods:
        parts["few_shot"] = _few_shot(fit, judged, classes, choices, report)
    if "linear" in choices.methods:
        given = dict(l2=choices.l2, validation=choices.validation)
        parts["linear"] = logistic.linear_probe(fit, judged, classes, **given)
    return Results(fit[0].shape[1], **counts, **parts)


def _checked(train: Features, test: Features) -> tuple[Examples, Examples]:
    """Features and labels of both parts, labels by the classes of the first."""
    for name, part in (("training", train), ("test", test)):
        if part.labels is None:
            raise UserError(
                f"the {name} features have no labels: they are of pictures that do not lie in a "
                "folder a class"
            )
        if part.features.ndim != 2:
            raise UserError(
                f"the {name} features are {part.features.shape[1:]} for each picture; expected one "
                "vector: choose others (--which cls or mean)"
            )
    lengths = [part.features.shape[1] for part in (train, test)]
    if lengths[0] != lengths[1]:
        raise UserError(
            f"features of {lengths[0]} numbers in training and of {lengths[1]} in the test: these "
            "are of different models"
        )
    labels = renamed(test.labels, test.class_names, train.class_names, "the test")
    return (train.features, np.asarray(train.labels)), (test.features, labels)


def _neighbours(
    train: Examples,
    test: Examples,
    classes: int,
    choices: Choices,
    report: Callable[[str], None],
) -> tuple[dict[int, float], dict[int, float]]:
    """Accuracies by number of votes: weighted and plain."""
    most, counts = len(train[1]), choices.neighbours
    if counts is None:
        counts = _fitting(nearest.NEIGHBOURS, most, "nearest neighbours", report)
    nearest.check(counts, choices.temperature, most)
    (bank, labels), (queries, right) = train, test
    given = (_unit(bank), labels, _unit(queries), right, classes, counts)
    weighted, plain = nearest.each_accuracies(*given, (choices.temperature, None))
    return weighted, plain


def _unit(features: np.ndarray) -> np.ndarray:
    """Of length 1; a vector of zeros stays as it is."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1)


def _few_shot(
    train: Examples,
    test: Examples,
    classes: int,
    choices: Choices,
    report: Callable[[str], None],
) -> dict[int, FewShot]:
    """Results by examples a class."""
    validation = None
    if len(choices.shot_l2) > 1:
        rest, held = logistic.split(train[1], choices.validation)
        validation = (train[0][held], train[1][held])
        train = (train[0][rest], train[1][rest])
    shots = choices.shots
    if shots is None:
        rarest = int(np.bincount(train[1], minlength=classes).min())
        shots = _fitting(few_shot.SHOTS, rarest, "shots", report)
    given = dict(l2=choices.shot_l2, seeds=choices.seeds, validation=validation)
    return {k: few_shot.few_shot(train, test, classes, k, **given) for k in shots}


def _fitting(
    usual: Sequence[int], most: int, what: str, report: Callable[[str], None]
) -> list[int]:
    """Those of the usual numbers that there are examples for; says which are left out."""
    left_out = [str(x) for x in usual if x > most]
    if left_out:
        report(f"left out: {', '.join(left_out)} {what}, as there are {most} examples")
    return [x for x in usual if x <= most]
