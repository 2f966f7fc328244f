import signal
import threading

import pytest

from posepile.training.stop_signal import Preempted, preemption_raised, stop_requested


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_sets_a_flag_second_interrupts(number, capfd):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as raised, stop_requested() as should_stop:
        assert not should_stop()
        signal.raise_signal(number)
        assert should_stop()
        assert f"{number.name}: finishing this step" in capfd.readouterr().err
        assert should_stop.is_preemption == (number == signal.SIGTERM)
        signal.raise_signal(number)
        pytest.fail("the second signal did not interrupt")
    assert isinstance(raised.value, Preempted) == (number == signal.SIGTERM)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_request_that_came_too_late_for_the_last_step_is_not_forgotten(number):
    before, reached_end = signal.getsignal(number), False
    with pytest.raises(KeyboardInterrupt) as raised, stop_requested():
        signal.raise_signal(number)
        reached_end = True
    assert reached_end
    assert isinstance(raised.value, Preempted) == (number == signal.SIGTERM)
    assert signal.getsignal(number) is before


def test_preemption_outside_of_the_steps():
    """SIGTERM ends whatever goes on, by an exception that cleans up as Ctrl-C does; steps have their own way within."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted), preemption_raised():
        with stop_requested():
            pass
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), stop_requested():
        assert signal.getsignal(signal.SIGTERM) is not before
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_is_installed():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with stop_requested() as should_stop:
            seen.append((signal.getsignal(signal.SIGINT) is before, should_stop()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, False)]
