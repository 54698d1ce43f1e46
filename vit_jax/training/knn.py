"""Nearest neighbours in the features of a recipe's model, on its data and mesh.

`vit_jax.evaluation.neighbours` has the classifier and its source.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from vit_jax import data
from vit_jax.errors import UserError
from vit_jax.evaluation.neighbours import NEIGHBOURS, TEMPERATURE, accuracies, check
from vit_jax.training import classes, distributed
from vit_jax.training import resolve as resolution
from vit_jax.training.experiment import Experiment
from vit_jax.training.init_from import initial_state
from vit_jax.training.step import Normalize


def evaluate_knn(
    config: ConfigDict,
    neighbours: Sequence[int] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Classifies the evaluation split of `config.data` by its training split, without training.

    The model is `config.model` with the parameters of `config.init_from`; its features are what its
    head sees. Both splits are prepared by `config.data.eval_transform`.

    Args:
      config: any configuration that could start a training from that model.
      neighbours: numbers of votes, k.
      temperature: of the votes; less gives the nearest more weight.
      report: is given the sentences a user should read.

    Returns:
      The share of images that get the right class, by "knn_K" for each k.

    Raises:
      UserError: no `init_from`, a number out of range, or what `train` raises.
    """
    resolution.check(config)
    if config.init_from is None:
        raise UserError("config.init_from is None: set it to the model whose features are compared")
    distributed.initialize(config.distributed)
    train, test = (
        data.open_source(config.data.source, split, config.data.data_dir)
        for split in (config.data.train_split, config.data.eval_split)
    )
    classes.check_same("the evaluation split", test.class_names, "the training", train.class_names)
    check(neighbours, temperature, len(train))
    experiment = Experiment(resolution.resolve(config, len(train), train.num_classes))
    say = report if jax.process_index() == 0 else lambda _: None
    with experiment.activate():
        params = _parameters(experiment, say)
        apply = _features(experiment.module, experiment.normalize, experiment.replicated)
        bank, labels = gather(experiment, train, apply, params, config.data.train_split)
        queries, right = gather(experiment, test, apply, params, config.data.eval_split)
    results = accuracies(bank, labels, queries, right, train.num_classes, neighbours, temperature)
    what = f"{len(queries):,} of {config.data.eval_split} by {len(bank):,} of the training:"
    shares = (f"  {k:4d} neighbours {100 * results[f'knn_{k}']:6.2f} %" for k in neighbours)
    say("\n".join([what, *shares]))
    return results


def _parameters(experiment: Experiment, say: Callable[[str], None]) -> Any:
    """The module's own, as `config.init_from` gives them."""
    state = initial_state(experiment, None, say)
    objective = experiment.objective
    return objective.module_params(objective.all_params(state.params, state.extra))


def _features(module: Any, normalize: Normalize, replicated: Any) -> Callable[..., Any]:
    """(params, batch) -> features of length 1 `(b, d)`, labels and whether each row is real."""
    encoder = module.clone(num_classes=0)

    def features(params: Any, batch: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        found = encoder.apply({"params": params}, normalize(batch)["image"])
        if found.ndim != 2:
            raise UserError(
                f"features are {found.shape[1:]} for each image, expected one vector: choose "
                "another config.model.global_pool"
            )
        found = found.astype(jnp.promote_types(found.dtype, jnp.float32))
        found = found / jnp.linalg.norm(found, axis=-1, keepdims=True)
        return found, batch["label"], batch["mask"] > 0

    return jax.jit(features, out_shardings=replicated)


def gather(
    experiment: Experiment,
    source: data.Source,
    apply: Callable[..., Any],
    params: Any,
    name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Features `(n, d)` and labels `(n,)` of all examples of a split, on every host.

    Args:
      experiment: of the model.
      source: the split.
      apply: (params, batch) -> (features, labels, which rows are real).
      params: of the model.
      name: of the split, for the progress bar.
    """
    rows = []
    with (
        experiment.eval_batches(source) as batches,
        tqdm(total=len(source), desc=f"features of {name}", disable=None, leave=False) as bar,
    ):
        for batch in batches:
            features, labels, real = jax.device_get(apply(params, batch))
            rows.append((features[real], labels[real]))
            bar.update(int(real.sum()))
    features, labels = zip(*rows)
    return np.concatenate(features), np.concatenate(labels)
