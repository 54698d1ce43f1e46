"""Compile time, checkpoints and start-up: each script runs whole, on the smallest that there is."""

import json
import subprocess
import sys

import pytest

from tests.docs import markdown

pytestmark = pytest.mark.slow
TINY = "vit_tiny_patch16_224"
PARAMETERS = 5_717_416  # of it


@pytest.fixture
def measured(tmp_path):
    """Runs a script with options; returns what it printed and its results."""

    def run(script, *options):
        output = tmp_path / "results.json"
        command = [sys.executable, f"benchmarks/{script}", *options, "--output", str(output)]
        done = subprocess.run(
            command, cwd=markdown.ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads(output.read_text())

    return run


def test_compile_time(measured):
    once = ["--rounds", "1", "--step-rounds", "0", "--batch", "1", "--model", TINY]
    text, report = measured("compile_time.py", *once)
    compiling = report["results"]["compile"]
    assert set(compiling) == {"vit_jax", "vit_jax, scanned"}
    assert report["results"]["failed"] == {}
    share = compiling["vit_jax, scanned"]["seconds"] / compiling["vit_jax"]["seconds"]
    assert share < 1  # of twelve blocks one is traced
    assert f"{share:.2f}" in text


def test_checkpoints(measured):
    text, report = measured("checkpoints.py", "--rounds", "1", "--batch", "1", "--model", TINY)
    results = report["results"]
    # Parameters and two moments, float32; beside them a few counters.
    assert 0 <= results["bytes"] - 3 * 4 * PARAMETERS < 100
    seconds = results["median_seconds"]
    assert 0 < seconds["stall"] < seconds["written"] and seconds["restore"] > 0
    assert f"{seconds['stall'] / seconds['step']:.1%} of a step" in text


def test_startup(measured):
    text, report = measured("startup.py", "--rounds", "1")
    results = report["results"]
    for moments in (results["cold"], *results["warm"]):
        assert 0 < moments["first line"] <= moments["header"] < moments["first step"]
    assert "warm 1 of 1" in text
    assert results["warm_median_seconds"] == results["warm"][0]
