"""The side of a VM, each part by itself."""

import fcntl
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.launch.standin import kill_all_in
from vit_jax.launch import answers, log_file, pack, remote, worker
from vit_jax.launch.gcloud import Gcloud
from vit_jax.launch.install import Library
from vit_jax.launch.tpu_vm import Tpu
from vit_jax.launch.watch import Log

TRAIN = ["train", "--config", "recipe.py", "--workdir", "run", "--config.hold=2"]


@pytest.fixture
def here(cloud, monkeypatch):
    """A worker whose home folder has the library and recipes."""
    cloud.node("mine")
    home = cloud.home("mine")
    folder = home / worker.FOLDER
    folder.mkdir()
    subprocess.run([cloud.folder / "bin" / "uv", "venv"], cwd=folder, check=True)
    subprocess.run([cloud.folder / "bin" / "uv", "pip"], cwd=folder, check=True)
    (folder / "recipes.tar.gz").write_bytes(pack.archive({worker.ENVIRONMENT: (b"{}", 0o600)}))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    monkeypatch.setattr(sys, "executable", str(folder / "venv" / "bin" / "python"))
    yield worker.Worker(home, 0)
    kill_all_in(home.parent)


def begin(here, identity="a"):
    answer = here.start(identity, "recipes.tar.gz", TRAIN)
    assert answer.error is None
    return answer


def wait_for_lines(here, number):
    deadline = time.monotonic() + 60
    while here.answer().lines < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nothing_then_running_then_ended(here):
    assert here.answer() == answers.Answer(0, "none")
    assert begin(here).state == "running"
    wait_for_lines(here, 3)
    answer = here.stop(seconds=60, kill=False)
    assert (answer.state, answer.exit_code, answer.stopping) == ("ended", 75, True)
    assert answer.last == "stopped after step 2" and answer.lines == 4
    assert [line.text for line in here.follow([-2], 0)] == ["step 2 of worker 0", answer.last]
    again = begin(here, "b")
    assert (again.first_line, again.stopping) == (4, False)


def test_the_same_request_twice_starts_once(here):
    first = begin(here)
    assert begin(here).started == first.started
    here.stop(seconds=60, kill=False)
    assert begin(here).state == "ended"  # sent again, long after


def test_a_machine_that_was_taken_away(here):
    """No exit code, and nothing runs; what is left of the log is there."""
    begin(here)
    wait_for_lines(here, 3)
    kill_all_in(here._home.parent)
    assert worker._wait(lambda: not here._running(), 60)
    assert here.answer().state == "lost"
    assert begin(here, "b").identity == "b"  # from here on another run


