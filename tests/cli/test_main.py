import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest

import vit_jax
from tests.training.processes import TINY
from vit_jax.cli import main as cli
from vit_jax.cli import memory
from vit_jax.cli.arguments import overrides


@pytest.fixture
def train(call, tmp_path):
    return lambda *more: call("train", "--config", TINY, "--workdir", tmp_path / "run", *more)


def test_version_and_help(call):
    assert call("--version") == (0, f"vit-jax {vit_jax.__version__}\n", "")
    code, text, _ = call("--help")
    assert code == 0 and "train" in text and "eval" in text
    assert "Exit code 75" in " ".join(call("train", "--help")[1].split())
    assert "--checkpoint" in call("eval", "--help")[1]


def test_help_is_quick():
    """It loads none of the libraries that take long."""
    script = (
        "import sys; from vit_jax.cli import main; assert not {'jax', 'flax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.optim.rl=1"], "unknown configuration key 'optim.rl': did you mean 'optim.lr'"),
        (["--config.seed", "x"], "seed = 'x' is str, expected int"),
        (["--config.seed"], "--config.seed has no value"),
        (["--confg.seed=1"], "unknown argument '--confg.seed=1'"),
        (["--config.model.name=vit_bas_patch16_224"], "did you mean 'vit_base_patch16_224'"),
        (["--config.model.dept=3"], "did you mean 'depth'"),
        (["--config.model.img_size=9"], "image height 9 is not divisible by the patch (2 pixels)"),
        (["--config.data.batch_size=36"], "batch_size 36 is not divisible by 16 (8 shards"),
        (["--config.model.num_classes=9"], "num_classes is 9, the data has 10 classes"),
        (["--config.mesh.data=3"], "does not make use of exactly the 8 devices"),
        (["--config.total_epochs=3"], "total_steps=12 and total_epochs=3 are both given"),
        (["--config.optim.name=adam"], "did you mean 'adamw'"),
        (["--config.objective.name=clasification"], "did you mean 'classification'"),
        (["--config.data.source=folder:nowhere"], "no folder 'nowhere' (working directory"),
        (["--config.data.eval_split=tset"], "has no split 'tset': it has train, test"),
        (["--config.data.train_transform=flop"], "did you mean 'flip'"),
        (["--config.data.mean=(0.5,0.5)"], "the model's images have 1 channels"),
        (["--config.distributed.num_processes=2"], "expected all of coordinator, num_processes"),
        (["--config.model.num_classes=ten"], "model.num_classes is 'ten'; expected a whole number"),
        (["--config.model.drop_rate=high"], "model.drop_rate is 'high'; expected a number, 0 <= x"),
        (["--config.model.depth=0"], "model.depth is 0; expected a whole number, 1 or more"),
        (["--config.data.mean=0.5"], "data.mean is 0.5; expected a tuple of entries, each a num"),
        (["--config.data.std=(0,)"], "data.std is (0,); expected a tuple of entries, each a num"),
        (["--config.total_epochs=abc"], "total_epochs is 'abc'; expected a number above 0"),
        (["--config.optim.clip_norm=x"], "optim.clip_norm = 'x' is str, expected float"),
        (["--config.distributed.num_processes=two"], "distributed.num_processes is 'two'; expec"),
        (["--config.sharding_rules.mpl=None"], "sharding_rules.mpl: unknown logical axis 'mpl'"),
        (["--config.eval_every_epochs=0.001"], "eval_every_steps=6 and eval_every_epochs=0.001"),
    ],
)  # fmt: skip
def test_one_message_and_exit_code_2(train, tmp_path, arguments, message):
    code, _, errors = train(*arguments)
    assert code == 2, errors
    assert errors.startswith("vit-jax: error: ")
    assert message in errors
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_no_recipe_and_no_run(call, tmp_path):
    code, _, errors = call("train", "--config", tmp_path / "no.py", "--workdir", tmp_path)
    assert (code, errors.split(":")[1]) == (2, " error")
    assert "no recipe at" in errors
    code, _, errors = call("eval", "--workdir", tmp_path)
    assert code == 2 and "no run in" in errors
    code, _, errors = call("train")
    assert code == 2 and "--config" in errors and "--workdir" in errors


