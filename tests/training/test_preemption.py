import os
import signal
import threading

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax.training.preemption import Preemption
from vit_jax.training.sharding import make_mesh


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_acts(number):
    before = signal.getsignal(number)
    acted = []
    signal.signal(number, lambda *_: acted.append(1))
    try:
        with Preemption() as preemption:
            assert not preemption.decided(seen=False)
            os.kill(os.getpid(), number)
            assert preemption.decided(seen=False)
            assert not acted
            os.kill(os.getpid(), number)
            assert acted
    finally:
        signal.signal(number, before)


def test_the_wish_goes_with_the_batch(monkeypatch):
    """With several processes what counts is what all of them can see."""
    mesh = make_mesh({"data": 4, "fsdp": 2, "tensor": 1})
    place = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    with Preemption() as preemption:
        assert preemption.wish(place, 8).tolist() == [0] * 8
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.wish(place, 8).tolist() == [1] * 8
        assert preemption.wish(place, 8) is preemption.wish(place, 8)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        assert [preemption.decided(seen) for seen in (False, True)] == [False, True]


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_signals_are_left_alone():
    seen = []

    def work():
        with Preemption() as preemption:
            seen.append(preemption.decided(seen=False))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
