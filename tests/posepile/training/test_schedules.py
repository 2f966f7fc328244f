import keras
import numpy as np
import pytest

from posepile.training import schedules
from posepile.training.schedules import KerasSchedule, Schedule
from tests.posepile import small_model

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
    schedules.finetune_backbone_schedule(BASE, 500), schedules.initial_schedule(1e-3, 1), Schedule(1e-3, 2, 1)])
def test_keras_schedule_gives_the_same_rates(schedule):
    keras_schedule = KerasSchedule.from_config(KerasSchedule(
        schedule.start_rate, schedule.steps, schedule.drop_step).get_config())
    steps = np.unique(np.clip(np.r_[np.linspace(0, schedule.steps - 1, 50).astype(int), [
        step for step, _ in schedule.corners(schedule.drop_step or 0)]], 0, None))
    for step in steps:
        actual = float(keras_schedule(keras.ops.convert_to_tensor(int(step), dtype="int32")))
        assert actual == pytest.approx(schedule.rate(int(step)), rel=1e-5)


@pytest.mark.parametrize(("steps", "fraction", "expected"), [
    (400_000, 0.92, 368_000), (10, 0.92, 9), (2, 0.92, 1), (2, 0.1, 1), (1, 0.92, 1), (5, 0.5, 2)])
def test_drop_step_leaves_a_step_on_either_side(steps, fraction, expected):
    assert schedules.drop_step(steps, fraction) == expected
    rates = [schedules.Schedule(1.0, steps, expected).rate(step) for step in range(0, steps, max(1, steps // 100))]
    assert np.isfinite(rates).all()
    assert (np.diff(rates) < 0).all()


@pytest.mark.parametrize("source", ["made", "loaded"])
def test_head_and_backbone_get_their_own_optimizers(tmp_path, batch_plan, pose_model, source):
    model = pose_model
    if source == "loaded":
        pose_model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    trainer = small_model.PoseTrainer(model, small_model.LossSettings(8, np.zeros((3, 7), "float32")))
    optimizer = schedules.make_optimizer(Schedule(3e-3, 9), Schedule(1e-5, 9), weight_decay=0.1)
    optimizer.build(trainer.trainable_variables)
    rates = {}
    for part in optimizer.optimizers:
        for variable in part._trainable_variables:
            rates[id(variable)] = float(part.learning_rate)
    assert len(rates) == len(trainer.trainable_variables)
    for variables, rate in ((model.head.trainable_variables, 3e-3), (model.backbone.trainable_variables, 1e-5)):
        assert len(variables) >= 2
        np.testing.assert_allclose([rates[id(v)] for v in variables], rate, rtol=1e-6)


def test_weight_decay_is_decoupled_and_the_rates_follow_the_schedules():
    """AdamW with zero gradients shrinks each weight by rate x decay x weight per step, whatever its history."""
    head = keras.Variable(np.float32([2.0]), name="kernel")
    backbone = keras.Variable(np.float32([4.0]), name="kernel")
    head._path, backbone._path = "head/conv/kernel", "stem_conv/kernel"
    head_schedule, backbone_schedule = schedules.initial_schedule(0.1, 4), Schedule(0.01, 4)
    optimizer = schedules.make_optimizer(head_schedule, backbone_schedule, weight_decay=0.5)
    optimizer.build([backbone, head])
    expected = {"head": 2.0, "backbone": 4.0}
    for step in range(4):
        optimizer.apply([keras.ops.zeros(1), keras.ops.zeros(1)], [backbone, head])
        expected["head"] *= 1 - 0.5 * head_schedule.rate(step)
        expected["backbone"] *= 1 - 0.5 * backbone_schedule.rate(step)
    assert float(head[0]) == pytest.approx(expected["head"], rel=1e-5)
    assert float(backbone[0]) == pytest.approx(expected["backbone"], rel=1e-5)


@pytest.mark.parametrize(("policy", "scaled"), [("float32", False), ("mixed_bfloat16", False), ("mixed_float16", True)])
def test_float16_training_scales_the_loss(policy, scaled):
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(policy)
        optimizer = schedules.make_optimizer(Schedule(1e-3, 9), Schedule(1e-3, 9), weight_decay=0.1)
    finally:
        keras.config.set_dtype_policy(before)
    variable = keras.Variable(np.float32([1.0]), name="kernel")
    optimizer.build([variable])
    loss = keras.ops.convert_to_tensor(2.0)
    scale = float(optimizer.scale_loss(loss)) / 2.0
    assert (scale > 100) == scaled
    if not scaled:
        assert scale == 1.0
    optimizer.apply([keras.ops.convert_to_tensor(np.float32([scale]))], [variable])  # the gradient of loss = variable
    assert float(variable[0]) == pytest.approx(1 - 1e-3 * (1 + 0.1), rel=1e-5)  # Adam's first step is the rate
