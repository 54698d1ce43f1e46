"""Processes find each other; those that do not say so, soon, and do not hang."""

import socket
import sys
import time

import pytest

from tests.training import processes
from vit_jax.errors import UserError
from vit_jax.training import distributed
from vit_jax.training.config import base_config

TWO = ["distributed.num_processes=2", "distributed.timeout_seconds=4"]


SCRIPT = """
import jax

from vit_jax.training import distributed
from vit_jax.training.config import base_config

distributed.initialize(base_config().distributed.to_dict() | {"auto": True})
print(f"process {jax.process_index()} of {jax.process_count()}, {jax.device_count()} devices")
"""
FIRST_PORT, PORTS = 61440, 4096  # that JAX takes for jobs, counted by their numbers


def free_job():
    """The number of a job whose port nobody has."""
    for number in range(PORTS):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", FIRST_PORT + number)):
                return number


def slurm(job, index):
    names = {"JOB_ID": job, "NTASKS": 2, "PROCID": index, "LOCALID": index}
    return {"STEP_NODELIST": "localhost", "STEP_NUM_NODES": 1, **names}


def open_mpi(job, index):
    names = {"WORLD_SIZE": 2, "WORLD_RANK": index, "WORLD_LOCAL_RANK": index}
    return {
        "MCA_orte_hnp_uri": f"{job * PORTS}.0;tcp://127.0.0.1:34911",
        **{f"COMM_{name}": value for name, value in names.items()},
    }


@pytest.mark.slow
@pytest.mark.parametrize("prefix, variables", [("SLURM", slurm), ("OMPI", open_mpi)])
def test_processes_meet_by_what_a_scheduler_tells_them(prefix, variables):
    """Two tasks of one job on this machine, each with two devices."""
    job = free_job()
    started = []
    for index in range(2):
        told = {f"{prefix}_{name}": str(x) for name, x in variables(job, index).items()}
        started.append(processes.start_command([sys.executable, "-c", SCRIPT], devices=2, **told))
    for index, process in enumerate(started):
        assert f"process {index} of 2, 4 devices" in processes.finish(process)


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
