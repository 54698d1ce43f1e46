import jax
import pytest

from vit_jax.training.preemption import Preemption
from vit_jax.training.sharding import make_mesh
from vit_jax.training.signals import StopSignals


@pytest.fixture
def signals():
    return StopSignals()


def test_the_wish_goes_with_the_batch(signals, monkeypatch):
    """With several processes what counts is what all of them can see."""
    mesh = make_mesh({"data": 4, "fsdp": 2, "sequence": 1, "tensor": 1})
    preemption = Preemption(signals)
    assert preemption.wish(mesh).tolist() == [0] * 8
    signals.told = True
    assert preemption.wish(mesh).tolist() == [1] * 8
    assert preemption.wish(mesh) is preemption.wish(mesh)
    shared = make_mesh({"data": 1, "fsdp": 1, "sequence": 1, "tensor": 8})
    assert Preemption(signals).wish(shared).tolist() == [1] * 8  # of hosts that share all rows
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert [preemption.decided(seen) for seen in (False, True)] == [False, True]


def test_a_process_that_is_alone_decides_at_once(signals):
    preemption = Preemption(signals)
    assert not preemption.decided(seen=False)
    assert not preemption.before_the_first_step()
    signals.told = True
    assert preemption.decided(seen=False)
    assert preemption.before_the_first_step()
