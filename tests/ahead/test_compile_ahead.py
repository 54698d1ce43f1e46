"""Reports on train steps compiled for simulated devices, against what is known of them."""

import dataclasses
import functools
import json
import math
import re

import jax
import numpy as np
import pytest

from tests.ahead.plain import CHANGES, plain
from tests.training.processes import TINY
from vit_jax.ahead import data_sizes, program
from vit_jax.ahead.collectives import Collective
from vit_jax.ahead.compile_ahead import compile_ahead
from vit_jax.ahead.hlo import Array
from vit_jax.ahead.roofline import roofline
from vit_jax.ahead.teacher import described_model
from vit_jax.errors import UserError
from vit_jax.training.experiment import Experiment
from vit_jax.training.hardware import chip
from vit_jax.training.resolve import resolve


def report(*overrides, mesh=None):
    mesh = {"data": 2, "fsdp": 2} if mesh is None else mesh
    return compile_ahead(plain(*overrides), "cpu", mesh=mesh)


@pytest.fixture(scope="module")
def scanned():
    return report()


@pytest.mark.slow
def test_flops_do_not_depend_on_how_depth_is_written(scanned):
    """A scan's body counts as often as it runs: as if it were unrolled."""
    unrolled = report("model.scan=False")
    assert scanned.flops == unrolled.flops
    assert scanned.flops == pytest.approx(scanned.model_flops, rel=0.1)


def test_recomputing_is_counted_in_the_program_and_not_in_the_model(scanned):
    again = report("model.remat=full")
    assert again.model_flops == scanned.model_flops
    forward = scanned.model_flops / 3
    assert again.flops - scanned.flops == pytest.approx(forward, rel=0.25)  # all but the head


def test_the_state_is_that_of_the_run(scanned):
    """Arguments are the state, the batch and what the loop sends along, each device's part."""
    config = plain("mesh.data=2", "mesh.fsdp=2")
    experiment = Experiment(resolve(config, 1437, 10), jax.devices()[:4])
    state = experiment.state_factory.create()
    device = jax.devices()[0]
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(state)
        for shard in leaf.addressable_shards
        if shard.device == device
    )
    assert scanned.state_bytes == held
    assert scanned.parameters == sum(x.size for x in jax.tree.leaves(state.params))
    batch = 32 // 4 * (8 * 8 * 1 + 4 + 4) + 4
    assert scanned.memory.arguments == pytest.approx(held + batch, abs=64)
    assert scanned.memory.aliased == held  # the state is donated


@pytest.mark.slow
def test_traffic_does_not_grow_with_the_devices():
    """Data parallel on 2, 4 and 8 devices with 8 images each: the same collectives and arrays."""
    reports = [report(f"data.batch_size={8 * n}", mesh={"data": n}) for n in (2, 4, 8)]
    for found, n in zip(reports, (2, 4, 8)):
        assert set(found.collectives) == {"all-reduce"}
        sums = found.collectives["all-reduce"]
        assert sums.count == reports[0].collectives["all-reduce"].count
        # A ring's share of the same bytes: those of every gradient, and a few scalars and vectors.
        bytes_in = sums.bytes / (2 * (n - 1) / n)
        assert 1 <= bytes_in / (4 * found.trained) < 1.1
        assert bytes_in == pytest.approx(reports[0].collectives["all-reduce"].bytes, rel=1e-3)
        assert found.flops == pytest.approx(reports[0].flops)


def test_the_report_is_for_people_and_for_programs(scanned):
    lines = str(scanned)
    assert f"{scanned.parameters:,} parameters" in lines and "4 x cpu" in lines
    found = json.loads(scanned.to_json())
    assert found["memory"]["total"] == found["needed"] == scanned.memory.total
    assert found["sent"] == sum(x["bytes"] for x in found["collectives"].values())
    assert found["roofline"] is None and found["fits"]  # no rates are published of "cpu"


def test_lines_fit_a_terminal(scanned):
    name = "jit(f)/transpose(jvp(Model))/" + "/".join(["a.part.of.the.model"] * 6)
    arrays = (Array("bf16", (1, 768, 3, 12, 64)),) * 5
    sent = Collective("all-reduce", arrays, 256, 24, name)
    lines = str(dataclasses.replace(scanned, largest=(sent,), notes=("words " * 40,))).splitlines()
    assert max(map(len, lines)) <= 80
    assert "bf16[1,768,3,12,64] and 2 more among 256" in "".join(lines)
    assert f"{'':12}  backward of a.part.of.the.model/a.part.of.the.model" in lines
    words = " ".join(lines).split()
    assert words.count("words") == 40


