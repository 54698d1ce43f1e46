"""Collectives with known sizes, as XLA compiles them for simulated devices and prints them."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from vit_jax.ahead.collectives import collectives
from vit_jax.ahead.hlo_text import parse


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


def found(mesh, function, elements=64, times=1):
    """The collectives of a function of each device's (elements,) float32, called in a loop."""

    def local(x):
        if times == 1:
            return function(x)
        return lax.scan(lambda total, _: (total + function(x + total), None), x, None, times)[0]

    spec = PartitionSpec(("a", "b"))
    mapped = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    x = jax.ShapeDtypeStruct((8 * elements,), jnp.float32)
    text = jax.jit(mapped).lower(x).compile().as_text()
    return collectives(parse(text), mesh.size)


ring = [(i, (i + 1) % 4) for i in range(4)]
SENT = {  # by hand, of n = 256 bytes among g = 4: what a device sends of its own
    "all-gather": (lambda x: lax.all_gather(x, "b").sum(0), 3 * 256),
    "all-reduce": (lambda x: lax.psum(x, "b"), 2 * 3 / 4 * 256),
    "reduce-scatter": (
        lambda x: jnp.tile(lax.psum_scatter(x, "b", tiled=True), 4),
        3 / 4 * 256,
    ),
    "all-to-all": (lambda x: lax.all_to_all(x, "b", 0, 0, tiled=True), 3 / 4 * 256),
    "collective-permute": (functools.partial(lax.ppermute, axis_name="b", perm=ring), 256),
}


@pytest.mark.parametrize("kind", SENT)
def test_bytes_are_those_of_a_devices_own_data(mesh, kind):
    function, sent = SENT[kind]
    (only,) = found(mesh, function)
    assert (only.kind, only.times, only.sent) == (kind, 1, sent)
    assert only.group == (2 if kind == "collective-permute" else 4)


def test_in_a_loop_it_counts_as_often_as_that_runs(mesh):
    (only,) = found(mesh, SENT["all-reduce"][0], times=7)
    assert (only.times, only.sent) == (7, 7 * 1.5 * 256)


def test_groups_are_those_of_the_axes(mesh):
    for axes, group in (("a", 2), (("a", "b"), 8)):
        (only,) = found(mesh, lambda x, axes=axes: lax.psum(x, axes))
        assert only.group == group


def test_within_one_device_nothing_is_sent():
    alone = jax.make_mesh(
        (1, 1), ("a", "b"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1]
    )
    assert found(alone, lambda x: lax.psum(x, "b")) == []


# What libtpu prints of a matrix product behind a gathered kernel: begun before a loop, driven on in
# it, done after it. Names and sizes are made up, the form is that of libtpu 0.0.42.
OVERLAPPED = """
HloModule jit_f, is_scheduled=true

%start (param_0: bf16[8,16]) -> (bf16[8,16], bf16[32,16]) {
  %param_0 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[32,16]{1,0:T(8,128)(2,1)} all-gather(%param_0), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([2,4]T(1,0)) {'axis_1'}, dimensions={0}
  ROOT %custom-call.1 = (bf16[8,16]{1,0:T(8,128)(2,1)}, bf16[32,16]{1,0:T(8,128)(2,1)S(1)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion (param_1: bf16[8,16]) -> bf16[32,16] {
  %param_1 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[32,16]{1,0:T(8,128)(2,1)} all-gather(%param_1), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([2,4]T(1,0)) {'axis_1'}, dimensions={0}
}

%all-reduce-scatter.4 (input: f32[64]) -> f32[16] {
  %input = f32[64]{0:T(128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %all-reduce.3 = f32[64]{0:T(128)} all-reduce(%input), channel_id=9, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%sum
  ROOT %slice = f32[16]{0:T(128)} dynamic-slice(%all-reduce.3, %zero), dynamic_slice_sizes={16}
}

%body (state: (s32[], f32[64], bf16[8,16])) -> (s32[], f32[64], bf16[8,16]) {
  %state = (s32[]{:T(128)}, f32[64]{0:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %x = f32[64]{0:T(128)} get-tuple-element(%state), index=1
  %w = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=2
  %driven = bf16[32,16]{1,0:T(8,128)(2,1)} fusion(%w), kind=kCustom, calls=%async_collective_fusion
  %fusion.4 = f32[16]{0:T(128)} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.4, metadata={op_name="jit(f)/while/body/mlp/fc1"}
  ROOT %out = (s32[]{:T(128)}, f32[64]{0:T(128)}, /*index=2*/bf16[8,16]{1,0:T(8,128)(2,1)}) tuple(%next, %x, %w)
}

%condition (state.1: (s32[], f32[64], bf16[8,16])) -> pred[] {
  %end = s32[]{:T(128)} constant(12)
  %state.1 = (s32[]{:T(128)}, f32[64]{0:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%at, %end), direction=LT
}

ENTRY %main (w.1: bf16[8,16], x.1: f32[64]) -> f32[64] {
  %w.1 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %x.1 = f32[64]{0:T(128)} parameter(1)
  %async = (bf16[8,16]{1,0:T(8,128)(2,1)}, bf16[32,16]{1,0:T(8,128)(2,1)S(1)}) fusion(%w.1), kind=kCustom, calls=%start
  %first = s32[]{:T(128)} constant(0)
  %begin = (s32[]{:T(128)}, f32[64]{0:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) tuple(%first, %x.1, %w.1)
  %loop = (s32[]{:T(128)}, f32[64]{0:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) while(%begin), condition=%condition, body=%body
  ROOT %result = f32[64]{0:T(128)} get-tuple-element(%loop), index=1
}
"""  # noqa: E501, as the compiler writes it


