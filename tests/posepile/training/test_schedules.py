import keras
import numpy as np
import pytest

from posepile.training import schedules
from posepile.training.schedules import Schedule

BASE = 2.12e-4


def test_corners_of_the_published_initial_schedule():
    schedule = schedules.initial_schedule(BASE, 400_000)
    assert schedule.drop_step == 368_000  # 92 %
    corners = schedule.corners(schedule.drop_step)
    assert [step for step, _ in corners] == [0, 367_999, 368_000, 399_999]
    np.testing.assert_allclose([rate for _, rate in corners], [BASE, BASE / 3, BASE / 30, BASE / 90], rtol=1e-4)
    assert schedule.rate(184_000) == pytest.approx(BASE / 3**0.5)


def test_corners_of_published_fine_tuning():
    head = schedules.finetune_head_schedule(BASE, 40_000)
    assert head.drop_step == 20_000
    np.testing.assert_allclose([rate for _, rate in head.corners(20_000)], [BASE, BASE / 3, BASE / 30, BASE / 90], rtol=1e-3)
    backbone = schedules.finetune_backbone_schedule(BASE, 40_000)
    rates = [rate for _, rate in backbone.corners(20_000)]
    np.testing.assert_allclose(rates, [BASE / 30, BASE / 30 / 3**0.5, BASE / 30 / 3**0.5, BASE / 90], rtol=1e-3)


@pytest.mark.parametrize("schedule", [
    schedules.initial_schedule(BASE, 400_000), schedules.finetune_head_schedule(3e-3, 7),
    schedules.finetune_backbone_schedule(BASE, 500), schedules.initial_schedule(1e-3, 1), Schedule(1e-3, 2, 1),
    schedules.bn_inference_schedule(BASE, 10)])
def test_rates_of_steps_that_are_tensors(schedule):
    steps = np.unique(np.clip(np.r_[np.linspace(0, schedule.steps - 1, 50).astype(int), [
        step for step, _ in schedule.corners(schedule.drop_step or 0)]], 0, None))
    for step in steps:
        actual = float(schedules.rate_at(schedule, keras.ops.convert_to_tensor(int(step), dtype="int32")))
        assert actual == pytest.approx(schedule.rate(int(step)), rel=1e-5)


@pytest.mark.parametrize(("steps", "fraction", "expected"), [
    (400_000, 0.92, 368_000), (10, 0.92, 9), (2, 0.92, 1), (2, 0.1, 1), (1, 0.92, 1), (5, 0.5, 2)])
def test_drop_step_leaves_a_step_on_either_side(steps, fraction, expected):
    assert schedules.drop_step(steps, fraction) == expected
    rates = [schedules.Schedule(1.0, steps, expected).rate(step) for step in range(0, steps, max(1, steps // 100))]
    assert np.isfinite(rates).all()
    assert (np.diff(rates) < 0).all()


def test_rate_of_steps_on_their_own_is_that_of_the_end():
    schedule = schedules.bn_inference_schedule(BASE, 1000)
    end = schedules.initial_schedule(BASE, 400_000).rate(399_999)
    assert [schedule.rate(step) for step in (0, 999)] == [pytest.approx(end, rel=1e-4)] * 2
