"""Processes that do not find each other say so, soon, and do not hang."""

import time

import pytest

from tests.training import processes
from vit_jax.errors import UserError
from vit_jax.training import distributed
from vit_jax.training.config import base_config

TWO = ["distributed.num_processes=2", "distributed.timeout_seconds=4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "index, coordinator",
    [(1, "127.0.0.1:1"), (0, "127.0.0.1:{port}"), (1, "there-is-none.invalid:1234")],
    ids=["nobody listens", "nobody else comes", "no such host"],
)
def test_processes_that_do_not_meet(tmp_path, index, coordinator):
    coordinator = coordinator.format(port=processes.free_port())
    where = [f"distributed.coordinator={coordinator}", f"distributed.process_id={index}"]
    start = time.monotonic()
    output = processes.train(tmp_path, *TWO, *where, code=2)
    assert f"after 4 seconds not all processes have met at {coordinator}" in output
    assert output.count("\n") == 1
    assert time.monotonic() - start < 4 + 40  # the second: to start, on a busy machine
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("coordinator", ["10.0.0.2", "10.0.0.2:", "host:http", "host:70000", ""])
def test_an_address_that_is_none(coordinator):
    manual = {"coordinator": coordinator, "num_processes": 2, "process_id": 0}
    with pytest.raises(UserError, match=f"coordinator is '{coordinator}'; expected the host of"):
        distributed.initialize(base_config().distributed.to_dict() | manual)


def test_outside_of_any_cluster(monkeypatch):
    def nothing_found(*where, **options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", nothing_found)
    with pytest.raises(UserError, match=r"should be defined.*set config.distributed.coordinator"):
        distributed.initialize(base_config().distributed.to_dict() | {"auto": True})
