"""docs/serve.md: its commands and its Python run against a server that its first command starts."""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import vit_jax
from tests.docs import markdown
from tests.inference import tiny
from tests.serving import server
from tests.training import processes
from vit_jax.cli import predict, serve
from vit_jax.convert import folder

PAGE = "docs/serve.md"
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    tiny.write_pictures(tmp_path / "photos")
    os.rename(tmp_path / "photos/dogs/1.jpeg", tmp_path / "photos/one.jpg")
    folder.save(tmp_path / "runs/flowers", tiny.vit(class_names=tiny.NAMES))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_and_all_python_run(runs):
    blocks = markdown.blocks(PAGE)
    shell = [line for x in blocks if x.language == "bash" for line in x.text.splitlines()]
    install, started, *commands = shell
    assert install.startswith("pip install")
    *asking, serving = (block for block in blocks if block.language == "python")
    program, command, *arguments = shlex.split(started)
    assert (program, command) == ("vit-jax", "serve")
    names, answers = {}, []
    with server.process(runs, *arguments) as running:
        for line in commands if shutil.which("curl") else ():
            command = ["bash", "-c", line.replace(ADDRESS, running.url)]
            answers.append(json.loads(subprocess.check_output(command, stderr=subprocess.PIPE)))
        for block in asking:
            text = block.text.replace(ADDRESS, running.url)
            exec(compile(text, f"{PAGE}:{block.line}", "exec"), names)
        assert running.stop(signal.SIGTERM) == (0, "")
    (expected,) = vit_jax.predict("runs/flowers", "photos/one.jpg", batch_size=4)
    assert names["best"]["probability"] == expected.guesses[0].probability
    np.testing.assert_allclose(names["shares"].sum() + names["mean"]["elsewhere"], 1, atol=1e-5)
    for said in answers[:2]:
        assert said["classes"] == names["said"]["classes"]
    assert answers[-1:] in ([], [{"status": "ok"}])
    serves_from_python(serving.text)


def serves_from_python(text):
    command = [sys.executable, "-c", text.replace("port=8000", "port=0")]
    serving = processes.start_command(command, PYTHONUNBUFFERED="1")
    *_, compiled, url = (serving.stdout.readline() for _ in range(3))
    assert compiled.startswith("compiled in ") and url.startswith("http://127.0.0.1:")
    serving.send_signal(signal.SIGINT)
    output, _ = serving.communicate(timeout=server.SECONDS)
    assert (serving.returncode, output) == (0, "stopped\n")


def test_the_table_has_every_option_with_its_default():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for command in (serve, predict):
        command.add_parser(commands)
    own, shared = (commands.choices[name]._option_string_actions for name in ("serve", "predict"))
    rows = re.findall(r"^\| `(--[a-z-]+)` \|.*\| `?([^|` ,]+)[^|]*\|$", markdown.text(PAGE), re.M)
    assert {name: str(own[name].default) for name, _ in rows} == dict(rows)
    assert set(own) - set(shared) <= set(dict(rows))
