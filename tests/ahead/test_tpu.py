"""Programs that libtpu compiles for TPUs that are not there."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.experimental import pallas as pl
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.ahead.plain import CHANGES, plain
from tests.training.processes import TINY
from vit_jax.ahead.collectives import KINDS, collectives
from vit_jax.ahead.compile_ahead import compile_ahead
from vit_jax.ahead.flops import flops
from vit_jax.ahead.hlo_text import parse
from vit_jax.ahead.program import kernel_in, space_in
from vit_jax.ahead.topology import devices_of
from vit_jax.errors import UserError
from vit_jax.models.layers import attention, attention_tpu
from vit_jax.models.layers.linear import Linear, split_parts
from vit_jax.models.layers.short_attention import attend_at_once
from vit_jax.training import sharding
from vit_jax.training.hardware import chip

pytest.importorskip("libtpu", reason="the compiler of TPUs is not installed: pip install libtpu")


def compiled_attention(tokens, head_dim, backend, batch=4, heads=2, topology="v5e:2x2"):
    """Forward and backward pass of attention on some chips, each with its part of the batch."""
    mesh = Mesh(devices_of("tpu", topology, None), ("data",), axis_types=(AxisType.Auto,))
    place = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((batch, tokens, heads, head_dim), jnp.bfloat16, sharding=place)

    def loss(q, k, v):
        mixed, _ = attention.attend(q, k, v, backend=backend)
        return jnp.square(mixed.astype(jnp.float32)).sum()

    with jax.set_mesh(mesh), nn.logical_axis_rules((("batch", "data"),)):
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    return compiled, parse(compiled.as_text())


def squares(program, tokens):
    """Arrays with two dimensions of at least as many as there are tokens."""
    arrays = {
        array
        for computation in program.computations.values()
        for instruction in computation.instructions.values()
        for array in instruction.arrays
    }
    return {array for array in arrays if sum(size >= tokens for size in array.shape) >= 2}


@pytest.mark.parametrize(
    "tokens, head_dim", [(197, 64), (257, 80), (1024, 64), (4097, 64), (16384, 64)]
)
def test_the_attention_kernel_compiles_and_keeps_no_weights(tokens, head_dim):
    compiled, program = compiled_attention(tokens, head_dim, "pallas")
    # Forward, and one or two of the backward pass.
    kernels = 2 if tokens < attention_tpu.FLASH_MIN_TOKENS else 3
    assert compiled.as_text().count('"tpu_custom_call"') == kernels
    assert not squares(program, tokens)
    # Nothing that grows with the square: at most what is padded, and 128 lanes for each token.
    padded = -(-tokens // 128) * 128
    lanes = 4 * 128 + 8 * 2 * 128  # softmax statistics in float32; q, k, v, out, gradients
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * 2 * padded * lanes


def test_the_plain_attention_does_keep_them():
    _, program = compiled_attention(1025, 64, "xla")
    assert squares(program, 1025)


@pytest.mark.parametrize("tokens", [197, attention_tpu.FLASH_MIN_TOKENS])
def test_the_kernel_is_chosen_for_the_chips_that_are_compiled_for(tokens):
    """Though this process computes on the CPU."""
    compiled, _ = compiled_attention(tokens, 64, "auto")
    assert '"tpu_custom_call"' in compiled.as_text()


@pytest.mark.parametrize("topology", ["v2:2x2", "v3:2x2"])
def test_chips_that_cannot_run_it_have_products_of_xla(topology):
    compiled, _ = compiled_attention(197, 64, "auto", batch=8, topology=topology)
    assert '"tpu_custom_call"' not in compiled.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("tokens, heads, head_dim", [(257, 16, 104), (577, 16, 64)])
def test_what_the_kernel_of_few_tokens_takes_fits_the_smallest_core(tokens, heads, head_dim):
    """ViT-G/14, whose heads have to be taken together, and ViT-L/16 of 384 pixels, in groups."""
    chip = jax.sharding.SingleDeviceSharding(devices_of("tpu", "v4:2x2x1", None)[0])
    x = jax.ShapeDtypeStruct((2, tokens, heads * head_dim), jnp.bfloat16, sharding=chip)

    def loss(*qkv):
        return attend_at_once(*qkv, heads).astype(jnp.float32).sum()

    jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()


def test_flops_of_the_kernels_are_those_of_attention():
    """2 products forward; backward 7, of which 3 are computed again, or 5 where all are at hand."""
    for tokens, products in ((1024, 2 + 4 + 3), (256, 2 + 5)):
        _, program = compiled_attention(tokens, 128, "pallas")
        found = flops(program)
        product = 2 * tokens**2 * 128 * 2  # one example a chip, two heads
        assert not found.unknown_kernels
        assert found.count == pytest.approx(products * product, rel=0.02)  # softmax, in the forward


@pytest.fixture(scope="module")
def report():
    """Of a recipe that says itself what it is meant for."""
    place = ("tpu_topology=v5e:2x2", "mesh.fsdp=2")
    return compile_ahead(
        plain("model.embed_dim=128", "data.batch_size=4096", "model.dtype=bfloat16", *place)
    )


def test_a_train_step_compiles(report):
    assert (report.devices, report.device_kind, report.fits) == (4, "TPU v5 lite", True)
    assert report.mesh["data"] == report.mesh["fsdp"] == 2
    assert report.memory.arguments >= report.state_bytes
    assert 0 < report.memory.total < report.capacity == 15.75 * 2**30


def test_its_flops_are_those_counted_on_paper(report):
    """But for the first layer, whose input takes no gradient: at most 1 in 8 of a shallow model."""
    assert 0.85 < report.flops / report.model_flops < 1.05


def test_its_kernels_are_gathered_and_its_gradients_summed(report):
    """Of P parameters in bfloat16, a device sends P bytes in each of these: it gathers the other
    half of the kernels forward and backward, and sums its half of the gradients over either axis.
    """
    assert set(report.collectives) <= set(KINDS)
    assert 3 < report.sent / report.parameters < 8
    assert report.roofline.seconds > 0 and 0 < report.roofline.share < 1


@pytest.mark.parametrize(
    "width, heads", [pytest.param(768, 12, marks=pytest.mark.slow), (1280, 16)]
)
def test_gradients_of_heads_are_scattered(width, heads):
    """Summed over `fsdp`, of which each device keeps a part, and that part over `data`."""
    sizes = {"data": 2, "fsdp": 4, "sequence": 1, "tensor": 1}
    mesh = sharding.make_mesh(sizes, devices_of("tpu", "v5e:2x4", None))
    of_heads = (heads, width // heads)
    axes = ("embed", "qkv", "heads", "head_dim")
    qkv = Linear((3, *of_heads), axes, parts=True, use_bias=False)
    proj = Linear((width,), ("heads", "head_dim", "embed"), inputs=2, use_bias=False)

    def loss(kernels, x):
        heads = qkv.apply({"params": {"kernel": kernels[0]}}, x)
        q, k, v = split_parts(heads, axes[1:])
        out = proj.apply({"params": {"kernel": kernels[1]}}, q * k + v)
        return jnp.square(out.astype(jnp.float32)).sum()

    def shape(*sizes, spec):
        place = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(sizes, jnp.bfloat16, sharding=place)

    kernels = (
        shape(width, 3, *of_heads, spec=("fsdp",)),
        shape(*of_heads, width, spec=(None, None, "fsdp")),
    )
    places = jax.tree.map(lambda kernel: kernel.sharding, kernels)
    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(loss), out_shardings=places)
        lowered = gradient.lower(kernels, shape(64, 64, width, spec=(("data", "fsdp"),)))
        text = lowered.compile().as_text()
    sent = dict.fromkeys(KINDS, 0.0)
    for found in collectives(parse(text), mesh.size):
        assert found.kind != "all-reduce" or found.group == sizes["data"]
        sent[found.kind] += found.sent
    whole = 2 * 4 * width**2  # bytes of both kernels
    assert sent["reduce-scatter"] == pytest.approx(3 / 4 * whole, rel=0.1)  # it may pad
    assert sent["all-reduce"] == pytest.approx(2 * 1 / 2 * whole / 4, rel=0.01)


@pytest.mark.parametrize(
    "sizes, product", [({"data": 8}, (3 * 64,)), ({"data": 4, "tensor": 2}, (3, 64))]
)
def test_parts_are_one_axis_of_a_product(sizes, product):
    """Of heads that devices split, each has some of every part."""
    sizes = dict.fromkeys(("data", "fsdp", "sequence", "tensor"), 1) | sizes
    mesh = sharding.make_mesh(sizes, devices_of("tpu", "v5e:2x4", None))
    module, x = attention.Attention(num_heads=4), jax.ShapeDtypeStruct((8, 196, 64), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    rules = (("batch", "data"), ("heads", "tensor"))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        text = str(jax.jit(module.apply).trace(params, x).jaxpr)
    shape = ",".join(map(str, (8, 196, *product)))
    assert f"f32[{shape}] = dot_general" in text


def test_a_step_that_is_too_large_is_an_answer(call, tmp_path):
    """With an exit code that no error has."""
    overrides = [f"--config.{change}" for change in (*CHANGES, f"data.batch_size={2**24}")]
    place = ["--topology", "v5e:2x2", "--mesh", "data=4", "--json", tmp_path / "report.json"]
    code, out, _ = call("compile", "--config", TINY, *place, *overrides)
    assert code == 3 and "DOES NOT FIT" in out
    found = json.loads((tmp_path / "report.json").read_text())
    assert not found["fits"] and found["needed"] > found["capacity"] == int(15.75 * 2**30)


def test_a_kernel_that_is_too_large_for_a_core_is_named():
    """Its blocks of 64 MiB, two of the input and two of the output, are more than a core's VMEM."""
    chip = jax.sharding.SingleDeviceSharding(devices_of("tpu", "v5e:2x2", None)[0])
    x = jax.ShapeDtypeStruct((8192, 4096), jnp.float32, sharding=chip)
    block = pl.BlockSpec((4096, 4096), lambda i: (i, 0))

    def corner(x_ref, out_ref):
        out_ref[:8, :128] = x_ref[:8, :128]

    kernel = pl.pallas_call(corner, out_shape=x, grid=(2,), in_specs=[block], out_specs=block)
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        jax.jit(lambda x: kernel(x)).lower(x).compile()
    assert space_in(str(error.value)) is None
    assert "pallas_call takes more VMEM than a core of the chip has" in kernel_in(str(error.value))


