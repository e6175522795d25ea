import os
import signal

import pytest

from tspo.training.signals import Stopped, stop_on_signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_asks_to_stop_at_the_next_safe_place(number, code):
    asked = []
    with stop_on_signals(lambda: asked.append(True)) as stop:
        assert not stop
        stop.check()
        os.kill(os.getpid(), number)
        assert stop
        assert asked == [True]
        with pytest.raises(Stopped) as stopped:
            stop.check()
    assert stopped.value.exit_code == code


def test_a_second_signal_stops_at_once():
    asked = []
    with stop_on_signals(lambda: asked.append(True)) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal_number == signal.SIGTERM
    assert asked == [True]


def test_the_handlers_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), stop_on_signals(lambda: None):  # noqa: PT012
        assert signal.getsignal(signal.SIGINT) is not before[0]
        raise RuntimeError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
