"""Contenders side by side: each kind of them makes steps, and one that fails is said to."""

import importlib
import json
import subprocess
import sys

import pytest

from tests.docs import markdown

OURS, EAGER, PEER = "vit_jax", "timm, eager", "big_vision"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of the command on a batch of one, with a checkout that has nothing in it."""
    folder = tmp_path_factory.mktemp("steps")
    checkout, output = folder / "checkout", folder / "steps.json"
    checkout.mkdir()
    command = [sys.executable, "benchmarks/steps.py", "--work", "train-ti", "--batch", "1"]
    command += ["--rounds", "1", "--comparisons", "default", "--output", str(output)]
    command += ["--checkout", f"{PEER}={checkout}", "--contenders", OURS, EAGER, PEER, "deit3-jax"]
    text = subprocess.run(
        command, cwd=markdown.ROOT, capture_output=True, text=True, check=True
    ).stdout
    return text, json.loads(output.read_text())


@pytest.mark.slow
def test_all_that_can_make_steps(done):
    text, report = done
    result = report["results"]["train-ti"]["default"]
    assert set(result["contenders"]) == {OURS, EAGER}
    for one in result["contenders"].values():
        assert one["images_per_second"] == pytest.approx(1 / one["seconds"])
        assert 0 < one["lowest"] <= one["seconds"] <= one["highest"]
        assert one["utilisation"] == pytest.approx(
            result["flops"] / one["seconds"] / result["ceiling_flops_per_second"]
        )
    # Three forward passes of 1.26 billion multiply-adds (the paper's ViT-Ti has 1.3).
    assert result["flops"] == pytest.approx(3 * 2 * 1.26e9, rel=0.01)
    rates = {name: one["images_per_second"] for name, one in result["contenders"].items()}
    assert result["times_the_best"] == {"PyTorch": pytest.approx(rates[OURS] / rates[EAGER])}
    assert "times the best of PyTorch" in text
    assert report["machine"]["platform"] == "cpu"


@pytest.mark.slow
def test_who_fails_and_who_is_left_out(done):
    text, report = done
    result = report["results"]["train-ti"]["default"]
    assert set(result["failed"]) == {PEER} and "big_vision/models/vit.py" in result["failed"][PEER]
    assert result["not_given"] == ["deit3-jax"]
    assert "left out: no --checkout" in text


def test_a_run_goes_on_beside_what_was_measured_here(tmp_path, monkeypatch):
    """And not beside what another machine, another version or other settings gave."""
    monkeypatch.syspath_prepend(str(markdown.ROOT / "benchmarks"))
    report = importlib.import_module("report")
    path, libraries = tmp_path / "results.json", ("jax", "numpy")
    assert report.earlier(path, libraries, rounds=3) == {}
    report.write(path, "nothing", {"a": 1}, libraries, rounds=3)
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0.0, 0.0))
    assert report.earlier(path, libraries, rounds=3) == {"a": 1}
    assert report.earlier(path, libraries, rounds=4) == {}
    assert report.earlier(path, ("jax",), rounds=3) == {}
    other = json.loads(path.read_text())
    other["machine"]["cpu"] = "another"
    path.write_text(json.dumps(other))
    assert report.earlier(path, libraries, rounds=3) == {}
