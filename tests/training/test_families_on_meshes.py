"""What is learned does not depend on how it is spread over devices and processes.

For each family of models, with dropout, stochastic depth, mixup, random shifts and erasing on, in
float64 and with Adam, the hardest for it: losses, parameters and averages after three updates.
Measured were differences up to 7e-16 of the losses and 1e-13 of the parameters, relative to the
largest value of an array. The biases of queries, keys and values are an exception, 9e-11: the
gradient of the keys' biases is zero but for rounding, some 1e-17, and Adam divides it by that and
1e-8.

The default is some ways to lay eight devices out; VIT_JAX_EVERY_MESH=1 in the environment makes it
all of them.
"""

import functools
import itertools
import os

import jax
import numpy as np
import pytest

from tests.training import families, processes
from vit_jax import data
from vit_jax.training.experiment import Experiment
from vit_jax.training.record import flatten
from vit_jax.training.resolve import resolve
from vit_jax.training.sharding import AXES

pytestmark = pytest.mark.slow
LOSS, PARAMETER, KEYS_BIAS = 1e-14, 1e-12, 1e-9
LAYOUTS = [sizes for sizes in itertools.product((1, 2, 4, 8), repeat=4) if np.prod(sizes) == 8]
SOME = {
    "vit": [(8, 1, 1, 1), (1, 8, 1, 1), (1, 1, 8, 1), (1, 1, 1, 8), (1, 2, 2, 2)],
    "swin": [(1, 1, 8, 1), (1, 2, 2, 2), (2, 1, 4, 1)],
    "mae": [(1, 4, 2, 1), (2, 1, 1, 4)],
    "resnet": [(1, 2, 2, 2)],
}
EVERY = bool(os.environ.get("VIT_JAX_EVERY_MESH"))
ONE = (1, 1, 1, 1)
DOUBLE = {"model.dtype": "float64", "model.param_dtype": "float64"}


@functools.cache
def source():
    return data.open_source("digits", "train")


def experiment(family, sizes):
    config = families.FAMILIES[family]()
    config.mesh.update(dict(zip(AXES, sizes)))
    with config.unlocked():
        config.update_from_flattened_dict(DOUBLE)
    resolved = resolve(config, len(source()), source().num_classes)
    return Experiment(resolved, jax.devices()[: np.prod(sizes)])


@functools.cache
def first_state(family):
    """On one device; that it is the same on any mesh is shown in test_sharding.py."""
    return jax.device_get(experiment(family, ONE).state_factory.create())


def trained(family, sizes):
    """Losses of each step, and the last parameters and averages by name."""
    with jax.enable_x64(True):
        run = experiment(family, sizes)
        state = jax.device_put(first_state(family), run.state_factory.shardings)
        with run.activate(), run.train_batches(source(), 0) as batches:
            batch, losses = next(batches), []
            step = run.train_step().lower(state, batch).compile()
            for _ in range(families.STEPS):
                state, metrics = step(state, batch, None, {})
                losses.append(metrics["loss"])
                batch = next(batches)
        found = {"loss": np.array(losses), **flatten({"params": state.params, "ema": state.ema})}
        return {name: np.asarray(x) for name, x in found.items()}


@functools.cache
def one_device(family):
    return trained(family, ONE)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        bound = LOSS if name == "loss" else KEYS_BIAS if "qkv.bias" in name else PARAMETER
        off = np.abs(ours[name] - expected).max() / np.abs(expected).max()
        assert off <= bound, f"{name} is off by {off:.1e}"


CASES = [(name, sizes) for name in families.FAMILIES for sizes in LAYOUTS]
CASES = [case for case in CASES if EVERY or case[1] in SOME[case[0]]]


@pytest.mark.parametrize("family, sizes", CASES)
def test_eight_devices_learn_what_one_learns(family, sizes):
    assert_same(trained(family, sizes), one_device(family))


MERGED = [("vit", (1, 2, 2, 2)), ("vit", (2, 2, 2, 1)), ("swin", (2, 2, 2, 1))]


@pytest.mark.parametrize("family, sizes", MERGED)
def test_with_heads_merged_as_on_tpus(family, sizes, monkeypatch):
    expected = one_device(family)
    monkeypatch.setattr("vit_jax.models.layers.linear.on_several_tpus", lambda: True)
    assert_same(trained(family, sizes), expected)


FSDP = ["mesh.fsdp=2"]
# As on a TPU slice, whose hosts are blocks of its grid: rows are not neighbours, or of both hosts.
MIXED = ["mesh.fsdp=4", "sharding_rules.batch=('fsdp','data')"]
SHARED = ["mesh.fsdp=4", "sharding_rules.batch='fsdp'"]
GROUPS = [(name, count, FSDP) for name in families.FAMILIES for count in (2, 4)]
GROUPS = GROUPS if EVERY else [("vit", 4, FSDP), ("swin", 2, FSDP)]
GROUPS += [("vit", 2, MIXED), ("vit", 2, SHARED)]


@pytest.mark.parametrize("family, count, layout", GROUPS)
def test_several_processes_learn_what_one_learns(tmp_path, family, count, layout):
    options = [f"{key}={value}" for key, value in DOUBLE.items()]
    options += [*layout, "data.eval_batch_size=360"]
    start = functools.partial(
        processes.start_train,
        tmp_path,
        *options,
        config=families.__file__,
        devices=8 // count,
        FAMILY=family,
        JAX_ENABLE_X64="1",
    )
    for process in processes.start_several(start, count):
        processes.finish(process)
    with jax.enable_x64(True):
        arrays = processes.arrays(tmp_path, families.STEPS)
    kept = {name: x for name, x in arrays.items() if name.split(".")[0] in ("params", "ema")}
    assert_same({"loss": processes.losses(tmp_path), **kept}, one_device(family))
