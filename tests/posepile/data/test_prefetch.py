"""That the batches equal those of `batches.make_batch` is tested in test_input_pipeline.py."""

import threading
import time

import pytest

from posepile.data.prefetch import ordered_map


def _threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_results_come_in_order_and_are_made_at_once():
    meeting = threading.Barrier(3)  # three calls have to be under way together

    def late_for_even_numbers(number):
        meeting.wait(timeout=10)
        time.sleep(0.01 * (number % 2 == 0))
        return -number

    assert list(ordered_map(late_for_even_numbers, range(9), num_threads=3, num_ahead=4)) == [-i for i in range(9)]
    assert not _threads()


def test_no_more_calls_than_asked_for_are_ahead():
    taken = []

    def arguments():
        for number in range(100):
            taken.append(number)
            yield number

    results = ordered_map(lambda number: number, arguments(), num_threads=2, num_ahead=5)
    for number in range(3):
        assert next(results) == number
        assert len(taken) == number + 6
    results.close()


def test_error_comes_where_its_result_was_due():
    def divide(number):
        return 60 // (3 - number)

    results = ordered_map(divide, range(10), num_threads=2, num_ahead=8)
    assert [next(results) for _ in range(3)] == [20, 30, 60]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not _threads()


def test_closing_drops_calls_that_have_not_begun():
    begun, go_on = [], threading.Event()

    def wait(number):
        begun.append(number)
        assert number == 0 or go_on.wait(timeout=10)

    results = ordered_map(wait, range(1000), num_threads=2, num_ahead=100)
    next(results)
    threading.Timer(0.05, go_on.set).start()  # closing waits for the two that have
    results.close()
    assert len(begun) <= 3 and not _threads()
