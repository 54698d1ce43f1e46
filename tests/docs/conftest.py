"""A place to do what a page says."""

import sys

import pytest

from tests.docs import markdown
from vit_jax import objectives
from vit_jax.models import registry


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The current folder is one with `configs`, from which Python files are imported.

    Models and objectives that they register, and the modules, are forgotten afterwards.
    """
    (tmp_path / "configs").symlink_to(markdown.ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    known = dict(objectives.OBJECTIVES)
    yield tmp_path
    objectives.OBJECTIVES.clear()
    objectives.OBJECTIVES.update(known)
    here = str(tmp_path)
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(here):
            del sys.modules[name]
