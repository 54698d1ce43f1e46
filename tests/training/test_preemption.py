import os
import signal
import threading

import pytest

from vit_jax.training.preemption import Preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_acts(number):
    before = signal.getsignal(number)
    acted = []
    signal.signal(number, lambda *_: acted.append(1))
    try:
        with Preemption() as preemption:
            assert not preemption.requested(1)
            os.kill(os.getpid(), number)
            assert preemption.requested(2)
            assert not acted
            os.kill(os.getpid(), number)
            assert acted
    finally:
        signal.signal(number, before)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_signals_are_left_alone():
    seen = []

    def work():
        with Preemption() as preemption:
            seen.append(preemption.requested(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
