"""Reads of damaged checkpoints leave half-done coroutines of Orbax, which Python reports later."""

import pytest

from tests.training import processes


def pytest_configure(config):
    for what in ("<coroutine object _read_array_index_and_device_put", "None"):
        config.addinivalue_line(
            "filterwarnings",
            f"ignore:Exception ignored in. {what}:pytest.PytestUnraisableExceptionWarning",
        )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a whole run that compiles everything itself."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    processes.train(workdir, cache=False)
    return workdir
