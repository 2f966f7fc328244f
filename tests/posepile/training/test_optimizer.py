import keras
import numpy as np
import pytest

from posepile.models.constraints import KernelMaxNorm
from posepile.training.optimizer import MAX_LOSS_SCALE, PoseOptimizer
from posepile.training.schedules import Schedule, initial_schedule

SHAPES = {"head/conv/kernel": (2, 3), "stem_conv/kernel": (4,), "stem_bn/gamma": (2,)}


def _variables(seed=0):
    rng = np.random.default_rng(seed)
    variables = []
    for path, shape in SHAPES.items():
        variable = keras.Variable(rng.normal(size=shape).astype("float32"), name="kernel")
        variable._path = path
        variables.append(variable)
    return variables


def _gradients(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [np.float32(scale * rng.normal(size=shape)) for shape in SHAPES.values()]


def _made(variables, **settings):
    settings = {"head": initial_schedule(0.1, 20), "backbone": Schedule(0.01, 20), "weight_decay": 0.5} | settings
    optimizer = PoseOptimizer(**settings)
    optimizer.build(variables)
    return optimizer


def _apply(optimizer, gradients):
    return float(optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients]))


def _values(variables):
    return [np.asarray(v).copy() for v in variables]


def test_two_keras_adamws_with_a_schedule_each_do_the_same():
    ours, theirs = _variables(), _variables()
    optimizer = _made(ours)
    schedules = [initial_schedule(0.1, 20), Schedule(0.01, 20), Schedule(0.01, 20)]
    references = [keras.optimizers.AdamW(0.0, weight_decay=0.5) for _ in theirs]
    for step in range(20):
        gradients = _gradients(step, scale=10.0 ** (step % 4 - 2))
        norm = _apply(optimizer, gradients)
        assert norm == pytest.approx(np.sqrt(sum(np.sum(g**2) for g in gradients)), rel=1e-5)
        for reference, schedule, gradient, variable in zip(references, schedules, gradients, theirs, strict=True):
            reference.build([variable])
            reference.learning_rate = schedule.rate(step)
            reference.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        for a, b in zip(_values(ours), _values(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    assert int(np.asarray(optimizer.iterations)) == 20


def test_weight_decay_is_decoupled_and_the_rates_follow_the_schedules():
    """With zero gradients each weight shrinks by rate x decay x weight per step."""
    variables = _variables()
    expected = _values(variables)
    optimizer = _made(variables)
    for step in range(4):
        _apply(optimizer, [np.zeros_like(v) for v in expected])
        for value, schedule in zip(expected, (initial_schedule(0.1, 20), Schedule(0.01, 20), Schedule(0.01, 20)), strict=True):
            value *= 1 - 0.5 * schedule.rate(step)
    for a, b in zip(_values(variables), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, micro_batches):
    variables = _variables()
    variables[0].constraint = KernelMaxNorm(0.5, (0, 1))
    optimizer = _made(variables, micro_batches=micro_batches, average_momentum=0.9, clip_norm=1.0, loss_scale=128.0)

    def step(seed, spoiled=False):
        for micro_batch in range(micro_batches):
            gradients = _gradients(10 * seed + micro_batch)
            if spoiled and micro_batch == 0:
                gradients[1][2] = bad
            tensors = [keras.ops.convert_to_tensor(g) for g in gradients]
            if micro_batch < micro_batches - 1:
                optimizer.accumulate(tensors)
            else:
                return float(optimizer.apply(tensors))

    step(0)
    before = {v.path: np.asarray(v).copy() for v in (*variables, *optimizer.variables)}
    assert not np.isfinite(step(1, spoiled=True))
    changed = {v.path for v in (*variables, *optimizer.variables) if not np.array_equal(np.asarray(v), before[v.path])}
    assert {path.rpartition("/")[2] for path in changed} == {"gradient_norm", "num_skipped"}
    assert float(np.asarray(optimizer.num_skipped)) == 1
    assert np.isfinite(step(2))
    assert all((np.asarray(v) != before[v.path]).any() for v in variables)


def test_a_step_in_micro_batches_is_the_step_of_their_mean():
    whole, parts = _variables(), _variables()
    one, four = _made(whole), _made(parts, micro_batches=4)
    for step in range(3):
        gradients = [_gradients(10 * step + i) for i in range(4)]
        for part in gradients[:3]:
            assert float(four.accumulate([keras.ops.convert_to_tensor(g) for g in part])) == 0
        _apply(four, gradients[3])
        _apply(one, [np.mean(g, axis=0) for g in zip(*gradients, strict=True)])
    for a, b in zip(_values(whole), _values(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert int(np.asarray(four.iterations)) == 3


def test_clipping_scales_all_gradients_together():
    clipped, scaled = _variables(), _variables()
    ours, reference = _made(clipped, clip_norm=0.5, loss_scale=4.0), _made(scaled)
    for step in range(3):
        gradients = _gradients(step, scale=(0.01, 1.0, 100.0)[step])
        norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
        assert _apply(ours, [4 * g for g in gradients]) == pytest.approx(norm, rel=1e-5)  # before clipping, of the loss itself
        _apply(reference, [g * min(1, 0.5 / norm) for g in gradients])
    for a, b in zip(_values(clipped), _values(scaled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_loss_scale():
    static, dynamic = _made(_variables(), loss_scale=128.0), _made(_variables(), loss_scale="dynamic")
    assert float(static.scale_loss(keras.ops.convert_to_tensor(2.0))) == 256
    start = float(np.asarray(dynamic.loss_scale))
    bad = [np.full_like(g, np.inf) for g in _gradients(0)]
    for _ in range(3):
        _apply(dynamic, bad)
        _apply(static, bad)
    assert float(np.asarray(dynamic.loss_scale)) == start / 8
    assert float(np.asarray(static.loss_scale)) == 128
    dynamic._finite_steps.assign(1998.0)
    _apply(dynamic, _gradients(0))
    assert float(np.asarray(dynamic.loss_scale)) == start / 8
    _apply(dynamic, _gradients(0))  # the two-thousandth finite step in a row
    assert float(np.asarray(dynamic.loss_scale)) == start / 4
    assert float(np.asarray(dynamic._finite_steps)) == 0
    for _ in range(100):
        _apply(dynamic, bad)
    assert float(np.asarray(dynamic.loss_scale)) == 1
    dynamic.loss_scale.assign(MAX_LOSS_SCALE)
    dynamic._finite_steps.assign(1999.0)
    _apply(dynamic, _gradients(0))
    assert float(np.asarray(dynamic.loss_scale)) == MAX_LOSS_SCALE


def test_average_of_the_weights():
    variables = _variables()
    optimizer = _made(variables, average_momentum=0.5)
    expected = _values(variables)
    for step in range(1, 13):
        _apply(optimizer, _gradients(step))
        momentum = min(0.5, step / (10 + step))  # early on over a tenth of the past
        expected = [momentum * a + (1 - momentum) * v for a, v in zip(expected, _values(variables), strict=True)]
    for a, b in zip(_values(optimizer.averages), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_constraints_hold_after_every_step():
    variables = _variables()
    variables[0].constraint = KernelMaxNorm(0.5, (0, 1))
    optimizer = _made(variables, head=Schedule(10.0, 20))
    for step in range(3):
        _apply(optimizer, _gradients(step))
        assert np.linalg.norm(np.asarray(variables[0])) <= 0.5 * (1 + 1e-6)
        assert np.linalg.norm(np.asarray(variables[1])) > 0.5
