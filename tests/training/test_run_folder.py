import pytest

from vit_jax.training import run_folder
from vit_jax.training.config import base_config


def test_a_url_is_no_workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"'gs://bucket/run' is a URL, expected a path"):
        run_folder.claim("gs://bucket/run", base_config())
    assert not list(tmp_path.iterdir())
