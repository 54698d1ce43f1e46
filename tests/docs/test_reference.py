"""The reference has every public name, and every package that users import from."""

import pytest

import vit_jax
from tests.docs import markdown

PACKAGES = {
    "models": "vit_jax.models",
    "layers": "vit_jax.models.layers",
    **{
        name: f"vit_jax.{name}"
        for name in (
            "objectives",
            "data",
            "training",
            "convert",
            "inference",
            "visualize",
            "evaluation",
            "measure",
            "serving",
            "deploy",
            "inspect",
            "ahead",
            "launch",
        )
    },
}


def shown(page):
    """What a page of the reference takes from docstrings."""
    lines = markdown.text(f"docs/reference/{page}.md").splitlines()
    return [line.removeprefix("::: ") for line in lines if line.startswith("::: ")]


@pytest.mark.parametrize("name", [name for name in vit_jax.__all__ if name != "__version__"])
def test_every_public_name_is_there(name):
    home = getattr(vit_jax, name)
    assert f"{home.__module__}.{home.__qualname__}" in shown("index")


@pytest.mark.parametrize("page", PACKAGES)
def test_every_package_is_there(page):
    assert shown(page) == [PACKAGES[page]]
