"""Bytes of a TPU's main memory, which has vector memory (space 1, "S(1)") beside it.

What is in text is of the form in which libtpu 0.0.42 prints it; names and sizes are made up.
"""

import jax
import jax.numpy as jnp
import pytest

from vit_jax.ahead.accessed import bytes_accessed
from vit_jax.ahead.hlo_text import parse
from vit_jax.ahead.topology import devices_of

PROGRAM = """
HloModule jit_f, is_scheduled=true

%sum (x: f32[], y: f32[]) -> f32[] {{
  %x = f32[]{{:T(128)S(2)}} parameter(0)
  %y = f32[]{{:T(128)S(2)}} parameter(1)
  ROOT %add = f32[]{{:T(128)S(2)}} add(%x, %y)
}}

%twice (part: f32[1024]) -> f32[1024] {{
  %part = f32[1024]{{0:T(1024)}} parameter(0)
  ROOT %doubled = f32[1024]{{0:T(1024)}} add(%part, %part)
}}

ENTRY %main (a: f32[1024], b: f32[256], i: s32[]) -> f32[256] {{
  %a = f32[1024]{{0:T(1024)}} parameter(0)
  %b = f32[256]{{0:T(256)}} parameter(1)
  %i = s32[]{{:T(128)S(2)}} parameter(2)
  %kept = f32[1024]{{0:T(1024)S(1)}} custom-call(), custom_call_target="AllocateBuffer"
  %little = f32[256]{{0:T(256)S(1)}} custom-call(), custom_call_target="AllocateBuffer"
  {lines}
}}
"""
HBM, VMEM = "f32[1024]{0:T(1024)}", "f32[1024]{0:T(1024)S(1)}"
PART, PART_VMEM = "f32[256]{0:T(256)}", "f32[256]{0:T(256)S(1)}"
GROUPS = "channel_id=1, replica_groups={{0,1,2,3}}"


def started(opcode, given, made, attributes, flag="s32[]{:S(2)}", of="%a"):
    """The two lines of what runs asynchronously, the arrays it is given in a tuple of their own."""
    start = f"%s = (({given}), {made}, {flag}) {opcode}-start({of}), {attributes}"
    return f"{start}\n  ROOT %d = {made} {opcode}-done(%s)"


@pytest.mark.parametrize(
    "what, lines, accessed",
    [
        (
            "a copy into vector memory reads, and (the copy, what is copied, a flag) is its result",
            f"%s = ({VMEM}, {HBM}, u32[]{{:S(2)}}) copy-start(%a)\n"
            f"  ROOT %d = {VMEM} copy-done(%s)",
            4096,
        ),
        (
            "a copy from vector memory writes",
            f"%s = ({HBM}, {VMEM}, u32[]{{:S(2)}}) copy-start(%kept)\n"
            f"  ROOT %d = {HBM} copy-done(%s)",
            4096,
        ),
        (
            "a copy within main memory does both",
            f"%s = ({HBM}, {HBM}, u32[]{{:S(2)}}) copy-start(%a)\n  ROOT %d = {HBM} copy-done(%s)",
            8192,
        ),
        (
            "a slice into vector memory reads what it takes",
            started("slice", HBM, PART_VMEM, "slice={[0:256]}"),
            1024,
        ),
        (
            "a slice of an array in vector memory writes it",
            started("slice", VMEM, PART, "slice={[0:256]}", of="%kept"),
            1024,
        ),
        (
            "so does one whose place is not known",
            started("dynamic-slice", HBM, PART_VMEM, "dynamic_slice_sizes={256}", of="%a, %i"),
            1024,
        ),
        (
            "and one that is waited for at once",
            f"ROOT %d = {PART_VMEM} slice(%a), slice={{[0:256]}}",
            1024,
        ),
        ("in vector memory alone", f"ROOT %d = {PART_VMEM} slice(%kept), slice={{[0:256]}}", 0),
        (
            "a slice into main memory",
            f"ROOT %d = {PART} dynamic-slice(%kept, %i), dynamic_slice_sizes={{256}}",
            1024,
        ),
        (
            "an update from vector memory is written",
            f"ROOT %d = {HBM} dynamic-update-slice(%a, %little, %i)",
            1024,
        ),
        (
            "an update of what is in vector memory is read",
            f"ROOT %d = {VMEM} dynamic-update-slice(%kept, %b, %i)",
            1024,
        ),
        ("an update is both", f"ROOT %d = {HBM} dynamic-update-slice(%a, %b, %i)", 2048),
        (
            "a sum over devices reads and writes",
            f"%s = {HBM} all-reduce-start(%a), {GROUPS}, to_apply=%sum\n"
            f"  ROOT %d = {HBM} all-reduce-done(%s)",
            8192,
        ),
        (
            "of two arrays as well",
            f"%s = ({HBM}, {PART}) all-reduce-start(%a, %b), {GROUPS}, to_apply=%sum\n"
            f"  ROOT %d = ({HBM}, {PART}) all-reduce-done(%s)",
            2 * (4096 + 1024),
        ),
        (
            "a gather over devices into vector memory",
            f"%s = ({PART}, {VMEM}) all-gather-start(%b), {GROUPS}, dimensions={{0}}\n"
            f"  ROOT %d = {VMEM} all-gather-done(%s)",
            1024,
        ),
        (
            "each keeps its part",
            started("reduce-scatter", HBM, PART, f"{GROUPS}, to_apply=%sum"),
            4096 + 1024,
        ),
        ("each sends every other", started("all-to-all", HBM, HBM, GROUPS), 2 * 4096),
        (
            "a permutation",
            f"%s = ({HBM}, {VMEM}, u32[]{{:S(2)}}, u32[]{{:S(2)}}) "
            f"collective-permute-start(%a), source_target_pairs={{{{0,1}},{{1,0}}}}\n"
            f"  ROOT %d = {VMEM} collective-permute-done(%s)",
            4096,
        ),
        ("a fusion", started("fusion", HBM, HBM, "kind=kLoop, calls=%twice"), 8192),
        ("a called computation", started("call", HBM, HBM, "to_apply=%twice"), 3 * 4096),
        ("one called without a name", started("async", HBM, HBM, "calls=%twice"), 3 * 4096),
        (
            "a kernel",
            started("custom-call", HBM, HBM, 'custom_call_target="tpu_custom_call"'),
            8192,
        ),
    ],
)
def test_bytes_are_those_that_go_into_or_out_of_main_memory(what, lines, accessed):
    assert bytes_accessed(parse(PROGRAM.format(lines=lines))) == accessed, what


