"""Runs on stand-in VMs: the scripts there are real, `vit-jax` counts to ten."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.launch import standin
from vit_jax.cli.main import main
from vit_jax.launch.look_after import delete, stop
from vit_jax.launch.tpu_vm import Tpu

HOLD = "--config.hold=3"  # the run waits in the middle
ONE, TWO = "--accelerator-type=v4-8", "--accelerator-type=v4-16"
RECIPE = "configs/digits.py"


@pytest.fixture
def train(cloud, tpu):
    """`vit-jax tpu train mine`, from nothing to the end; the library is installed."""

    def run(*more, workdir="run"):
        workdir = cloud.folder / "bucket" / workdir
        what = ("--config", RECIPE, "--workdir", workdir, "--package=vit_jax[tpu,gcs]")
        return tpu("train", "mine", *what, *more)

    return run


def starts(cloud, worker=0):
    """The arguments of each start of vit-jax on a worker."""
    path = cloud.folder / "bucket" / "run" / f"starts-{worker}"
    return path.read_text().splitlines()


def steps(text, worker):
    """The steps in the log of a worker, as they were printed."""
    mark = f"[worker {worker}] step "
    return [int(x.removeprefix(mark).split()[0]) for x in text.splitlines() if x.startswith(mark)]


def test_all_in_one_command(cloud, train):
    options = ("--config.optim.lr=1e-3", "--config.show=TOKEN", "--env=TOKEN=b 'c'")
    code, text, errors = train(TWO, *options)
    assert code == 0, errors
    assert "[worker 1] b 'c'\n" in text
    assert "TOKEN=" not in text + errors + str(cloud.calls)  # it may be secret
    for worker in (0, 1):
        assert steps(text, worker)[-1] == 10
        [start] = starts(cloud, worker)
        assert start.endswith("--config.show=TOKEN --config.distributed.auto=True")
    assert "the run is complete" in text
    assert (
        cloud.verbs()[:6]
        == ["tpu-vm create"] + ["tpu-vm ssh"] * 2 + ["tpu-vm scp"] + ["tpu-vm ssh"] * 2
    )
    config = start.split()[2]
    variables = (cloud.home("mine", 1) / config).with_name("environment.json")
    assert variables.stat().st_mode & 0o077 == 0
    assert (cloud.home("mine", 1) / config).read_text() == Path(RECIPE).read_text()
    assert (cloud.home("mine", 1) / config).with_name("deit_digits.py").exists()  # starts from it


def test_a_run_outlives_the_connection_and_is_started_once(cloud, train, tpu):
    cloud.play("worker start", again=True)
    assert train(TWO, "--detach", HOLD)[0] == 0
    code, text, _ = tpu("status", "mine")
    assert code == 0
    assert "mine: READY, v4-16, 2 workers" in text
    assert "worker 1: running since 20" in text and "worker 0: last line: " in text
    cloud.play("worker report", touch="run/go")
    code, text, _ = train(TWO, HOLD)
    assert code == 0
    assert "mine: running since" in text and "here is its log" in text
    assert steps(text, 1)[-1] == 10
    assert len(starts(cloud, 0)) == len(starts(cloud, 1)) == 1


def test_another_run_is_not_disturbed(cloud, train, tpu):
    train(ONE, "--detach", HOLD)
    code, _, errors = train(ONE, "--config.seed=1")
    assert code == 2
    assert "worker 0 of mine: another run is going: vit-jax train --config" in errors
    code, _, errors = tpu("delete", "mine", "--yes")
    assert code == 2 and "a run is going on mine; vit-jax tpu stop mine" in errors
    code, _, errors = tpu("setup", "mine", "--package=other")
    assert code == 2 and "a run is going: vit-jax tpu stop it first" in errors
    assert tpu("delete", "mine", "--yes", "--force")[0] == 0
    assert cloud.verbs()[-1] == "tpu-vm delete"


def test_preempted_and_resumed(cloud, train):
    cloud.play("worker report", preempt=3)
    code, text, errors = train(TWO, "--spot", HOLD, "--restarts=2")
    assert code == 0, errors
    assert "mine: PREEMPTED" in text
    assert "resuming from the last checkpoint; 1 restarts left" in text
    assert "[worker 1] resuming after step 3" in text
    assert len(starts(cloud, 0)) == 2 and starts(cloud, 0)[0] == starts(cloud, 0)[1]
    resumed = text.index("resuming from")
    assert min(steps(text[resumed:], 0)) >= 4 and steps(text, 0)[-1] == 10
    made = [verb for verb in cloud.verbs() if verb in ("tpu-vm create", "tpu-vm delete")]
    assert made == ["tpu-vm create", "tpu-vm delete", "tpu-vm create"]


def test_a_queued_one_stands_in_line_again(cloud, train):
    cloud.play("worker report", preempt=3)
    code, text, errors = train(ONE, "--queued", "--spot", HOLD, "--restarts=1")
    assert code == 0, errors
    made = [verb for verb in cloud.verbs() if verb.startswith("queued")]
    assert made == [f"queued-resources {x}" for x in ("create", "delete", "create")]
    assert steps(text, 0)[-1] == 10


def test_no_capacity_is_waited_for_once_it_runs(cloud, train):
    cloud.play("worker report", preempt=3)
    cloud.play("tpu-vm create", after=1, stderr=standin.STOCKOUT, code=1)
    code, text, errors = train(ONE, "--spot", HOLD, "--restarts=1")
    assert code == 0, errors
    assert "no capacity; trying again in 0.2 s" in text


def test_a_preemption_that_breaks_more_than_the_run_counts_once(cloud, train):
    cloud.play("worker report", preempt=3)
    cloud.play("--command=set -e", after=1, stderr=standin.DROP, code=255)
    code, text, errors = train(ONE, "--spot", HOLD, "--restarts=1")
    assert code == 0, errors
    assert "return code [255].; the connection was lost" in text and "trying again in 0.1" in text


def test_workers_that_were_left_behind_start_anew(cloud, train):
    assert train(TWO, HOLD, "--detach")[0] == 0
    standin.kill_all_in(cloud.home("mine", 1).parent / "1")
    cloud.play("worker report", touch="run/go")
    code, text, errors = train(TWO, HOLD)
    assert code == 0, errors
    assert "some workers were still in a run that others had left; starting all anew" in text
    assert steps(text, 0)[-1] == 10 and "[worker 1] done" in text


def test_preempted_without_restarts(cloud, train):
    cloud.play("worker report", preempt=3)
    code, text, _ = train(ONE, HOLD)
    assert code == 1
    assert "was interrupted and no restarts are left; the same command resumes it" in text
    code, text, _ = train(ONE, HOLD)
    assert code == 0 and "[worker 0] resuming after step" in text


def test_a_broken_connection_is_no_failure(cloud, train):
    for after in (0, 0, 0):
        cloud.play("worker report", after=after, stderr=standin.DROP, code=255)
    cloud.play("worker report", touch="run/go")
    code, text, errors = train(TWO, HOLD)
    assert code == 0, errors
    assert text.count("the run goes on, asking again in") == 3
    assert "asking again in 0.2 s" in text  # more and more slowly
    for worker in (0, 1):  # every line once
        assert steps(text, worker) == list(range(steps(text, worker)[0], 11))
        assert text.count(f"[worker {worker}] a new run") == 1


def test_a_network_that_is_gone_for_a_while_is_no_failure(cloud, train):
    for call in ("worker start", "worker report", "tpu-vm describe"):
        after = 1 if "describe" in call else 0  # the first sees that the TPU is not there
        cloud.play(call, after=after, stderr=standin.NO_NETWORK, code=1)
    code, text, errors = train(ONE)
    assert code == 0, errors
    assert text.count("cannot be reached from here") == 3 and len(starts(cloud)) == 1


def test_a_broken_connection_while_it_starts(cloud, train):
    cloud.play("worker start", stderr=standin.DROP, code=255)
    code, text, errors = train(ONE)
    assert code == 0, errors
    assert "trying again in 0.1 s" in text and len(starts(cloud)) == 1


def test_a_worker_that_fails(cloud, train):
    code, text, _ = train(TWO, "--config.fails_on=1", "--restarts=3")
    assert code == 3
    assert "worker 1 failed with exit code 3; its last lines:" in text
    after = text[text.index("its last lines") :].splitlines()
    assert after[-1] == "[worker 1] ValueError: here"
    assert len(starts(cloud, 1)) == 1


def test_stop_saves_and_the_same_command_resumes(cloud, train, tpu):
    def stop_it():  # from another terminal
        assert stop(Tpu("mine"), seconds=30, kill=False) == 0

    with when_it_is_watched(cloud, 2, stop_it):
        code, text, _ = train(TWO, HOLD, "--restarts=3")
    assert code == 75
    assert "[worker 1] stopped after step 3" in text and "stopped and saved" in text
    code, text, _ = tpu("status", "mine")
    assert "ended with exit code 75, told to stop" in text
    code, text, _ = train(TWO, HOLD)
    assert code == 0 and "[worker 1] resuming after step 3" in text


def test_what_somebody_deletes_is_not_made_anew(cloud, train):
    def delete_it():  # from another terminal
        assert delete(Tpu("mine"), yes=True, force=True) == 0

    with when_it_is_watched(cloud, 1, delete_it):
        code, _, errors = train(ONE, HOLD, "--restarts=3")
    assert code == 1 and "somebody has deleted mine, and the run with it" in errors
    assert [verb for verb in cloud.verbs() if verb.endswith("create")] == ["tpu-vm create"]


def test_maintenance_says_sigterm_and_the_run_goes_on(cloud, train):
    """As autocheckpoint does; nobody asked for it to stop."""

    def maintain():
        pid = cloud.home("mine") / "vit_jax_tpu" / "run" / "pid"
        os.kill(int(pid.read_text()), signal.SIGTERM)

    with when_it_is_watched(cloud, 1, maintain):
        code, text, errors = train(ONE, HOLD, "--restarts=1")
    assert code == 0, errors
    assert "[worker 0] stopped after step 3" in text
    assert "[worker 0] resuming after step 3" in text


@contextlib.contextmanager
def when_it_is_watched(cloud, workers, action):
    """Does it in another thread, once all hold and its logs are read."""
    failed = []

    def wait():
        try:
            while cloud.steps(workers) < 3 or not any("report" in call[-2] for call in cloud.calls):
                time.sleep(0.05)
            action()
        except BaseException as error:
            failed.append(error)
            (cloud.folder / "bucket" / "run" / "go").touch()  # nobody waits for ever

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    yield
    thread.join(timeout=60)
    assert not failed and not thread.is_alive()


def test_logs(cloud, train, tpu):
    train(TWO)
    code, text, _ = tpu("logs", "mine", "--lines=2")
    assert code == 0
    lines = [
        f"[worker {worker}] {x}"
        for worker in (0, 1)
        for x in (f"step 10 of worker {worker}", "done")
    ]
    assert sorted(text.splitlines()) == sorted(lines)
    code, text, _ = tpu("logs", "mine", "--worker=1", "--follow", "--lines=1")
    assert text.splitlines() == ["[worker 1] done"]
    code, _, errors = tpu("logs", "mine", "--worker=2")
    assert code == 2 and "mine has workers 0 to 1" in errors


def test_setup_once_from_a_checkout(cloud, tpu, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "setup.py").write_text("")
    cloud.node("mine", "v4-16")
    code, _, errors = tpu("setup", "mine", "--source", source)
    assert code == 2 and "is no checkout of git" in errors
    os.system(f"git -C {source} init --quiet")
    for expected in ("installed", "already installed"):
        code, text, _ = tpu("setup", "mine", "--source", source)
        assert code == 0 and text.splitlines()[:2] == [expected] * 2
        assert text.splitlines()[2:] == ["8 devices (TPU v4), 4 of them on this worker"] * 2
    calls = (cloud.folder / "uv.txt").read_text().splitlines()
    assert len(calls) == 4  # a folder and an installation on each worker
    home = cloud.home("mine", 1)
    assert any(f"vit_jax[tpu,gcs] @ file://{home}/vit_jax_source.tar.gz" in call for call in calls)
    (source / "new.py").write_text("x = 1\n")
    assert tpu("setup", "mine", "--source", source)[1].startswith("installed\n")


def test_what_cannot_be_asked(cloud, tpu, train):
    for command in ("logs", "stop", "setup"):
        more = ["--package=x"] if command == "setup" else []
        code, _, errors = tpu(command, "mine", *more)
        assert code == 2 and "mine is not there, expected READY" in errors
    assert tpu("status", "mine")[:2] == (0, "mine: absent\n")
    cloud.node("other", state="REPAIRING")
    code, _, errors = tpu("logs", "other")
    assert code == 2 and "REPAIRING, expected READY; vit-jax tpu create waits for it" in errors
    cloud.node("mine")
    code, _, errors = tpu("train", "mine", "--config", RECIPE, "--workdir=/x")
    assert code == 2 and "vit-jax is not installed on mine; run vit-jax tpu setup mine" in errors
    code, _, errors = tpu("logs", "mine")
    assert code == 2 and "vit-jax is not installed on mine; run vit-jax tpu setup mine" in errors
    assert "vit-jax is not installed" in tpu("status", "mine")[1]
    assert tpu("delete", "mine", "--yes")[0] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--workdir=runs/x", TWO, "--package=x"],
            "this TPU has 2 workers, and each has its own disk",
        ),
        (
            ["--workdir=runs/x", ONE, "--restarts=1", "--package=x"],
            "created anew has an empty disk",
        ),
        (["--workdir=/x", "--restarts=1", ONE], "what to install (--package or --source)"),
        (["--workdir=/x", "--restarts=1"], "say what to create (--accelerator-type)"),
        (["--workdir=/x"], "mine is not there, expected READY"),
        (["--workdir=/x", ONE, "--package=x", "--source=y"], "expected one of --package"),
        (["--workdir=/x", ONE, "--restarts=-1"], "expected 0 restarts or more"),
        (["--workdir=/x", ONE, "--restarts=1", "--detach"], "and none with --detach"),
        (["--workdir=/x", ONE, "--env=x"], "--env 'x': expected NAME=VALUE"),
        (["--workdir=/x", ONE, "--package=x", "--config=no.py"], "no recipe at no.py"),
        (["--workdir=/x", ONE, "--confg.x=1"], "unknown argument '--confg.x=1'"),
        (["--workdir=/x", ONE], "what to install (--package or --source)"),
        (["--workdir=/x", ONE, "--package="], "expected one of --package"),
        (["--workdir=/x", "--no-autocheckpoint", "--package=x"], "expected --accelerator-type"),
        (["--workdir=hdfs://x/y", ONE, "--package=x"], "is of the scheme 'hdfs'"),
        (["--workdir=gs:/x/y", ONE, "--package=x"], "'gs:/x/y' has no bucket"),
        (["--workdir=", ONE, "--package=x"], "'' is no path"),
    ],
)
def test_mistakes(cloud, tpu, arguments, message):
    code, _, errors = tpu("train", "mine", "--config", RECIPE, *arguments)
    assert code == 2
    assert message in errors


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("logs", "--lines=-1"), "--lines: '-1': expected a whole number, 0 or more"),
        (("stop", "--timeout=-1"), "--timeout: '-1': expected seconds, 0 to 86400"),
        (("stop", "--timeout=nan"), "--timeout: 'nan': expected seconds"),
        (("status", "--poll=inf"), "--poll: 'inf': expected seconds"),
        (("status", "--poll=soon"), "--poll: 'soon': expected seconds"),
    ],
)
def test_numbers_that_are_none(capsys, arguments, message):
    command, option = arguments
    with pytest.raises(SystemExit) as ended:
        main(["tpu", command, "mine", option])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_nobody_reads_the_output():
    """As with `vit-jax tpu logs mine | head -1`."""
    command = [sys.executable, "-m", "vit_jax.cli.main", "tpu", "delete", "mine", "--dry-run"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("call", ["--command=set -e", "tpu-vm scp"])
def test_a_machine_that_does_not_answer_is_not_waited_for_for_ever(cloud, train, monkeypatch, call):
    """While it installs, or is sent the recipes; ssh itself would wait for hours."""
    cloud.play(call, hang=60)
    monkeypatch.setattr("vit_jax.launch.install.INSTALL_SECONDS", 2)
    monkeypatch.setattr("vit_jax.launch.remote.COPY_SECONDS", 2)
    code, text, errors = train(ONE, "--restarts=1")
    assert code == 0, errors
    assert "no answer within 2 s; the connection was lost" in text


def test_a_source_that_is_none_is_said_before_anything_is_paid_for(cloud, tpu, tmp_path):
    what = ("--config", RECIPE, "--workdir=/x", "--source", tmp_path)
    code, _, errors = tpu("train", "mine", ONE, *what)
    assert code == 2 and "has no setup.py and no pyproject.toml" in errors
    assert cloud.calls == []


def test_ctrl_c_ends_the_showing_and_not_the_run(cloud, train, tpu, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vit_jax.launch.watch.report", interrupted)
        code, text, errors = train(ONE, HOLD)
    assert code == 130 and "the run goes on; vit-jax tpu logs mine --follow" in text
    assert "Traceback" not in errors
    assert "running since" in tpu("status", "mine")[1]


def test_a_dry_run_of_everything(cloud, train, tpu, printed):
    code, text, errors = train(TWO, "--restarts=2", "--dry-run")
    assert (code, errors, cloud.calls) == (0, "", [])
    verbs = [command[5 if command[1] == "alpha" else 4] for command in printed(text)]
    assert verbs == ["describe", "create", "ssh", "ssh", "scp", "ssh", "ssh"]
    note = "# Where the TPU has several workers, it ends with --config.distributed.auto=True:\n+"
    assert note in text
    for command in ("status", "logs", "stop", "delete"):
        code, text, _ = tpu(command, "mine", "--dry-run")
        assert code == 0 and printed(text)
    assert cloud.calls == []
