import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.training import tiny
from vit_jax.training.experiment import Experiment
from vit_jax.training.report import bytes_a_device, bytes_text, parameter_table, run_header
from vit_jax.training.resolve import resolve


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


PARAMS = {
    "head": {"kernel": jax.ShapeDtypeStruct((1000, 8), jnp.float32)},
    "blocks": {"fc": {"kernel": jax.ShapeDtypeStruct((3, 8, 4), jnp.bfloat16)}},
    "scale": jax.ShapeDtypeStruct((), jnp.float32),
}


def test_every_parameter_has_a_line(mesh):
    specs = {
        "head": {"kernel": PartitionSpec(("fsdp", "tensor"))},
        "blocks": {"fc": {"kernel": PartitionSpec(None, "fsdp", "tensor")}},
        "scale": PartitionSpec(),
    }
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    rows = [line.split() for line in parameter_table(PARAMS, shardings).splitlines()]
    assert rows == [
        ["name", "shape", "dtype", "sharding", "a", "device", "size"],
        ["blocks/fc/kernel", "3x8x4", "bfloat16", "-,fsdp,tensor", "48", "bytes", "96"],
        ["head/kernel", "1000x8", "float32", "fsdp+tensor,-", "7.8", "KiB", "8,000"],
        ["scale", "scalar", "float32", "-", "4", "bytes", "1"],
        ["total", "31.4", "KiB", "7.9", "KiB", "8,097"],
    ]
    assert bytes_a_device(PARAMS, shardings) == 3 * 4 * 2 * 2 + 250 * 8 * 4 + 4


def test_it_is_known_before_anything_is_allocated():
    config = tiny.get_config()
    config.mesh.update(data=2, fsdp=2, tensor=2)
    config.accumulate_steps = 1
    before = {id(x) for x in jax.live_arrays()}
    state = Experiment(resolve(config, 1000, 10)).state_factory
    table = parameter_table(state.shapes.params, state.shardings.params)
    assert bytes_a_device(state.shapes, state.shardings) > 0
    assert {id(x) for x in jax.live_arrays()} <= before
    [line] = [line for line in table.splitlines() if "attn/qkv/kernel" in line]
    assert line.split()[3:6] == ["-,fsdp,-,tensor,-", "6.0", "KiB"]


def test_arrays_bring_their_own_sharding(mesh):
    place = NamedSharding(mesh, PartitionSpec("data"))
    table = parameter_table({"x": jax.device_put(jnp.zeros((4, 2)), place)})
    assert table.splitlines()[1].split() == ["x", "4x2", "float32", "data,-", "16", "bytes", "8"]


def test_columns_line_up(mesh):
    lines = parameter_table(PARAMS).splitlines()
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    "width, columns",
    [
        (79, "name shape dtype sharding a_device size"),
        (78, "name shape dtype sharding a_device"),
        (71, "name shape sharding a_device"),
        (10, "name shape sharding a_device"),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns(width, columns):
    """Of two dtypes each has to be said."""
    shape = (32, 3, 4, 16)
    params = {"encoder/blocks_1/attn/qkv/kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
    lines = parameter_table(params, width=width).splitlines()
    assert lines[0].replace("a device", "a_device").split() == columns.split()
    assert width < 62 or max(map(len, lines)) <= width
    assert "dtype" in parameter_table(params | {"x": PARAMS["blocks"]}, width=20).splitlines()[0]


def test_the_header_says_what_runs_where(mesh):
    text = run_header(
        "vit_tiny", PARAMS, PARAMS, (2.5e9, 7.5e9), mesh, 64, state_bytes=6144, accumulate_steps=2
    )
    kind = jax.devices()[0].device_kind
    assert text.splitlines() == [
        "model   vit_tiny: 8,097 parameters, 31.4 KiB of bfloat16 and float32",
        "compute 2.5 GFLOPs an image forward, 7.5 in training",
        f"mesh    data=2 x fsdp=2 x tensor=2: 8 devices ({kind}), 1 process",
        "state   6.0 KiB on each device",
        "batch   64 images an update, 8 at a time on each of 4 shards, accumulated over 2 parts",
    ]


def test_the_header_says_how_many_are_trained(mesh):
    text = run_header("vit_tiny", PARAMS, {"head": PARAMS["head"]}, (1, 3), mesh, 64, state_bytes=0)
    assert "8,097 parameters, 31.4 KiB of bfloat16 and float32, of which 8,000 are trained" in text


def test_large_numbers_keep_their_digits(mesh):
    text = run_header("vit_22b", PARAMS, PARAMS, (11.586e12, 34.758e12), mesh, 64, state_bytes=0)
    assert "11,586 GFLOPs an image forward, 34,758 in training" in text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (346_270_624, "330.2 MiB"),
        (1.5 * 2**40, "1.5 TiB"),
    ],
)
def test_bytes_text(count, text):
    assert bytes_text(count) == text
