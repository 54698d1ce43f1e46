from pathlib import Path

import pytest

from vit_jax.errors import UserError
from vit_jax.training import run_folder
from vit_jax.training.config import base_config


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has saved steps 3 and 6."""
    run_folder.claim(tmp_path, base_config())
    for step in (3, 6):
        (run_folder.checkpoints_dir(tmp_path) / str(step)).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    "url, message",
    [
        ("hdfs://host/run", "'hdfs://host/run' is of the scheme 'hdfs'; expected a path of a file"),
        ("gs:///run", "'gs:///run' has no bucket; expected gs://BUCKET/"),
        (Path("gs://bucket/run"), "'gs:/bucket/run' has no bucket; .* as text"),
    ],
)
def test_a_url_that_is_no_workdir(tmp_path, monkeypatch, url, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        run_folder.claim(url, base_config())
    assert not list(tmp_path.iterdir())


def test_the_same_configuration_or_another(run):
    same, other = base_config(), base_config()
    other.seed = 1
    run_folder.claim(run, same)
    with pytest.raises(UserError, match="holds a run of another configuration:\n  seed: 0 in the"):
        run_folder.claim(run, other)


def test_checkpoints_without_their_configuration_belong_to_nobody(run):
    (run / "config.json").unlink()
    message = "has checkpoints .of steps 3, 6. but no config.json, .* put it back, or use another"
    with pytest.raises(UserError, match=message):
        run_folder.claim(run, base_config())
    assert not (run / "config.json").exists()


@pytest.mark.parametrize("damaged", [b"", b"{}", b'{"seed": 0,', b"[]", b"\xff\xfe\x00"])
def test_a_configuration_that_cannot_be_read(run, damaged):
    (run / "config.json").write_bytes(damaged)
    for read in (run_folder.read_config, lambda run: run_folder.claim(run, base_config())):
        with pytest.raises(UserError, match=r"config\.json cannot be read: .*; put back what"):
            read(run)
    assert (run / "config.json").read_bytes() == damaged


def test_before_the_first_checkpoint_a_damaged_configuration_is_replaced(tmp_path):
    (tmp_path / "config.json").write_text("{")
    run_folder.claim(tmp_path, base_config())
    assert run_folder.read_config(tmp_path) == base_config()


def test_a_file_is_no_workdir(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for workdir in (file, file / "below"):
        with pytest.raises(UserError, match=r"is no folder that can be written .*; use another"):
            run_folder.claim(workdir, base_config())
        with pytest.raises(UserError, match="no run in"):
            run_folder.read_config(workdir)
    assert file.read_text() == "mine"