@pytest.mark.slow
@pytest.mark.parametrize(
    "topology", ["v2:2x2", "v3:2x2", "v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"]
)
def test_usable_memory_is_what_the_compiler_has(topology):
    """It says so of a program that adds 1 to 200 GiB a device."""
    devices = devices_of("tpu", topology, None)
    place = NamedSharding(Mesh(devices, ("data",)), PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((len(devices) * 200 * 2**30,), jnp.int8, sharding=place)
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        jax.jit(lambda x: x + 1).lower(x).compile()
    available = space_in(str(error.value))[1]
    assert available == pytest.approx(chip(devices[0]).usable, abs=0.005 * 2**30)  # two digits


@pytest.mark.slow
def test_traffic_does_not_grow_with_the_chips():
    """Data parallel, the same images a chip: the same collectives of the same arrays."""
    found = []
    for topology, chips in (("v5e:2x4", 8), ("v5e:8x8", 64), ("v5e:16x16", 256)):
        images = 16 * chips
        config = plain(f"data.batch_size={images}", f"data.eval_batch_size={images}")
        found.append(compile_ahead(config, "tpu", topology=topology, mesh={"data": chips}))
    counts = [{kind: x.count for kind, x in report.collectives.items()} for report in found]
    assert counts[0] == counts[1] == counts[2]
    chips = np.array([report.devices for report in found])
    sent = np.array([report.sent for report in found])
    np.testing.assert_allclose(sent / (1 - 1 / chips), sent[0] / (1 - 1 / chips[0]), rtol=1e-3)


@pytest.mark.parametrize(
    "topology, message",
    [
        (None, "needs a topology, such as v5e:16x16"),
        ("v5:2x2", "unknown TPU 'v5': did you mean 'v5"),
        ("v5e-4", "unknown TPU 'v5e-4'"),
        ("v5e:4", "expected KIND:SIDES"),
        ("v5e:3x3", r"libtpu has no topology 'v5e:3x3' \(.*usual ones of v5e are 1x1, 2x2"),
    ],
)
def test_topologies_that_there_are_not(topology, message):
    with pytest.raises(UserError, match=message):
        devices_of("tpu", topology, None)


def test_what_is_said_counts_more_than_the_recipe():
    config = plain("tpu_topology=v5e:3x3")
    with pytest.raises(UserError, match="libtpu has no topology 'v5e:3x3'"):
        compile_ahead(config)
    with pytest.raises(UserError, match="libtpu has no topology 'v5e:5x5'"):
        compile_ahead(config, topology="v5e:5x5")


@pytest.mark.parametrize("topology, devices", [("v5e:1x1", 1), ("v6e:16x16", 256), ("v3:2x2", 8)])
def test_topologies_that_there_are(topology, devices):
    assert len(devices_of("tpu", topology, None)) == devices


@pytest.mark.parametrize("topology, devices", [("v4:2x2x1", 4), ("2xv4:2x2x2", 16)])
def test_a_v4_has_one_device_a_chip(topology, devices):
    """As JAX on one has: both cores of a chip are a device."""
    found = devices_of("tpu", topology, None)
    assert {device.device_kind for device in found} == {"TPU v4"}
    assert len(found) == devices


def test_the_process_keeps_its_environment(monkeypatch):
    """A program that runs later is not told that it is on a TPU."""
    for name in [*os.environ]:
        if name.startswith("TPU_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "mine")
    before = dict(os.environ)
    devices_of("tpu", "v5e:2x2", None)
    assert dict(os.environ) == before