def test_what_a_tpu_overlaps_counts_once_and_where_it_begins():
    gathered, scattered = collectives(parse(OVERLAPPED), 8)
    assert (gathered.kind, gathered.group, gathered.times) == ("all-gather", 4, 1)
    assert gathered.sent == 3 * 8 * 16 * 2
    assert (scattered.kind, scattered.group, scattered.times) == ("reduce-scatter", 4, 12)
    assert scattered.sent == 12 * 3 / 4 * 64 * 4


def test_memory_spaces_and_tuples_are_read():
    program = parse(OVERLAPPED)
    fusion = program.computations["main"].instructions["async"]
    assert [array.space for array in fusion.arrays] == [0, 1]
    assert [array.bytes for array in fusion.arrays] == [256, 1024]


GROUPS = {  # how XLA writes who exchanges, and among how many that is
    "replica_groups={{0,1,2,3},{4,5,6,7}}": 4,
    "replica_groups={}": 8,
    "replica_groups=[2,4]<=[8]": 4,
    "replica_groups=[8,32]<=[256]": 32,
    "replica_groups=[32,8]<=[8,32]T(1,0)": 8,
    "replica_groups=mesh['a'=2,'b'=4] {'b'}": 4,
    "replica_groups=mesh['a'=2,'b'=4] {'a','b'}": 8,
    "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}": 4,
    "replica_groups=mesh['a'=8] {'a':(2)4}": 4,  # a part of an axis: 4 of its 8
    "replica_groups=mesh['a'=8,'b'=4], device_ids=([4,8]T(1,0)) {'a':(1)2,'b'}": 8,
}


@pytest.mark.parametrize("groups", GROUPS)
def test_groups_are_read_however_they_are_written(groups):
    text = f"""
ENTRY %main (x: f32[64]) -> f32[64] {{
  %x = f32[64]{{0}} parameter(0)
  ROOT %sum = f32[64]{{0}} all-reduce(%x), channel_id=1, {groups}, use_global_device_ids=true
}}
"""
    (only,) = collectives(parse(text), 8)
    assert only.group == GROUPS[groups]


@pytest.mark.parametrize("opcode", ["fusion", "call", "async"])
def test_collectives_within_what_runs_asynchronously_count_once(opcode):
    called = "to_apply" if opcode == "call" else "calls"
    text = f"""
%inner (y: f32[64]) -> f32[64] {{
  %y = f32[64]{{0}} parameter(0)
  ROOT %sum = f32[64]{{0}} all-reduce(%y), channel_id=1, replica_groups={{{{0,1}},{{2,3}}}}
}}

ENTRY %main (x: f32[64]) -> f32[64] {{
  %x = f32[64]{{0}} parameter(0)
  %s = ((f32[64]{{0}}), f32[64]{{0}}, s32[]) {opcode}-start(%x), {called}=%inner
  ROOT %d = f32[64]{{0}} {opcode}-done(%s)
}}
"""
    (only,) = collectives(parse(text), 4)
    assert (only.kind, only.group, only.sent) == ("all-reduce", 2, 256)


# What libtpu prints where slices sum something, and where a channel has the number of another one.
BETWEEN = """
HloModule jit_f, is_scheduled=true

ENTRY %main (x: f32[16,128]) -> f32[2,8,128] {
  %x = f32[16,128]{1,0:T(8,128)} parameter(0)
  %token = token[] after-all(), frontend_attributes={MegascaleRendezvousKeyName="all-reduce.5_0"}
  %part = f32[2,8,128]{2,1,0:T(8,128)} bitcast(%x)
  %summed = f32[2,8,128]{2,1,0:T(8,128)} all-reduce(%part), channel_id=2, use_global_device_ids=true, to_apply=%sum
  %send = (f32[2,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%summed, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.5_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2,3,4}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[2,8,128]{2,1,0:T(8,128)}, u32[], token[]) recv(%token), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2,3,4}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %sent = token[] send-done(%send), channel_id=2, is_host_transfer=true
  %received = (f32[2,8,128]{2,1,0:T(8,128)}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true
  ROOT %result = f32[2,8,128]{2,1,0:T(8,128)} get-tuple-element(%received), index=0
}
"""  # noqa: E501, as the compiler writes it


def test_what_goes_from_slice_to_slice_is_told_apart():
    """Four slices of four devices: a sum within each, then one over the four."""
    within, between = collectives(parse(BETWEEN), 16, slices=4)
    sent = 2 * 3 / 4 * 2 * 8 * 128 * 4
    assert (within.kind, within.group, within.sent) == ("all-reduce", 4, sent)
    assert (between.kind, between.group, between.sent) == ("all-reduce", 4, sent)
    assert between.between_slices and not within.between_slices
