"""Benchmarks count what they say they count; times themselves are the machine's."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from tests.inference import tiny
from vit_jax.convert import folder
from vit_jax.errors import UserError
from vit_jax.measure import benchmark as module
from vit_jax.measure.programs import Program, compiled, matmul

OPTIONS = dict(img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=5)
QUICK = dict(rounds=2, seconds=0.05)


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch):
    monkeypatch.setattr(module, "MATRICES", {"cpu": (64, 128)})


def test_numbers_follow_from_each_other():
    name = "vit_tiny_patch16_224"
    given = dict(model_options=OPTIONS, **QUICK)
    found = vit_jax.benchmark(name, [3], ["float32"], ["forward", "train"], **given)
    other = vit_jax.benchmark(name, [1, 3], ["bfloat16"], **given)
    assert [(x.what, x.batch) for x in found.rows] == [("forward", 3), ("train", 3)]
    assert [(x.dtype, x.batch) for x in other.rows] == [("bfloat16", 1), ("bfloat16", 3)]
    flops = vit_jax.create_model(name, **OPTIONS).flops()
    for row, ceilings in [(row, x.ceilings) for x in (found, other) for row in x.rows]:
        needed = flops * (3 if row.what == "train" else 1)
        assert row.flops_per_second == pytest.approx(needed * row.images_per_second)
        share = row.flops_per_second / ceilings[row.dtype]
        assert row.utilisation == pytest.approx(share)
        assert row.lowest <= row.images_per_second <= row.highest
        assert row.latency_ms[50] <= row.latency_ms[95] <= row.latency_ms[99]
        assert row.calls >= 2 and row.compile_seconds > 0
    forward, train = found.rows
    # A step holds parameters and two moments of AdamW, a forward pass the parameters.
    assert forward.bytes > 4 * found.parameters and train.bytes > 12 * found.parameters


@pytest.mark.parametrize("make, what", [(tiny.mae, ["forward", "train"]), (tiny.swin, ["forward"])])
def test_other_families_and_sources(tmp_path, call, make, what):
    model = make()
    folder.save(tmp_path / "model", model)
    arguments = ("benchmark", tmp_path / "model", "--batch-size", 2, "--what", *what)
    code, text, errors = call(*arguments, "--rounds", 1, "--seconds", 0.02, "--json")
    assert code == 0, errors
    found = json.loads(text)
    assert found["parameters"] == sum(x.size for x in jax.tree.leaves(model.params))
    assert [row["what"] for row in found["rows"]] == what
    assert found["machine"]["platform"] == "cpu" and "jax" in found["machine"]


def test_the_table_fits_a_terminal(call):
    given = [f"{key}={value}" for key, value in OPTIONS.items()]
    options = [part for text in given for part in ("--model-arg", text)]
    quick = ("--rounds", 1, "--seconds", 0.02, "--batch-size", 4)
    code, text, errors = call("benchmark", "vit_tiny_patch16_224", *options, *quick)
    assert code == 0 and "%|" not in errors and "\r" not in errors
    heading, _, table = text.partition("\n\n")
    assert heading.startswith("vit_tiny_patch16_224, ") and len(table.splitlines()) == 3
    assert max(map(len, text.splitlines())) <= 80


def test_memory_that_is_not_there_names_the_program():
    with (
        pytest.raises(UserError, match="train in float32: a batch of 9 does not fit"),
        module._fitting(("train", "float32", 9)),
    ):
        jax.block_until_ready(jax.jit(lambda: jnp.zeros(2**46))())


def test_time_is_of_all_calls_and_the_state_is_carried():
    """Each call of a step adds one to its state, whose memory it takes over."""
    step = jax.jit(lambda state, x: (state + x, x), donate_argnums=0)
    state, one = jnp.zeros(()), jnp.ones(())
    program = Program(step.lower(state, one).compile(), (state, one), 0.0, carries=True)
    assert program.timed(5) > 0 and program.timed(2) > 0
    assert float(program._arguments[0]) == 7
    slow = compiled(lambda x: jax.lax.fori_loop(0, 300, lambda _, y: jnp.cos(y @ y), x), np.eye(64))
    once, often = min(slow.timed() for _ in range(5)), min(slow.timed(20) for _ in range(3))
    assert often > 5 * once  # it waits for the last of them


def test_matrix_products_have_the_flops_that_are_counted():
    program, flops = matmul(32, "float32")
    assert flops == 2 * 32**3
    assert program.compiled.cost_analysis()["flops"] == pytest.approx(flops, rel=0.05)
    assert program.bytes >= 3 * 4 * 32**2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["vit_tiny_patch16"], "did you mean 'vit_tiny_patch16_"),
        (["nowhere"], "nor is 'nowhere' the name of a model: vit-jax models lists all"),
        (["vit_tiny_patch16_224", "--batch-size", 0], "a batch of 0: expected 1 or more"),
        (["vit_tiny_patch16_224", "--dtype", "int8"], "dtype 'int8': expected a floating-point"),
        (["vit_tiny_patch16_224", "--dtype", "float64"], "JAX_ENABLE_X64"),
        (["vit_tiny_patch16_224", "--rounds", 0], "0 rounds"),
        (["vit_tiny_patch16_224", "--model-arg", "dept=3"], "dept"),
        (["vit_tiny_patch16_224", "--model-arg", "depth"], "expected KEY=VALUE"),
        (["vit_tiny_patch16_224", "--what", "backward"], "invalid choice"),
    ],
)
def test_errors_are_one_line(call, arguments, message):
    code, text, errors = call("benchmark", *arguments)
    assert (code, text) == (2, "")
    assert message in errors.splitlines()[-1] and "Traceback" not in errors
