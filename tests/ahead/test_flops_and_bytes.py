"""FLOPs and bytes against XLA's own analysis, and loops against what they repeat."""

import jax
import jax.numpy as jnp
import pytest

from vit_jax.ahead.accessed import bytes_accessed
from vit_jax.ahead.compile_ahead import what_is_left_out
from vit_jax.ahead.flops import flops
from vit_jax.ahead.hlo_text import parse

ONE = jax.ShapeDtypeStruct((), jnp.float32)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def compiled(function, *arguments):
    found = jax.jit(function).lower(*arguments).compile()
    return found, parse(found.as_text())


def einsum(equation):
    return lambda a, b: jnp.einsum(equation, a, b)


def conv(**options):
    return lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


@pytest.mark.parametrize(
    "function, arguments",
    [
        (einsum("ij,jk->ik"), [(33, 65), (65, 17)]),
        (einsum("bnhd,bmhd->bhnm"), [(2, 5, 3, 8), (2, 7, 3, 8)]),
        (conv(window_strides=(2, 2), padding="SAME"), [(2, 9, 12, 3), (3, 5, 3, 4)]),
        (
            conv(window_strides=(1, 1), padding=((2, 3), (0, 1)), lhs_dilation=(2, 3)),
            [(2, 5, 4, 3), (3, 2, 3, 4)],
        ),
        (
            conv(window_strides=(1, 1), padding="SAME", feature_group_count=3),
            [(1, 8, 8, 3), (3, 3, 1, 6)],
        ),
    ],
)
def test_flops_of_one_operation_are_those_of_xla(function, arguments):
    program, parsed = compiled(function, *(shape(*sizes) for sizes in arguments))
    analysis = program.cost_analysis()
    assert flops(parsed).count == pytest.approx(analysis["flops"], rel=1e-6)


def test_a_loop_counts_as_often_as_it_runs():
    """A scan of 5, in a scan of 3, of a product of 16 x 16 matrices: 15 products."""

    def inner(x, w):
        return x @ w, None

    def outer(x, ws):
        return jax.lax.scan(inner, x, ws)

    def run(x, ws):
        return jax.lax.scan(lambda x, ws: (outer(x, ws)[0], None), x, ws)[0]

    program, parsed = compiled(run, shape(16, 16), shape(3, 5, 16, 16))
    assert flops(parsed).count == 15 * 2 * 16**3
    assert program.cost_analysis()["flops"] < 2 * 2 * 16**3 + 100  # XLA's own: the body once
    assert parsed.unknown_loops == 0


def test_a_step_of_a_scan_reads_its_slice():
    """A scan over 50 matrices reads each once, not all of them 50 times."""

    def run(x, ws):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, ws)[0]

    _, parsed = compiled(run, shape(16, 16), shape(50, 16, 16))
    size = 16 * 16 * 4
    assert 3 * 50 * size <= bytes_accessed(parsed) <= 8 * 50 * size


def test_bytes_of_element_wise_work_are_those_of_xla():
    program, parsed = compiled(lambda x, y: (jnp.sin(x) * y, x + 1), shape(64, 32), shape(64, 32))
    assert bytes_accessed(parsed) == 5 * 64 * 32 * 4  # x is read twice
    # XLA counts pointers of the result as well.
    assert 0 <= program.cost_analysis()["bytes accessed"] - bytes_accessed(parsed) <= 2 * 8


def test_a_loop_that_depends_on_data_is_named():
    def run(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 10, lambda x: x @ x, x)

    _, parsed = compiled(run, shape(4, 4))
    assert parsed.unknown_loops == 1
    assert flops(parsed).count == 2 * 4**3


