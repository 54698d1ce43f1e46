"""The version of the analysis, which results that are kept are compared with."""

from tests.ahead.test_collectives import BETWEEN, OVERLAPPED
from vit_jax.ahead.accessed import bytes_accessed
from vit_jax.ahead.collectives import collectives
from vit_jax.ahead.flops import flops
from vit_jax.ahead.hlo_text import parse
from vit_jax.ahead.report import ANALYSIS


def test_another_count_is_of_another_version():
    """Where one of these programs counts differently, `ANALYSIS` goes up along with the numbers."""
    counted = []
    for text, slices in ((OVERLAPPED, 1), (BETWEEN, 4)):
        program = parse(text)
        sent = sum(x.sent for x in collectives(program, 16, slices))
        counted.append((bytes_accessed(program), flops(program).count, sent))
    assert (ANALYSIS, counted) == (2, [(19600, 0, 3072), (32768, 0, 24576)])
