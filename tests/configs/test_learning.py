"""What the small recipes are for: they learn. Shortened, since a whole one takes minutes."""

import pytest

import vit_jax
from tests.docs import markdown


def trained(recipe, workdir, *changes):
    """The accuracy that a recipe reaches with a few changes."""
    config = vit_jax.load_config(markdown.ROOT / "configs" / recipe, changes)
    return vit_jax.train(config, workdir).metrics


@pytest.mark.slow
def test_a_masked_autoencoder_paints_better_than_one_grey(tmp_path):
    """The error of the best single number is the variance of what is masked.

    The whole recipe ends at 0.20 to 0.22, of 0.53.
    """
    short = ("total_epochs=30", "schedule.warmup_epochs=4", "eval_every_epochs=30")
    short += ("checkpoint.every_epochs=None",)
    metrics = trained("mae_digits.py", tmp_path / "mae", *short)
    assert metrics["loss"] < 0.75 * metrics["target_variance"]


@pytest.mark.slow
def test_a_swin_learns_the_digits(tmp_path):
    """The whole recipe ends at 98 %."""
    short = ("total_epochs=20", "schedule.warmup_epochs=3", "eval_every_epochs=20")
    short += ("checkpoint.every_epochs=None",)
    assert trained("swin_digits.py", tmp_path / "swin", *short)["top1"] > 0.9