IN_PARTS = """
%start (p0: bf16[8,16]) -> (bf16[8,16], bf16[32,16], u32[]) {
  %p0 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %gather.1 = bf16[32,16]{1,0:T(8,128)(2,1)} all-gather(%p0), channel_id=7, replica_groups=[1,4]<=[4]
  ROOT %begun = (bf16[8,16]{1,0:T(8,128)(2,1)}, bf16[32,16]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%between (p1: bf16[8,16], p2: bf16[32,16], p3: u32[], p4: f32[64]) -> (f32[64], bf16[8,16], bf16[32,16], bf16[32,16], u32[]) {
  %p4 = f32[64]{0:T(128)} parameter(3)
  %twice = f32[64]{0:T(128)} add(%p4, %p4)
  %p1 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %p2 = bf16[32,16]{1,0:T(8,128)(2,1)} parameter(1)
  %gather.2 = bf16[32,16]{1,0:T(8,128)(2,1)} all-gather(%p1), channel_id=7, replica_groups=[1,4]<=[4]
  %p3 = u32[]{:S(2)} parameter(2)
  ROOT %out = (f32[64]{0:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}, bf16[32,16]{1,0:T(8,128)(2,1)}, bf16[32,16]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) tuple(%twice, %p1, %p2, %gather.2, %p3)
}

%done (p5: bf16[8,16], p6: bf16[32,16], p7: u32[]) -> bf16[32,16] {
  %p5 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %p6 = bf16[32,16]{1,0:T(8,128)(2,1)} parameter(1)
  %gather.3 = bf16[32,16]{1,0:T(8,128)(2,1)} all-gather(%p5), channel_id=7, replica_groups=[1,4]<=[4]
  %p7 = u32[]{:S(2)} parameter(2)
  ROOT %ended = bf16[32,16]{1,0:T(8,128)(2,1)} custom-call(%p5, %p6, %gather.3, %p7), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (w: bf16[8,16], x: f32[64]) -> bf16[32,16] {
  %w = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %x = f32[64]{0:T(128)} parameter(1)
  %a = (bf16[8,16]{1,0:T(8,128)(2,1)}, bf16[32,16]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) fusion(%w), kind=kCustom, calls=%start
  %given = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%a), index=0
  %made = bf16[32,16]{1,0:T(8,128)(2,1)} get-tuple-element(%a), index=1
  %flag = u32[]{:S(2)} get-tuple-element(%a), index=2
  %b = (f32[64]{0:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}, bf16[32,16]{1,0:T(8,128)(2,1)}, bf16[32,16]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) fusion(%given, %made, %flag, %x), kind=kCustom, calls=%between
  %given.1 = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%b), index=1
  %made.1 = bf16[32,16]{1,0:T(8,128)(2,1)} get-tuple-element(%b), index=2
  %flag.1 = u32[]{:S(2)} get-tuple-element(%b), index=4
  ROOT %c = bf16[32,16]{1,0:T(8,128)(2,1)} fusion(%given.1, %made.1, %flag.1), kind=kCustom, calls=%done
}
"""  # noqa: E501, as the compiler writes it


def test_a_collective_in_parts_reads_and_writes_once():
    """A gather that is begun, driven on beside other work, and waited for, all in main memory."""
    gathered, beside = 2 * (8 * 16 + 32 * 16), 2 * 4 * 64
    assert bytes_accessed(parse(IN_PARTS)) == gathered + beside


def test_a_scan_over_stacked_weights_reads_each_once():
    """Weights and input go into the chip, nothing comes out but a number."""
    pytest.importorskip("libtpu", reason="the compiler of TPUs is not installed")
    chip = jax.sharding.SingleDeviceSharding(devices_of("tpu", "v5e:2x2", None)[0])

    def run(x, ws):
        x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0]
        return x.astype(jnp.float32).sum()

    x, ws = (
        jax.ShapeDtypeStruct(sizes, jnp.bfloat16, sharding=chip)
        for sizes in ((4096, 1024), (4, 1024, 1024))
    )
    program = parse(jax.jit(run).lower(x, ws).compile().as_text())
    needed = 2 * (x.size + ws.size)
    assert needed <= bytes_accessed(program) < 1.01 * needed
