import keras
import numpy as np
import pytest

from posepile.data.batches import make_batch
from posepile.models.normalization import GhostBatchNormalization
from tests.posepile import small_model


@pytest.fixture(scope="module")
def batch(batch_plan):
    return make_batch(batch_plan, seed=0, step=0)


def _compiled(plan, learning_rate, **settings):
    trainer = small_model.make_trainer(plan, **settings)
    trainer.compile(keras.optimizers.SGD(learning_rate), jit_compile=False)
    return trainer


def _steps(trainer, batch, count):
    return [{**trainer.train_on_batch(batch, return_dict=True), "step_count": int(trainer.step_count)} for _ in range(count)]


def test_loss_falls_on_one_batch(batch_plan, batch):
    trainer = small_model.make_trainer(batch_plan, absolute_loss_start=0, weak_perspective_steps=0)
    trainer.compile(keras.optimizers.Adam(2e-3), jit_compile=False)
    losses = [logs["loss"] for logs in _steps(trainer, batch, 30)]
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])


def test_total_is_made_of_its_terms_and_the_absolute_loss_sets_in(batch_plan, batch):
    projection = np.full((7, 7), 1 / 7, "float32")
    trainer = _compiled(batch_plan, 0.0, absolute_loss_start=2, projection_matrix=projection, consistency_factor=0.0)
    for step, logs in enumerate(_steps(trainer, batch, 4)):
        assert logs["step_count"] == step + 1
        expected = (logs["loss_mean_relative"] + logs["loss_projection"] + 0.2 * logs["loss_2d"]
                    + (0.1 * logs["loss_absolute"] if step >= 2 else 0))
        assert logs["loss"] == pytest.approx(expected, rel=1e-5)
        assert all(logs[name] > 0 for name in ("loss_projection", "loss_2d", "loss_absolute", "loss_consistency"))


def test_consistency_counts_on_both_parts(batch_plan, batch):
    rng = np.random.default_rng(0)
    y_pred = (rng.normal(scale=300, size=(12, 7, 3)) + np.array([0, 0, 4000])).astype("float32")
    matrix = rng.uniform(size=(7, 7)).astype("float32")
    matrix /= matrix.sum(axis=1, keepdims=True)

    def loss(**settings):
        trainer = small_model.make_trainer(batch_plan, **settings)
        return float(trainer.compute_loss(x=batch, y_pred=y_pred, training=False))

    off = np.abs(y_pred - np.einsum("ij,bjc->bic", matrix, y_pred)) / 1000
    expected = off[:8].mean() + 0.2 * off[8:].mean()
    assert loss(projection_matrix=matrix) - loss() == pytest.approx(expected, rel=1e-3)
    assert loss(projection_matrix=matrix, consistency_factor=2.0) - loss() == pytest.approx(2 * expected, rel=1e-3)
    assert loss(projection_matrix=np.eye(7, dtype="float32")) == pytest.approx(loss(), abs=1e-6)


def test_batches_without_2d_labels(batch):
    trainer = small_model.PoseTrainer(small_model.make_model(), small_model.LossSettings(
        num_3d=8, averaging_matrix=np.zeros((0, 7), "float32")))
    trainer.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    only_3d = {name: values[:8] for name, values in batch.items() if "2d" not in name}
    logs = trainer.train_on_batch(only_3d, return_dict=True)
    assert logs["loss"] == pytest.approx(logs["loss_mean_relative"] + logs["loss_projection"], rel=1e-5)


def test_weak_perspective_at_first_then_full(batch_plan, batch):
    trainer = small_model.make_trainer(batch_plan, weak_perspective_steps=1)
    for step in (0, 1):
        trainer.step_count.assign(step)
        generator = keras.random.SeedGenerator(0)
        generator.state.assign(trainer.mix_seed.state)
        mix = keras.random.uniform((12, 1, 1), seed=generator)
        outputs = [np.asarray(trainer.pose_model(batch, training=True, mix=mix, use_weak_perspective=weak))
                   for weak in (True, False)]
        expected, other = outputs if step == 0 else outputs[::-1]
        actual = np.asarray(trainer(batch, training=True))
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=0.1)
        assert np.abs(actual - other).max() > 10


def test_every_step_draws_another_mix(batch_plan, batch):
    trainer = small_model.make_trainer(batch_plan)
    first, second = (np.asarray(trainer(batch, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1
    np.testing.assert_array_equal(np.asarray(trainer(batch)), np.asarray(trainer(batch)))  # at test it is 0.5


def test_stored_statistics_rest_while_scale_and_offset_learn(batch_plan, batch):
    trainer = _compiled(batch_plan, 1e-2)
    layers = [x for x in trainer.pose_model.backbone.layers if isinstance(x, GhostBatchNormalization)]

    def snapshot():
        return [[np.asarray(v) for v in layer.variables] for layer in layers]

    changes = {}
    for value in (False, True):
        trainer.set_use_stored_statistics(value)
        trainer.make_train_function(force=True)
        before = snapshot()
        _steps(trainer, batch, 1)
        changes[value] = np.array([[np.abs(a - b).max() > 0 for a, b in zip(new, old, strict=True)]
                                   for new, old in zip(snapshot(), before, strict=True)])
    assert len(layers) == 7
    assert [v.name for v in layers[0].variables] == ["gamma", "beta", "moving_mean", "moving_variance"]
    assert changes[False].all()
    assert changes[True][:, :2].all()
    assert not changes[True][:, 2:].any()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="gradients are taken by TensorFlow's tape")
def test_2d_labels_reach_all_joints_of_that_name_and_no_others(batch_plan, batch):
    import tensorflow as tf
    names = small_model.MERGED.joint_names
    assert names == ("neck_arms", "left_wrist_arms", "right_wrist_arms", "pelvis_legs", "left_ankle_legs",
                     "right_ankle_legs", "neck_legs")
    trainer = small_model.make_trainer(batch_plan)
    unlabelled = {**batch, "joints3d_mask": np.zeros_like(batch["joints3d_mask"])}
    # all joints on the optical axes, so that their projections are inside; both necks support the labelled one
    y_pred = tf.Variable(np.tile(np.float32([0, 0, 4000]), (12, 7, 1)))
    with tf.GradientTape() as tape:
        loss = trainer.compute_loss(x=unlabelled, y_pred=y_pred, training=False)
    gradient = np.abs(tape.gradient(loss, y_pred).numpy())
    assert (gradient[:8] == 0).all()
    assert (gradient[8:, [0, 1, 2, 6], :2].max(axis=0) > 0).all()
    assert (gradient[8:, 3:6] == 0).all()
    np.testing.assert_allclose(gradient[8:, 0], gradient[8:, 6])  # half each
    assert gradient[8:, 1].sum() == pytest.approx(2 * gradient[8:, 0].sum(), rel=0.5)
