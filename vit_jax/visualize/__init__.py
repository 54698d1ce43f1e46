"""Functions from arrays to pictures, and to figures of matplotlib.

`draw` alone touches files; it and `kinds` are not imported here, as objectives import this.
"""

from vit_jax.visualize.attention import (
    AttentionMap,
    attention_figure,
    attention_map,
    on_grid,
    queries,
)
from vit_jax.visualize.components import (
    FeatureColors,
    feature_colors,
    features_figure,
    principal_components,
)
from vit_jax.visualize.confusion import confusion_figure
from vit_jax.visualize.curves import curves_figure
from vit_jax.visualize.differences import differences_figure
from vit_jax.visualize.distance import attention_distance, distance_figure, prefix_share
from vit_jax.visualize.filters import filters_figure, patch_filters, principal_filters
from vit_jax.visualize.pictures import pictures_figure
from vit_jax.visualize.positions import position_table, positions_figure, similarity
from vit_jax.visualize.reconstruction import reconstruction_figure, reconstructions, to_pixels
from vit_jax.visualize.reliability import reliability_figure
from vit_jax.visualize.rollout import rollout, rollout_figure
from vit_jax.visualize.seen import intermediates, plain_encoder, pooling_weights

__all__ = [
    "AttentionMap",
    "FeatureColors",
    "attention_distance",
    "attention_figure",
    "attention_map",
    "confusion_figure",
    "curves_figure",
    "differences_figure",
    "distance_figure",
    "feature_colors",
    "features_figure",
    "filters_figure",
    "intermediates",
    "on_grid",
    "patch_filters",
    "pictures_figure",
    "plain_encoder",
    "pooling_weights",
    "position_table",
    "positions_figure",
    "prefix_share",
    "principal_components",
    "principal_filters",
    "queries",
    "reconstruction_figure",
    "reconstructions",
    "reliability_figure",
    "rollout",
    "rollout_figure",
    "similarity",
    "to_pixels",
]
