import threading

import pytest

from posepile.training.distribution import Distribution


class _Process(Distribution):
    """One of several that take turns in threads."""

    def connect(self, barrier, values):
        object.__setattr__(self, "_barrier", barrier)
        object.__setattr__(self, "_values", values)
        return self

    def sum_over_workers(self, value):
        self._values[self.worker] = value
        self._barrier.wait(5)
        total = sum(self._values)
        self._barrier.wait(5)
        return total


def in_all(function, num_workers=3):
    """What function(distribution) raises in each of several processes."""
    barrier, values, errors = threading.Barrier(num_workers), [0.0] * num_workers, [None] * num_workers

    def run(worker):
        try:
            function(_Process(1, worker, num_workers).connect(barrier, values))
        except ValueError as error:
            errors[worker] = str(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(num_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_the_same_values_pass():
    assert in_all(lambda d: d.check_same({"seed": 1, "phases": ("initial",), "none": None})) == [None] * 3
    Distribution().check_same({"seed": 1})


@pytest.mark.parametrize("seeds", [(1, 2, 3), (1, 1, 2), (2, 1, 1)])
def test_different_values_are_refused_by_all(seeds):
    errors = in_all(lambda d: d.check_same({"seed": seeds[d.worker], "steps": 7}))
    for seed, error in zip(seeds, errors, strict=True):
        assert f"seed: {seed} here" in error
        assert "steps" not in error


def test_the_chief_comes_first():
    calls = []
    assert in_all(lambda d: d.chief_first(lambda: calls.append(d.worker))) == [None] * 3
    assert calls[0] == 0 and sorted(calls) == [0, 1, 2]


@pytest.mark.parametrize(("failing", "called"), [(0, {0}), (2, {0, 1, 2})])
def test_all_stop_if_one_does(failing, called):
    calls = set()

    def function(worker):
        calls.add(worker)
        if worker == failing:
            raise ValueError("the disk is full")

    errors = in_all(lambda d: d.chief_first(lambda: function(d.worker)))
    assert calls == called
    assert errors[failing] == "the disk is full"
    assert all("another process" in error for worker, error in enumerate(errors) if worker != failing)


def test_alone_an_error_is_what_it_was():
    def function():
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        Distribution().chief_first(function)