def test_what_does_not_end_is_killed(here):
    begin(here)
    wait_for_lines(here, 3)
    pid = int((here._run / "pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    assert here.stop(seconds=0.3, kill=False).state == "running"
    answer = here.stop(seconds=0.3, kill=True)
    assert (answer.state, answer.exit_code) == ("ended", 128 + signal.SIGKILL)


def test_a_second_request_to_stop_sends_no_second_signal(here, monkeypatch):
    begin(here)
    sent = []
    with monkeypatch.context() as patch:
        patch.setattr(here, "_signal", lambda wish: not sent.append(wish))
        for _ in range(2):
            assert here.stop(seconds=0, kill=False).stopping
    assert sent == [signal.SIGTERM]


def test_a_request_to_stop_that_comes_too_early_is_not_lost(here):
    """The run has begun, and its process is not there yet: nothing is marked as sent."""
    lock = here._locked("lock", fcntl.LOCK_EX)
    here._run.mkdir()
    assert not here.stop(seconds=0.3, kill=False).stopping
    os.close(lock)
    begin(here)
    wait_for_lines(here, 3)
    assert here.stop(seconds=60, kill=False).exit_code == 75
    assert not (here._run / "pid").exists()  # nothing is ever sent to whoever gets that number


def test_an_installation_is_no_run(here):
    lock = here._locked("installing", fcntl.LOCK_EX)
    assert here.stop(seconds=0, kill=True).state == here.answer().state == "none"
    refused = here.start("a", "recipes.tar.gz", TRAIN)
    assert refused.error == "an installation is going; try again when it has ended"
    os.close(lock)
    assert begin(here).state == "running"


def test_a_library_that_is_gone_is_a_failure_and_no_lost_machine(here):
    (here._folder / "venv" / "bin" / "vit-jax").unlink()
    begin(here)
    assert worker._wait(lambda: not here._running(), 60)
    answer = here.answer()
    assert (answer.state, answer.exit_code) == ("ended", 127)
    assert answer.last.startswith("vit-jax could not be started: ")


def test_the_number_comes_from_the_metadata_server(monkeypatch):
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Metadata-Flavor"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"3")

        def log_message(self, *arguments):
            pass

    asked = []
    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.delenv("TPU_WORKER_ID", raising=False)
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        assert worker.own_number() == 3
    path = "/computeMetadata/v1/instance/attributes/agent-worker-number"
    assert asked == [(path, "Google")]  # as JAX asks


def test_lines_of_a_file_that_grows(tmp_path):
    file = tmp_path / "log"
    assert list(log_file.lines(file)) == [] and log_file.last_line(file) == ""
    file.write_bytes(b"one\n 10%|#\r100%|##########\ntwo")
    found = list(log_file.lines(file))
    assert [text for text, _ in found] == ["one", "100%|##########"]
    with open(file, "ab") as more:
        more.write(b" parts\n\xff\n\n")
    rest = [text for text, _ in log_file.lines(file, found[-1][1])]
    assert rest == ["two parts", "\ufffd", ""]
    assert (log_file.count(file), log_file.last_line(file)) == (5, "\ufffd")


@pytest.mark.parametrize("before, after", [(b"", b""), (b"x\n", b"x\n"), (b"x\ny", b"x\ny\n")])
def test_a_last_line_is_ended_once(tmp_path, before, after):
    file = tmp_path / "log"
    file.write_bytes(before)
    log_file.end_line(file)
    assert file.read_bytes() == after


def test_answers_survive_the_way(tmp_path):
    said = answers.Answer(
        1, "ended", "id", ("train", "--x=ä b"), "now", 3, True, 4, 9, "last", "no"
    )
    line = answers.Line(1, 7, "text with \t and “quotes”")
    for one in (said, line):
        assert list(answers.from_json(answers.to_json(one))) == [one]
        assert "\n" not in answers.to_json(one)
    for other in ("", "Welcome to Ubuntu", "3", "[]", '{"is": "x"}', '{"is": "Line"}', "{"):
        assert list(answers.from_json(other)) == []
    half = answers.to_json(line)[:-5]
    assert list(answers.from_json(half)) == []
    both = answers.to_json(line) + answers.to_json(said)  # then come two ends of lines
    assert list(answers.from_json(f"##### {both}")) == [line, said]
    assert list(answers.from_json(half + answers.to_json(said))) == [said]


def test_every_line_is_shown_once_and_in_order(capsys):
    log = Log(2, 0)
    for number in (0, 1, 1, 0, 3, 2, 3):  # 3 came where 2 was lost; it comes again
        log.print(answers.Line(1, number, f"line {number}"))
    assert capsys.readouterr().out == "".join(f"[worker 1] line {i}\n" for i in range(4))
    assert log.request() == ["--first", "0", "4"]
    late = Log(1, -2)
    late.print(answers.Line(0, 8, "x"))
    assert late.request() == ["--first", "9"]


def test_archives_are_a_function_of_their_content(tmp_path):
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("setup.py", "sub.py"):
            (folder / file).write_text(f"# {file}\n")
        (folder / "notes.txt").write_text(name)
        os.utime(folder / "setup.py", (len(name) * 1000, 5))
    one, other = (pack.recipes(tmp_path / name / "sub.py", {}) for name in ("a", "b"))
    assert one == other
    (tmp_path / "b" / "setup.py").write_text("# changed\n")
    assert pack.recipes(tmp_path / "b" / "sub.py", {}) != one
    assert pack.recipes(tmp_path / "a" / "sub.py", {"A": "1"}) != one


def test_what_an_editor_leaves_beside_a_recipe_is_no_recipe(tmp_path):
    """A link of Emacs that leads nowhere, and a folder."""
    (tmp_path / "recipe.py").write_text("x = 1\n")
    alone = pack.recipes(tmp_path / "recipe.py", {})
    (tmp_path / ".#recipe.py").symlink_to("somebody@somewhere.1")
    (tmp_path / "folder.py").mkdir()
    assert pack.recipes(tmp_path / "recipe.py", {}) == alone


def test_what_is_sent_is_what_was_given_whoever_else_sends(tmp_path, monkeypatch):
    """The same name from two launches at the same time, both before either is copied."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    commands = []
    monkeypatch.setattr(Gcloud, "run", lambda self, command, **options: commands.append(command))
    for content in (b"one", b"other"):
        remote.send(Tpu("mine"), content, "source.tar.gz")
    files = [Path(command[4]) for command in commands]
    assert [file.read_bytes() for file in files] == [b"one", b"other"]
    assert {file.name for file in files} == {"source.tar.gz"}
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)  # they may hold variables


def test_a_source_archive_has_what_git_knows(tmp_path):
    import io
    import tarfile

    for command in (
        ["init", "--quiet"],
        ["config", "user.email", "x"],
        ["config", "user.name", "x"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    files = {
        ".gitignore": "ignored\n",
        "setup.py": "",
        "new.py": "x = 1\n",
        "ignored": "",
        "gone": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "add", "setup.py", "gone", ".gitignore"], cwd=tmp_path, check=True)
    (tmp_path / "gone").unlink()
    with tarfile.open(fileobj=io.BytesIO(pack.source(tmp_path))) as tar:
        assert sorted(tar.getnames()) == [".gitignore", "new.py", "setup.py"]
        assert tar.extractfile("new.py").read() == b"x = 1\n"


def test_a_run_is_resumed_with_the_source_it_began_with(tmp_path):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "setup.py").write_text("x = 1\n")
    library = Library(source=str(tmp_path))
    began = library.archive
    (tmp_path / "setup.py").write_text("x = 2\n")
    assert library.archive == began != pack.source(tmp_path)


def test_it_loads_no_jax():
    """It starts quickly, also on a machine where JAX finds no device."""
    names = ["cli.tpu", "launch.run", "launch.look_after", "launch.create", "launch.worker"]
    script = "".join(f"import vit_jax.{name}\n" for name in names)
    script += (
        "import sys, json\nprint(json.dumps([x for x in ('jax', 'numpy') if x in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert json.loads(done.stdout) == [], done.stderr
