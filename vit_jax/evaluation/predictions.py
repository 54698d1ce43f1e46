"""A model's logits for labelled pictures, which one pass over the data gives and a file keeps.

The file is `.npz`: `logits` (n, classes), `labels` (n,), `class_names`, `names` of the pictures,
and `probabilities`, what makes probabilities of logits.
"""

import dataclasses
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from vit_jax import storage
from vit_jax.convert.folder import Model
from vit_jax.convert.writers import beside
from vit_jax.errors import UserError
from vit_jax.evaluation.examples import open_examples, over, renamed
from vit_jax.inference.forward import Forward
from vit_jax.inference.images import Place
from vit_jax.inference.predict import check_classifies, opened, report_skipped

KEYS = ("logits", "labels", "class_names", "names", "probabilities")
PROBABILITIES = {
    "softmax": lambda logits: special.softmax(logits, axis=1),
    "sigmoid": special.expit,
}


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model said of labelled pictures.

    Attributes:
        logits: (n, classes), at least float32.
        labels: (n,) numbers of the right outputs.
        class_names: of the outputs; numbers as text where nobody knows names.
        names: of the pictures.
        probabilities: what makes them of logits, "softmax" or "sigmoid".
    """

    logits: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    probabilities: str = "softmax"

    @property
    def predicted(self) -> np.ndarray:
        """(n,) the most probable class; of equals the lowest."""
        return self.logits.argmax(axis=1)

    def part(self, indices: np.ndarray) -> "Predictions":
        """Those of some pictures."""
        names = tuple(self.names[i] for i in indices)
        rows = dict(logits=self.logits[indices], labels=self.labels[indices], names=names)
        return dataclasses.replace(self, **rows)

    def shares(self) -> np.ndarray:
        """Probabilities (n, classes), float64."""
        return PROBABILITIES[self.probabilities](self.logits.astype(np.float64))


def classify(
    source: Model | str | os.PathLike[str],
    data: Place | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    *,
    in_order: bool = False,
    output: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    skip_unreadable: bool = False,
    report: Callable[[str], None] = print,
    **options: Any,
) -> Predictions:
    """Lets a model classify labelled pictures; or reads what it said before.

    Args:
        source: a model from `vit_jax.open_model`, or what that opens; or a file that `output` was.
        data: see `evaluation.examples`; a run has its own.
        split: of the data; None: the one to evaluate on.
        data_dir: where prepared TFDS data sets are.
        in_order: the data's classes are the model's outputs in their order, whatever either calls
            them.
        output: a new `.npz` file; None writes nothing.
        batch_size: pictures that the device works on at once; of no effect on the results.
        skip_unreadable: leaves out, and reports, pictures that cannot be decoded.
        report: is given the sentences a user should read.
        **options: of `vit_jax.open_model`, where `source` is what that opens.

    Raises:
        UserError: a model without a classifier, or whose classes are not those of the data; no
            data; see `open_model`.
    """
    if is_predictions(source):
        if data is not None or split is not None or output is not None:
            raise UserError(f"{source} holds predictions: leave out data, and where to keep them")
        return load(source)
    if output is not None:
        _check_free(Path(output))
    examples = open_examples(source, data, split, data_dir, "eval_split")
    model = opened(source, report, options)
    check_classifies(model)
    outputs = _outputs(examples.class_names, model, in_order)
    forward = Forward(model, _logits, batch_size)
    rows = list(over(forward, examples, "predictions", skip_unreadable))
    report_skipped(forward, report)
    shown = [x for row in rows for x in row.paths]
    found = Predictions(
        np.concatenate([row.values for row in rows]),
        outputs[[x.label for x in shown]],
        model.class_names or _names(examples.class_names, outputs, model.module.num_classes),
        tuple(x.name for x in shown),
        model.probabilities,
    )
    if output is not None:
        save(output, found)
        report(f"predictions for {len(shown):,} pictures: {output}")
    return found


def _logits(module: Any, variables: Any, images: jax.Array) -> jax.Array:
    logits = module.apply(variables, images)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _outputs(names: tuple[str, ...], model: Model, in_order: bool) -> np.ndarray:
    """The output of the model that each class of the data is.

    Raises:
        UserError: some class is none; or there is no telling.
    """
    count = model.module.num_classes
    if in_order or model.class_names is None:
        if len(names) > count or (len(names) < count and not in_order):
            first = ". If they are the model's first, say so: --classes-in-order"
            raise UserError(
                f"the data has {len(names)} classes and the model {count} outputs, which nobody "
                f"names: expected as many of both{first if len(names) < count else ''}"
            )
        return np.arange(len(names))
    try:
        return renamed(np.arange(len(names)), names, model.class_names, "the data")
    except UserError as error:
        raise UserError(
            f"{error}. If the data's classes are the model's in another spelling and the same "
            "order, say so: --classes-in-order"
        ) from error


def _names(names: tuple[str, ...], outputs: np.ndarray, count: int) -> tuple[str, ...]:
    """Names of all outputs, where the model has none: those of the data."""
    found = [str(i) for i in range(count)]
    for output, name in zip(outputs, names):
        found[output] = name
    return tuple(found)


def is_predictions(source: Any) -> bool:
    """Whether something is a file that `save` wrote."""
    if not isinstance(source, str | os.PathLike) or not os.fspath(source).endswith(".npz"):
        return False
    try:
        with zipfile.ZipFile(source) as archive:
            return {f"{key}.npy" for key in KEYS} == set(archive.namelist())
    except (OSError, zipfile.BadZipFile):  # said by whoever opens it as a model
        return False


def save(output: str | os.PathLike[str], found: Predictions) -> None:
    """Writes predictions.

    Raises:
        UserError: the file is there, has another ending than `.npz`, or cannot be written.
    """
    path = Path(output)
    _check_free(path)
    arrays = {key: np.asarray(getattr(found, key)) for key in KEYS}
    with storage.writing(path), beside(path) as file:
        np.savez(file, **arrays)


def _check_free(path: Path) -> None:
    if path.suffix != ".npz":
        raise UserError(f"{path} ends in {path.suffix!r}: expected .npz")
    if path.exists():
        raise UserError(f"{path} is already there: choose another file, or remove it")


def load(path: str | os.PathLike[str]) -> Predictions:
    """Reads what `save` wrote.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            logits, labels, classes, names, probabilities = (arrays[key] for key in KEYS)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return Predictions(
        logits, labels, tuple(classes.tolist()), tuple(names.tolist()), str(probabilities)
    )
