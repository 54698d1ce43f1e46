"""docs/launch.md and its two files: their commands are ones that our command line understands."""

import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from tests.docs import markdown
from vit_jax.cli import main as cli
from vit_jax.cli.arguments import PREFIX
from vit_jax.training.config import load_config
from vit_jax.training.resolve import check

PAGE = "docs/launch.md"
SLURM = markdown.ROOT / "docs" / "launch" / "slurm.sh"
JOB = markdown.ROOT / "docs" / "launch" / "gpu-job.yaml"
OTHERS = {"gcloud", "sbatch", "kubectl"}


def commands(page):
    """Each command of a page, as a shell would read it."""
    bash = [block for block in markdown.blocks(page) if block.language == "bash"]
    return [command for block in bash for command in markdown.commands(block)]


OURS = [
    x
    for page in (PAGE, "docs/accelerators.md")
    for x in commands(page)
    if x[:2] == ["vit-jax", "tpu"]
]


def test_no_command_of_the_page_is_passed_over():
    for command in commands(PAGE):
        assert command in OURS or command[0] in OTHERS


@pytest.mark.parametrize("command", OURS, ids=" ".join)
def test_commands_are_understood(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(markdown.ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.main([*command[1:], "--dry-run"]) == 0, capsys.readouterr().err
    assert "+ gcloud " in capsys.readouterr().out
    if "--config" in command:
        understood(command)


def understood(command):
    """The recipe is there and takes the overrides; returns the configuration."""
    overrides = [word.removeprefix(PREFIX) for word in command if word.startswith(PREFIX)]
    config = load_config(markdown.ROOT / command[command.index("--config") + 1], overrides)
    check(config)
    return config


def test_files_that_the_page_names_are_there():
    for name in re.findall(r"\]\((launch/[\w.-]+)\)", markdown.text(PAGE)):
        assert (markdown.ROOT / "docs" / name).is_file()


def test_slurm_script(tmp_path):
    subprocess.run(["bash", "-n", SLURM], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", SLURM], check=True)
    [command] = re.findall(r"^srun .*?(vit-jax .*?)\"\$@\"", SLURM.read_text(), re.M | re.S)
    assert understood(shlex.split(command)).distributed.auto is True


@pytest.mark.parametrize("code", [0, 2, 75])
def test_slurm_script_goes_back_into_the_queue(tmp_path, code):
    """Run with stand-ins for Slurm: only what was saved is resumed."""
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    for name, text in {"srun": f"exit {code}", "scontrol": 'echo "$@" > asked'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", SLURM], cwd=tmp_path, env=environment)
    assert done.returncode == code
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else None) == (
        "requeue 7\n" if code == 75 else None
    )


def test_kubernetes_job():
    service, job = yaml.safe_load_all(JOB.read_text())
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert spec["completions"] == spec["parallelism"] and spec["completionMode"] == "Indexed"
    assert {x["name"] for x in pod["volumes"]} == {x["name"] for x in container["volumeMounts"]}
    [variable] = [entry["name"] for entry in container["env"]]
    text = " ".join(container["command"]).replace(f"$({variable})", "1")
    distributed = understood(text.split()).distributed
    # The names of an indexed job's pods: "Job with Pod-to-Pod Communication", Kubernetes docs.
    assert distributed.coordinator.split(":")[0] == f"{name}-0.{pod['subdomain']}"
    assert (distributed.num_processes, distributed.process_id) == (spec["completions"], 1)
