"""How well features tell classes apart without any training: nearest neighbours.

Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
section 3.4; the settings are those of DINO (Caron et al. 2021, section 4.1): each query takes the
votes of the k examples whose features are most similar, cosine similarity s counting
exp(s / temperature). Plain votes count one each.

Among examples of equal similarity those that come first are nearer; among classes of equal votes
the lowest wins.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import UserError
from vit_jax.objectives.losses import top_k_correct

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
BANK_ROWS = 2**16  # examples that are compared at once
QUERY_ROWS = 2**10


def check(neighbours: Sequence[int], temperature: float, examples: int) -> None:
    """Raises UserError for a number of votes that there are not, or a temperature out of range."""
    for k in neighbours:
        if not 1 <= k <= examples:
            raise UserError(f"{k} neighbours, of {examples} examples: expected 1 to {examples}")
    if not temperature > 0:
        raise UserError(f"temperature is {temperature}: expected more than 0")


def accuracies(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    right: np.ndarray,
    num_classes: int,
    neighbours: Sequence[int],
    temperature: float | None,
) -> dict[str, float]:
    """Share of queries that get the right class, by "knn_K".

    Args:
      bank: (n, d), of length 1.
      labels: (n,).
      queries: (m, d), of length 1.
      right: (m,), their classes.
      num_classes: how many there are.
      neighbours: numbers of votes.
      temperature: of the votes; None: each counts one.
    """
    given = (bank, labels, queries, right, num_classes, neighbours)
    (found,) = each_accuracies(*given, (temperature,))
    return {f"knn_{k}": share for k, share in found.items()}


def each_accuracies(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    right: np.ndarray,
    num_classes: int,
    neighbours: Sequence[int],
    temperatures: Sequence[float | None],
) -> list[dict[int, float]]:
    """Share of queries that get the right class, by number of votes, for each temperature.

    The neighbours are looked for once. Arguments are those of `accuracies`.
    """
    correct = [dict.fromkeys(neighbours, 0.0) for _ in temperatures]
    for start in range(0, len(queries), QUERY_ROWS):
        part = slice(start, start + QUERY_ROWS)
        similarity, found = _nearest(bank, labels, queries[part], max(neighbours))
        for temperature, counts in zip(temperatures, correct):
            for k in neighbours:
                votes = _votes(similarity[:, :k], found[:, :k], num_classes, temperature)
                counts[k] += float(top_k_correct(votes, jnp.asarray(right[part]), 1).sum())
    return [{k: total / len(queries) for k, total in counts.items()} for counts in correct]


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
    similarity: jax.Array, labels: jax.Array, num_classes: int, temperature: float | None
) -> jax.Array:
    """What each class gets, `(m, num_classes)`; relative to the nearest, so that none overflows."""
    if temperature is None:
        weight = jnp.ones_like(similarity)
    else:
        weight = jnp.exp((similarity - similarity[:, :1]) / temperature)
    rows = jnp.arange(len(labels))[:, None]
    votes = jnp.zeros((len(labels), num_classes), similarity.dtype)
    return votes.at[rows, labels].add(weight)