def test_the_roofline_is_the_slowest_of_three():
    rates = chip(type("Device", (), {"device_kind": "TPU v5 lite"}))
    found = roofline(rates, flops=197e12, moved=819e9 / 2, sent=100e9, model_flops=197e12 / 2)
    assert (found.compute, found.memory, found.interconnect) == pytest.approx((1, 0.5, 0.5))
    assert (found.seconds, found.bound, found.share) == pytest.approx((1, "compute", 0.5))
    sending = roofline(rates, flops=0, moved=0, sent=400e9, model_flops=197e12)
    assert (sending.bound, sending.seconds, sending.share) == pytest.approx(
        ("interconnect", 2, 0.5)
    )


def test_no_more_than_the_peak_is_left():
    """The model's own count may be above the program's, which leaves the input's gradient out."""
    rates = chip(type("Device", (), {"device_kind": "TPU v5 lite"}))
    found = roofline(rates, flops=1e12, moved=0, sent=0, model_flops=1.01e12)
    assert (found.bound, found.share) == ("compute", 1)


@pytest.mark.parametrize(
    "said, needed, available",
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (20.98G) exceeds available HBM (15.75G).",
            20.98,
            15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 16.09G of 15.75G hbm. "
            "Exceeded hbm capacity by 351.36M.",
            16.09,
            15.75,
        ),
    ],
)
def test_the_compilers_words_are_understood(said, needed, available):
    found = program.space_in(said)
    assert found == pytest.approx((needed * 2**30, available * 2**30), abs=1)


# Of kernels that take more of a core's own memory than it has: what libtpu 0.0.42 says, shortened.
WINDOW = (
    "RESOURCE_EXHAUSTED: Allocation (size={0}) would exceed memory (size={1}) :: #allocation2 "
    "[shape = 'u8[{0}]{{0}}', space={2}, size = 0xf42400, scoped, tag = 'input window allocation "
    "for operator input 0. The u8 shape/size shown above represents the raw byte size of this "
    "window in VMEM. This allocation is single buffered.'] :: shard_map.12"
)
BUFFERS = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory \
space vmem. Used 256.00M of 128.00M vmem. Exceeded vmem capacity by 128.00M.

Program vmem requirement 256.00M:
    scoped          256.00M

  Largest program allocations in vmem:

  1. Size: 128.00M
     Operator: op_name="jit(f)/shard_map/pallas_call"
     Shape: u8[134217728]{0}
"""


@pytest.mark.parametrize(
    "said, sentence",
    [
        (
            WINDOW.format(268435456, 134217728, "vmem"),
            "shard_map.12 takes more VMEM than a core of the chip has (Allocation (size=268435456) "
            "would exceed memory (size=134217728)): ",
        ),
        (
            WINDOW.format(16000000, 1048576, "smem"),
            "shard_map.12 takes more SMEM than a core of the chip has (Allocation (size=16000000) "
            "would exceed memory (size=1048576)): ",
        ),
        (
            BUFFERS,
            "jit(f)/shard_map/pallas_call takes more VMEM than a core of the chip has (XLA:TPU "
            "compile permanent error. Ran out of memory in memory space vmem. Used 256.00M of "
            "128.00M vmem. Exceeded vmem capacity by 128.00M): ",
        ),
    ],
)
def test_a_kernel_that_is_too_large_is_no_step_that_is(said, sentence):
    assert program.space_in(said) is None
    assert program.kernel_in(said).startswith(sentence)


def test_a_kernel_that_is_too_large_is_the_users_to_change(monkeypatch):
    """The compiler's error, where it compiles: no chip is here whose kernels could be too large."""

    def compile(self, *_args, **_kwargs):
        raise jax.errors.JaxRuntimeError(BUFFERS)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile)
    with pytest.raises(UserError, match=r"pallas_call takes more VMEM .*attn_backend=xla"):
        report()


def test_other_errors_of_the_compiler_are_not():
    assert program.space_in("INTERNAL: 2.0G of 3.0G") is None
    assert program.space_in("RESOURCE_EXHAUSTED: too many files") is None
    assert program.kernel_in("INTERNAL: space=vmem") is None
    assert program.kernel_in("RESOURCE_EXHAUSTED: too many files") is None
    assert program.kernel_in("RESOURCE_EXHAUSTED: Used 16.09G of 15.75G hbm.") is None


TEACHER = ("objective.name=distillation", "objective.teacher=runs/not_there")


