import itertools
import os
import shlex

import pytest

from tests.commands import called
from tests.launch.standin import Cloud


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A cloud with nothing in it, whose gcloud is the first on PATH."""
    folder = tmp_path / "cloud"
    cloud = Cloud(folder).set_up()
    monkeypatch.setenv("PATH", f"{folder}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STANDIN", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield cloud
    for name in os.listdir(folder / "vms") if (folder / "vms").exists() else ():
        cloud.erase(name)


@pytest.fixture
def tpu(capfd):
    """Calls `vit-jax tpu ARGUMENTS` in this process; returns exit code, output and errors."""

    def run(*arguments, poll=0.1):
        return called(["tpu", *arguments, f"--poll={poll}"], capfd)

    return run


@pytest.fixture
def printed():
    """The commands in what was printed, as a shell would read them."""

    def read(text):
        words = shlex.split(text, comments=False)
        pairs = enumerate(itertools.pairwise(words))
        starts = [i for i, pair in pairs if pair == ("+", "gcloud")]
        return [words[i + 1 : j] for i, j in zip(starts, [*starts[1:], len(words)])]

    return read
