import os
import signal
import threading

import pytest

from vit_jax.training.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_acts(number):
    before = signal.getsignal(number)
    acted = []
    signal.signal(number, lambda *_: acted.append(1))
    try:
        with StopSignals() as signals:
            assert not signals.told
            os.kill(os.getpid(), number)
            assert signals.told
            assert not acted
            os.kill(os.getpid(), number)
            assert acted
    finally:
        signal.signal(number, before)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_signals_are_left_alone():
    seen = []

    def work():
        with StopSignals() as signals:
            seen.append((signals.told, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