def test_warnings_are_sentences_without_source(call, tmp_path):
    (tmp_path / "config.json").write_text('{"lr": 0.1}')
    np.savez(tmp_path / "x.npz", kernel=np.ones(3))

    before = warnings.showwarning
    code, _, errors = call("convert", tmp_path / "x.npz", "--output", tmp_path / "out")
    [first, *_] = errors.splitlines()
    text = f"{tmp_path / 'config.json'} is not taken into account"
    assert code == 2 and first.startswith(f"vit-jax: warning: {text}")
    assert ".py:" not in errors and "UserWarning" not in errors
    assert warnings.showwarning is before


def test_a_file_is_no_workdir(call, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    code, _, errors = call("train", "--config", TINY, "--workdir", file)
    assert code == 2
    assert re.fullmatch(r"vit-jax: error: workdir '.*file' is no folder that can .*\n", errors)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("mistake", [KeyError("key"), ValueError("of a library"), OSError(28, "")])
def test_a_mistake_keeps_its_traceback(train, monkeypatch, mistake):
    from vit_jax.training import config

    def broken(*_):
        raise mistake

    monkeypatch.setattr(config, "load_config", broken)
    code, _, errors = train()
    assert code == 1
    assert errors.startswith("Traceback") and f"{type(mistake).__name__}: " in errors


def test_overrides():
    assert overrides(["--config.a.b=1", "--config.c", "x=y"]) == ["a.b=1", "c=x=y"]


def test_the_process_starts_anew_once(tmp_path):
    """With huge pages on, the same id, the same arguments."""
    script = (
        "import os, sys; from vit_jax.cli import memory; first = os.environ.get('SEEN');"
        "os.environ['SEEN'] = str(os.getpid()); memory.use_huge_pages();"
        "print(first == str(os.getpid()), os.environ['GLIBC_TUNABLES'], sys.argv[1:])"
    )
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "GLIBC_TUNABLES": "glibc.malloc.arena_max=9",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, "--a", "b"], env=environment, capture_output=True, text=True
    )
    tunables = "glibc.malloc.arena_max=9:glibc.malloc.hugetlb=1"
    assert done.stdout == f"True {tunables} ['--a', 'b']\n", done.stderr


@pytest.fixture
def started_anew(monkeypatch):
    """What this process would be replaced by, where it would be."""
    calls = []
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "execv", lambda *arguments: calls.append(arguments))
    return calls


@pytest.mark.skipif(not memory._is_linux_with_glibc(), reason="elsewhere it never starts anew")
def test_only_the_command_itself_starts_anew(started_anew, monkeypatch, tmp_path):
    """Not a script that calls `main`: the lines before its call would run twice."""
    arguments = ["eval", "--workdir", str(tmp_path)]
    assert cli.main(arguments) == 2
    assert not started_anew
    monkeypatch.setattr(sys, "argv", ["vit-jax", *arguments])
    assert cli.main() == 2
    assert started_anew == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])]


def test_a_script_that_calls_main_runs_once(tmp_path):
    script = (
        "print('once'); from vit_jax.cli import main; import sys;"
        "main.main(['eval', '--workdir', sys.argv[1]])"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "once\n", done.stderr
    assert "no run in" in done.stderr


def test_it_does_not_start_anew_for_a_gpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    memory.use_huge_pages()
    assert "GLIBC_TUNABLES" not in os.environ


@pytest.mark.parametrize("tpu", [True, False])
def test_libtpu_alone_is_no_tpu(monkeypatch, tpu):
    """Installed to compile ahead, it does not compute; JAX_PLATFORMS is not set, as for most."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    installed = {"libtpu"}
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr(
        memory.glob, "glob", lambda pattern: [pattern] * (tpu and pattern == "/dev/vfio/[0-9]*")
    )
    assert memory._computes_on_cpu() == (not tpu)
    installed.add("jax_plugins")
    assert not memory._computes_on_cpu()
