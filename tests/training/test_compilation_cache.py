"""Where compiled programs are kept, and that a run which finds them is the same run."""

import jax
import pytest

from tests.training import processes
from vit_jax import storage
from vit_jax.errors import UserError
from vit_jax.training import compilation_cache, resolve
from vit_jax.training.config import base_config

OPTIONS = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_enable_xla_caches",
)


@pytest.fixture(autouse=True)
def fresh():
    """JAX's options as they are in a process that has just begun."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def folder_of(place):
    """Checks that `place()` is a folder below `place` that says what it is, and returns it."""
    found = storage.path(compilation_cache.place())
    assert found.parent == storage.path(place) and found.name.startswith("cpu_")
    assert "may be deleted" in (found / "ABOUT.txt").read_text()
    return found


def test_by_default_it_is_beside_the_workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compilation_cache.enable(None, storage.path("runs/digits"))
    folder_of(tmp_path / "runs" / ".jax_cache")
    compilation_cache.enable(None, tmp_path / "elsewhere" / "digits")  # another run of this process
    folder_of(tmp_path / "runs" / ".jax_cache")


def test_the_folder_that_is_chosen(tmp_path):
    compilation_cache.enable(str(tmp_path / "kept"), tmp_path / "run")
    folder_of(tmp_path / "kept")


def test_in_an_object_store(place):
    compilation_cache.enable(None, storage.path(place) / "run")
    folder_of(f"{place}/.jax_cache")
    assert not jax.config.jax_persistent_cache_enable_xla_caches
    jax.config.update("jax_compilation_cache_dir", None)
    bucket = storage.path(place).parent
    compilation_cache.enable(None, bucket)
    folder_of(bucket / ".jax_cache")


def test_what_the_user_has_set_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    compilation_cache.enable(None, tmp_path / "run")
    assert compilation_cache.place() == str(tmp_path / "mine")
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.enable(str(tmp_path / "kept"), tmp_path / "run")
    assert compilation_cache.place() == "off"
    assert list(tmp_path.iterdir()) == []


def test_off(tmp_path):
    compilation_cache.enable("off", tmp_path / "run")
    assert compilation_cache.place() == "off"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chosen", ["file/cache", "hdfs://host/cache"])
def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path, monkeypatch, chosen):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.warns(UserWarning, match="compiled programs are not kept: .*(file|hdfs)"):
        compilation_cache.enable(chosen, tmp_path / "run")
    assert compilation_cache.place() == "off"


def test_a_store_that_fails_in_its_own_way_is_none_either(place, tmp_path, monkeypatch):
    """As where there are no credentials: gcsfs's and s3fs's errors are no OSError."""

    def refuse(file, text):
        raise RuntimeError("Invalid Credentials, 401\nrequest 12")

    monkeypatch.setattr(storage, "replace_text", refuse)
    with pytest.warns(UserWarning, match="programs are not kept: Invalid Credentials, 401$"):
        compilation_cache.enable(place, tmp_path / "run")
    assert compilation_cache.place() == "off"


@pytest.mark.parametrize("wrong", ["", 3, False])
def test_values_that_it_may_not_have(wrong):
    config = base_config()
    with config.ignore_type():
        config.compilation_cache = wrong
    config.total_steps = 1
    with pytest.raises(UserError, match=r"compilation_cache is .*; expected a folder, or 'off'"):
        resolve.check(config)


@pytest.mark.slow
def test_a_second_run_finds_the_programs_of_the_first(tmp_path):
    keep = {"JAX_ENABLE_COMPILATION_CACHE": "true", "cache": False}
    processes.train(tmp_path / "none", "compilation_cache=off", **keep)
    assert not (tmp_path / ".jax_cache").exists()
    kept = []
    for run in ("first", "second"):
        assert f"cache   {tmp_path}/.jax_cache/cpu_" in processes.train(tmp_path / run, **keep)
        kept.append(sorted(path.name for path in (tmp_path / ".jax_cache").rglob("*-cache")))
    assert kept[0] and kept[0] == kept[1]
    expected = processes.arrays(tmp_path / "none", 12)
    for run in ("first", "second"):
        processes.assert_same_bits(processes.arrays(tmp_path / run, 12), expected)