def test_a_teacher_is_known_by_its_name():
    """Its weights are shapes, split as the student's are."""
    overrides = (*TEACHER, "objective.teacher_model=vit_tiny_patch16_224", "model.in_chans=3")
    config = resolve(plain(*overrides, "mesh.data=1", "mesh.fsdp=4"), 1437, 10)
    load_model = functools.partial(described_model, num_classes=10)
    experiment = Experiment(config, jax.devices()[:4], load_model=load_model)
    found = experiment.constant_shapes()["teacher"]
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(found))
    kernel = found["head"]["kernel"]
    assert kernel.shape == (192, 10) and kernel.sharding.shard_shape(kernel.shape) == (48, 10)


def test_a_teacher_that_is_not_here_and_has_no_name():
    with pytest.raises(UserError, match=r"is not here: .*teacher_model=NAME"):
        report(*TEACHER)


def test_the_configuration_of_another_library_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match=r"is not here: .*teacher_model=NAME"):
        described_model(str(tmp_path), "last", None, 10)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(platform="tpus"), "unknown platform 'tpus': did you mean 'tpu'"),
        (dict(mesh={"dat": 2}), "unknown mesh axis 'dat': did you mean 'data'"),
        (dict(mesh={"data": -1}), "say how many, as in --mesh data=4,fsdp=2"),
        (dict(platform=None), r"names no TPU \(config\.tpu_topology\): say what to compile for"),
        (dict(topology="v5e:2x2"), "'v5e:2x2' is one of TPUs"),
        (dict(mesh={"data": 999}), "999 devices, and JAX has started with 8"),
        (dict(mesh={"data": 3}), "batch_size 32 is not divisible by 3"),
    ],
)
def test_what_cannot_be(options, message):
    options = {"platform": "cpu", "mesh": {"data": 2}, **options}
    with pytest.raises(UserError, match=message):
        compile_ahead(plain(), **options)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is one")
def test_gpus_have_to_be_there():
    with pytest.raises(UserError, match="needs one of the kind attached"):
        compile_ahead(plain(), "gpu", mesh={"data": 2})


def test_unknown_data_needs_the_number_of_classes(tmp_path):
    config = plain("data.source=folder:not/there")
    with pytest.raises(UserError, match="set --num-classes, or --config"):
        compile_ahead(config, "cpu", mesh={"data": 2})


def test_the_command_writes_what_it_prints(call, tmp_path):
    overrides = [f"--config.{override}" for override in CHANGES]
    arguments = ["compile", "--config", TINY, "--platform", "cpu", "--mesh", "data=2, fsdp=2"]
    code, out, err = call(*arguments, "--json", tmp_path / "report.json", *overrides)
    assert code == 0, err
    found = json.loads((tmp_path / "report.json").read_text())
    assert f"{found['parameters']:,} parameters" in out
    assert found["mesh"]["data"] == found["mesh"]["fsdp"] == 2
    assert math.prod(found["mesh"].values()) == found["devices"] == 4
    assert re.search(
        r"^tracing the train step of vit_tiny\w*\ntraced in \d+ s, compiling$", err, re.M
    )


def test_a_report_that_has_no_place_is_refused_at_once(call, tmp_path):
    for place in (tmp_path / "none" / "report.json", tmp_path):
        code, out, err = call("compile", "--config", TINY, "--platform", "cpu", "--json", place)
        assert (code, out) == (2, "")
        assert f"--json {place}: expected the name of a file in a folder" in err
        assert "tracing" not in err


@pytest.mark.parametrize(
    "numbers, message",
    [
        (dict(num_classes=0), "--num-classes is 0; expected 1 or more"),
        (dict(train_examples=0), "--train-examples is 0; expected 1 or more"),
        (dict(train_examples=-5), "--train-examples is -5; expected 1 or more"),
        (
            dict(num_classes=7),
            "--num-classes is 7 and config.model.num_classes is 10: leave one out",
        ),
    ],
)
def test_numbers_of_the_data_that_cannot_be(numbers, message):
    with pytest.raises(UserError, match=message):
        compile_ahead(plain("model.num_classes=10"), "cpu", mesh={"data": 2}, **numbers)


@pytest.mark.parametrize("mesh", ["data:2", "data=²", "data=two", "data=2,data=2"])
def test_a_mesh_that_cannot_be_read(call, mesh):
    code, _, err = call("compile", "--config", TINY, "--platform", "cpu", "--mesh", mesh)
    assert code == 2 and "expected AXIS=N,... such as data=64,fsdp=4" in err


def test_sizes_are_those_of_the_data_that_is_here():
    from vit_jax import data

    source = data.open_source("digits", "train", None)
    assert data_sizes.SIZES["digits"] == (len(source), source.num_classes)
    assert np.all([examples > classes for examples, classes in data_sizes.SIZES.values()])
