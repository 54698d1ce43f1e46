"""How well features tell classes apart without any training: weighted nearest neighbours.

Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
section 3.4; the settings are those of DINO (Caron et al. 2021, section 4.1): each image of the
evaluation split takes the votes of the k images of the training split whose features are most
similar, cosine similarity s counting exp(s / temperature).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from vit_jax import data
from vit_jax.errors import UserError
from vit_jax.objectives.losses import top_k_correct
from vit_jax.training import classes, distributed
from vit_jax.training.experiment import Experiment
from vit_jax.training.init_from import initial_state
from vit_jax.training.resolve import check, resolve
from vit_jax.training.step import Normalize

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
BANK_ROWS = 2**16  # features of the training split that are compared at once
QUERY_ROWS = 2**10


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
    check(config)
    if config.init_from is None:
        raise UserError("config.init_from is None: set it to the model whose features are compared")
    distributed.initialize(config.distributed)
    train, test = (
        data.open_source(config.data.source, split, config.data.data_dir)
        for split in (config.data.train_split, config.data.eval_split)
    )
    classes.check_same("the evaluation split", test.class_names, "the training", train.class_names)
    _check(neighbours, temperature, len(train))
    experiment = Experiment(resolve(config, len(train), train.num_classes))
    say = report if jax.process_index() == 0 else lambda _: None
    with experiment.activate():
        params = _parameters(experiment, say)
        apply = _features(experiment.module, experiment.normalize, experiment.replicated)
        bank, labels = gather(experiment, train, apply, params, config.data.train_split)
        queries, right = gather(experiment, test, apply, params, config.data.eval_split)
    results = accuracies(bank, labels, queries, right, train.num_classes, neighbours, temperature)
    text = ", ".join(f"{k} neighbours {100 * results[f'knn_{k}']:.2f} %" for k in neighbours)
    say(f"{len(queries):,} of {config.data.eval_split} by {len(bank):,} of the training: {text}")
    return results


def _check(neighbours: Sequence[int], temperature: float, examples: int) -> None:
    for k in neighbours:
        if not 1 <= k <= examples:
            raise UserError(f"{k} neighbours, of {examples} examples: expected 1 to {examples}")
    if not temperature > 0:
        raise UserError(f"temperature is {temperature}: expected more than 0")


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


def accuracies(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    right: np.ndarray,
    num_classes: int,
    neighbours: Sequence[int],
    temperature: float,
) -> dict[str, float]:
    """Share of queries that get the right class, by "knn_K".

    Args:
      bank: (n, d), of length 1.
      labels: (n,).
      queries: (m, d), of length 1.
      right: (m,), their classes.
      num_classes: how many there are.
      neighbours: numbers of votes.
      temperature: of the votes.
    """
    correct = dict.fromkeys(neighbours, 0.0)
    for start in range(0, len(queries), QUERY_ROWS):
        part = slice(start, start + QUERY_ROWS)
        similarity, found = _nearest(bank, labels, queries[part], max(neighbours))
        for k in neighbours:
            votes = _votes(similarity[:, :k], found[:, :k], num_classes, temperature)
            correct[k] += float(top_k_correct(votes, jnp.asarray(right[part]), 1).sum())
    return {f"knn_{k}": total / len(queries) for k, total in correct.items()}


def _nearest(
    bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int
) -> tuple[jax.Array, jax.Array]:
    """Similarities and labels of the k nearest, `(m, k)` each, the nearest first."""
    similarity = jnp.full((len(queries), 0), -jnp.inf, queries.dtype)
    found = jnp.zeros((len(queries), 0), jnp.int32)
    for start in range(0, len(bank), BANK_ROWS):
        part = slice(start, start + BANK_ROWS)
        similarity, found = _merged(similarity, found, queries, bank[part], labels[part], k)
    return similarity, found


@functools.partial(jax.jit, static_argnames="k")
def _merged(
    similarity: jax.Array,
    found: jax.Array,
    queries: jax.Array,
    bank: jax.Array,
    labels: jax.Array,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """The k nearest of those found so far and of a part of the bank."""
    new = jnp.einsum("md,nd->mn", queries, bank, precision="highest")
    similarity = jnp.concatenate([similarity, new], axis=1)
    found = jnp.concatenate([found, jnp.broadcast_to(labels, new.shape)], axis=1)
    similarity, index = jax.lax.top_k(similarity, min(k, similarity.shape[1]))
    return similarity, jnp.take_along_axis(found, index, axis=1)


@functools.partial(jax.jit, static_argnames="num_classes")
def _votes(
    similarity: jax.Array, labels: jax.Array, num_classes: int, temperature: float
) -> jax.Array:
    """What each class gets, `(m, num_classes)`; relative to the nearest, so that none overflows."""
    weight = jnp.exp((similarity - similarity[:, :1]) / temperature)
    rows = jnp.arange(len(labels))[:, None]
    votes = jnp.zeros((len(labels), num_classes), similarity.dtype)
    return votes.at[rows, labels].add(weight)