LOOP = """
%body (state: (s32[], s32[])) -> (s32[], s32[]) {{
  %state = (s32[], s32[]) parameter(0)
  %by = s32[] constant({by})
  %i = s32[] get-tuple-element(%state), index=0
  %other = s32[] get-tuple-element(%state), index=1
  %next = s32[] {after}
  ROOT %result = (s32[], s32[]) tuple(%next, %other)
}}

%condition (state.1: (s32[], s32[])) -> pred[] {{
  %end = s32[] constant({end})
  %state.1 = (s32[], s32[]) parameter(0)
  %at = s32[] get-tuple-element(%state.1), index=0
  ROOT %lt = pred[] compare(%at, %end), direction={direction}
}}

ENTRY %main () -> (s32[], s32[]) {{
  %zero = s32[] constant(0)
  %begin = (s32[], s32[]) tuple(%zero, %zero)
  ROOT %loop = (s32[], s32[]) while(%begin), condition=%condition, body=%body
}}
"""


@pytest.mark.parametrize(
    "after, by, end, direction, times",
    [
        ("add(%i, %by)", 1, 10, "LT", 10),
        ("add(%by, %i)", 2, 10, "LT", 5),
        ("add(%i, %by)", 3, 10, "LT", 4),  # at 0, 3, 6, 9
        ("add(%i, %by)", 3, 9, "LE", 4),
        ("add(%i, %by)", -1, 10, "LT", None),
        ("add(%i, %i)", 1, 10, "LT", None),
        ("add(%i, %other)", 1, 10, "LT", None),
        ("add(%other, %by)", 1, 10, "LT", None),
        ("multiply(%i, %by)", 2, 10, "LT", None),
    ],
)
def test_how_often_a_loop_runs_is_read_from_its_condition_and_its_body(
    after, by, end, direction, times
):
    program = parse(LOOP.format(after=after, by=by, end=end, direction=direction))
    entry = program.computations["main"]
    assert program.trip_count(entry.instructions["loop"], entry) == times
    assert program.unknown_loops == (times is None)


def test_branches_count_each():
    """Which one runs is not known: the products of both."""

    def run(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: (x @ x) @ x, x)

    _, parsed = compiled(run, shape(8, 8))
    found = flops(parsed)
    assert found.count == 3 * 2 * 8**3
    assert parsed.conditionals == 1
    (note,) = what_is_left_out(parsed, found, slices=1)
    assert note == "all branches of 1 conditionals count, and one of each runs"


@pytest.mark.parametrize("opcode", ["fusion", "call", "async"])
def test_what_runs_asynchronously_counts(opcode):
    """Once, whichever way XLA writes it."""
    called = "to_apply" if opcode == "call" else "calls"
    text = f"""
%product (x: f32[8,16], y: f32[16,4]) -> f32[8,4] {{
  %x = f32[8,16]{{1,0}} parameter(0)
  %y = f32[16,4]{{1,0}} parameter(1)
  ROOT %dot = f32[8,4]{{1,0}} dot(%x, %y), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}

ENTRY %main (a: f32[8,16], b: f32[16,4]) -> f32[8,4] {{
  %a = f32[8,16]{{1,0}} parameter(0)
  %b = f32[16,4]{{1,0}} parameter(1)
  %s = ((f32[8,16], f32[16,4]), f32[8,4], s32[]) {opcode}-start(%a, %b), {called}=%product
  ROOT %d = f32[8,4]{{1,0}} {opcode}-done(%s)
}}
"""
    assert flops(parse(text)).count == 2 * 8 * 16 * 4


def test_kernels_of_other_libraries_are_named():
    """The form is XLA's for GPUs; what such a kernel computes is not looked into."""
    text = """
ENTRY %main (a: f32[8,16], b: f32[16,4]) -> f32[8,4] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[16,4]{1,0} parameter(1)
  %gemm = (f32[8,4]{1,0}, s8[1024]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm"
  ROOT %result = f32[8,4]{1,0} get-tuple-element(%gemm), index=0
}
"""
    found = flops(parse(text))
    assert found.count == 0 and found.unknown_kernels == ("__cublas$gemm",)
