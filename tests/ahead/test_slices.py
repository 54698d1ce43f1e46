"""Train steps that libtpu compiles for several TPU slices: what goes over the links between them.

The program is that of one slice, so that its collectives cannot reach another one; what does is a
transfer of its own, see `vit_jax.ahead.collectives`.
"""

import numpy as np
import pytest

from tests.ahead.plain import plain
from vit_jax.ahead.compile_ahead import compile_ahead
from vit_jax.ahead.topology import devices_of
from vit_jax.errors import UserError
from vit_jax.training import sharding

pytest.importorskip("libtpu", reason="the compiler of TPUs is not installed: pip install libtpu")

TOPOLOGY = "2xv5e:2x2"
MESH = {"data": 2, "fsdp": 4}


def compiled():
    # Whole tiles of 8 x 128 are sent: a head of 64 would count twice.
    config = plain("model.embed_dim=256", "model.num_heads=2", "model.mlp_ratio=4.0")
    return compile_ahead(config, topology=TOPOLOGY, mesh=MESH)


@pytest.fixture(scope="module")
def report():
    return compiled()


def test_data_lies_along_the_slices():
    arranged = sharding.arrange((2, 4, 1, 1), devices_of("tpu", TOPOLOGY, None))
    slices = np.array([[chip.slice_index for chip in row.flat] for row in arranged])
    assert slices.tolist() == [[0] * 4, [1] * 4]


def test_gradients_alone_go_from_slice_to_slice(report):
    """Each chip sums its part of them, and the metrics, with the one at its place over there."""
    assert (report.slices, report.devices) == (2, 8)
    assert set(report.between_slices) == {"all-reduce"}
    # Of n bytes, two that sum them send n. Gradients are float32 here.
    gradients = 4 * report.trained / MESH["fsdp"]
    assert gradients <= report.between_slices["all-reduce"].bytes < 1.1 * gradients


def test_parameters_are_gathered_within_a_slice(report):
    """Each chip sends its part of every kernel to the three others at least once, in bfloat16."""
    others = MESH["fsdp"] - 1
    assert report.collectives["all-gather"].bytes > 0.9 * others * 2 * report.trained / 4


def test_slices_along_another_axis_would_send_more(report, monkeypatch):
    """The measure can fail: with `fsdp` from slice to slice, kernels are gathered over there."""

    def across(shape, devices):
        return np.array(devices).reshape(2, 4).T.reshape(shape)  # neighbours are in other slices

    monkeypatch.setattr(sharding, "arrange", across)
    found = compiled()
    assert "all-gather" in found.between_slices
    assert sum(x.bytes for x in found.between_slices.values()) > 1.5 * sum(
        x.bytes for x in report.between_slices.values()
    )


def test_the_report_says_what_goes_where(report):
    lines = str(report)
    assert "8 x TPU v5 lite (2xv5e:2x2)" in lines
    assert "to slices   all-reduce" in lines and "from slice to slice" in lines


def test_another_axis_than_data_cannot():
    with pytest.raises(UserError, match=r"config\.mesh\.data=1 has to be a multiple of 2"):
        compile_ahead(plain(), topology=TOPOLOGY, mesh={"fsdp": 8})
