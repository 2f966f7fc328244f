import dataclasses

import keras
import numpy as np
import pytest

from posepile.data.batches import make_batch
from posepile.models.consistency import make_finetune_model
from posepile.models.normalization import ghost_layers
from posepile.models.objective import LOSS_NAMES, PoseObjective, read_sums
from posepile.models.pose_model import PredictedPoints
from posepile.training.step_inputs import block_rows, blocks, in_blocks, step_inputs
from tests.posepile import small_model

MODES = ("none", "regularize", "latent", "hybrid")
PLAIN_NAMES = ["loss", "loss_mean_relative", "loss_projection", "loss_absolute", "loss_2d"]
AUTOENCODER = small_model.Autoencoder()
needs_tape = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="gradients are taken by TensorFlow's tape")


@pytest.fixture(scope="module")
def batch(batch_plan):
    return {**make_batch(batch_plan, seed=0, step=0), **step_inputs(batch_plan, 0, 0, 0)}


@pytest.fixture(scope="module")
def models():
    return {mode: small_model.make_consistent_model(mode) for mode in MODES}


@pytest.fixture
def objective_of(batch_plan, models):
    """Makes the objective of a mode, with a model that is shared and not to be changed."""
    def make(mode, **settings):
        if mode == "regularize":
            settings = {"projection_matrix": AUTOENCODER.decoder @ AUTOENCODER.encoder, **settings}
        return small_model.make_objective(batch_plan, pose_model=models[mode], **settings)
    return make


def _numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


def _means(objective, dataset_names=("arms", "legs", "photos")):
    return read_sums(_numpy(objective.sums), list(dataset_names))


def _points(batch, mode, seed=0):
    """Predictions near the labels, and around the optical axes where there are none."""
    rng = np.random.default_rng(seed)

    def noisy(points):
        return (points + rng.normal(scale=100, size=points.shape)).astype("float32")

    joints3d = np.tile(np.float32([0, 0, 4000]), (12, 7, 1))
    joints3d[:8][batch["joints3d_mask"]] = batch["joints3d"][batch["joints3d_mask"]]
    return PredictedPoints(None if mode == "latent" else noisy(joints3d),
                           noisy(AUTOENCODER.encoder @ joints3d) if mode in ("latent", "hybrid") else None)


def _rows(points, rows):
    return PredictedPoints(*(None if p is None else p[rows] for p in points))


@needs_tape
@pytest.mark.parametrize("mode", ["none", "hybrid"])
def test_loss_falls_on_one_batch(batch_plan, batch, mode):
    import tensorflow as tf
    identity = small_model.Autoencoder(encoder=np.eye(7, dtype="float32"), decoder=np.eye(7, dtype="float32"))
    model = make_finetune_model(small_model.make_model(), mode, identity, ghost_batch_size=4, seed=0)
    objective = small_model.make_objective(batch_plan, pose_model=model, absolute_loss_start=0)
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(objective.trainable_variables)

    @tf.function(autograph=False)
    def step(batch):
        with tf.GradientTape() as tape:
            loss = objective(batch)
        optimizer.apply_gradients(zip(tape.gradient(loss, [v.value for v in objective.trainable_variables]),
                                      objective.trainable_variables, strict=True))
        return loss

    losses = [float(step({**batch, "step": np.int32(1)})) for _ in range(30)]
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])


@pytest.mark.parametrize("mode", MODES)
def test_total_is_made_of_its_terms_and_the_absolute_loss_sets_in(objective_of, batch, mode):
    for step in (1, 2):
        objective = objective_of(mode, consistency_factor=0.0)
        loss = float(objective.loss({**batch, "step": np.int32(step)}, _points(batch, mode)))
        means = _means(objective)
        expected = (means["loss_mean_relative"] + means["loss_projection"] + 0.2 * means["loss_2d"]
                    + (0.1 * means["loss_absolute"] if step >= 2 else 0)
                    + means.get("loss_joints", 0) + means.get("loss_reconstructed", 0))
        assert loss == pytest.approx(expected, rel=1e-5)
        assert means["loss"] == pytest.approx(loss, rel=1e-6)
        assert all(value > 0 for name, value in means.items())


@pytest.mark.parametrize(("mode", "more"), [
    ("none", []), ("latent", []), ("regularize", ["loss_consistency"]),
    ("hybrid", ["loss_joints", "loss_reconstructed", "loss_consistency", "loss_teacher"])])
def test_only_losses_that_a_mode_has_are_logged(objective_of, batch, mode, more):
    objective = objective_of(mode)
    assert _means(objective) == {}
    objective.loss(batch, _points(batch, mode))
    assert list(_means(objective)) == [*PLAIN_NAMES, *more, "error/arms", "error/legs", "error/photos"]


def test_sums_are_read_as_means(objective_of, batch):
    objective = objective_of("hybrid")
    losses = [float(objective.loss(batch, _points(batch, "hybrid", seed))) for seed in range(3)]
    means = _means(objective)
    assert means["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    # four examples of each data set, all of their 3 or 4 joints labelled
    assert means["loss_mean_relative"] == pytest.approx((3 * means["error/arms"] + 4 * means["error/legs"]) / 7, rel=1e-5)


def test_consistency_counts_on_both_parts(objective_of, batch):
    rng = np.random.default_rng(0)
    matrix = rng.uniform(size=(7, 7)).astype("float32")
    matrix /= matrix.sum(axis=1, keepdims=True)
    points = _points(batch, "none")

    def loss(**settings):
        return float(objective_of("none", **settings).loss(batch, points))

    off = np.abs(points.joints3d - np.einsum("ij,bjc->bic", matrix, points.joints3d)) / 1000
    expected = off[:8].mean() + 0.2 * off[8:].mean()
    assert loss(projection_matrix=matrix) - loss() == pytest.approx(expected, rel=1e-3)
    assert loss(projection_matrix=matrix, consistency_factor=2.0) - loss() == pytest.approx(2 * expected, rel=1e-3)
    assert loss(projection_matrix=np.eye(7, dtype="float32")) == pytest.approx(loss(), abs=1e-6)


def test_hybrid_by_hand(objective_of, batch):
    points = _points(batch, "hybrid")
    joints3d, latents3d = points
    encoded = AUTOENCODER.encoder @ joints3d
    off = np.abs(joints3d - AUTOENCODER.decoder @ encoded) / 1000
    consistency = off[:8].mean() + 0.2 * 0.5 * off[8:].mean()
    off = np.abs(latents3d - encoded) / 1000
    teacher = off[:8].mean() + 0.2 * 0.5 * off[8:].mean()
    plain = sum(float(objective_of("none").loss(batch, PredictedPoints(np.float32(joints), None)))
                for joints in (joints3d, AUTOENCODER.decoder @ latents3d, AUTOENCODER.decoder @ encoded))

    def loss(**settings):
        return float(objective_of("hybrid", **settings).loss(batch, points))

    assert loss() == pytest.approx(plain + consistency, rel=1e-4)
    assert loss(consistency_factor=3.0) == pytest.approx(plain + 3 * consistency, rel=1e-4)
    assert loss(teacher_loss_start=0) == pytest.approx(plain + consistency + teacher, rel=1e-4)


def test_teacher_loss_sets_in(objective_of, batch):
    points, objective = _points(batch, "hybrid"), objective_of("hybrid", absolute_loss_start=0, teacher_loss_start=7)
    before, at, after = (float(objective.loss({**batch, "step": np.int32(step)}, points)) for step in (6, 7, 8))
    assert before < at == after
    assert _means(objective)["loss_teacher"] > 0  # logged from the first step on


def test_hybrid_with_an_autoencoder_that_changes_nothing(batch_plan, objective_of, batch):
    identity = small_model.Autoencoder(encoder=np.eye(7, dtype="float32"), decoder=np.eye(7, dtype="float32"))
    objective = small_model.make_objective(
        batch_plan, pose_model=small_model.make_consistent_model("hybrid", autoencoder=identity), teacher_loss_start=0)
    joints3d = _points(batch, "none").joints3d
    loss = float(objective.loss(batch, PredictedPoints(joints3d, joints3d)))
    assert loss == pytest.approx(3 * float(objective_of("none").loss(batch, PredictedPoints(joints3d, None))), rel=1e-5)
    means = _means(objective)
    assert means["loss_joints"] == means["loss_reconstructed"] == pytest.approx(loss / 3, rel=1e-5)
    assert [means["loss_consistency"], means["loss_teacher"]] == pytest.approx([0, 0], abs=1e-6)


@needs_tape
def test_teacher_loss_teaches_latent_points_only(objective_of, batch):
    import tensorflow as tf
    unlabelled = {**batch, **{name: np.zeros_like(batch[name]) for name in ("joints3d_mask", "joints2d_mask")}}
    objective = objective_of("hybrid", consistency_factor=0.0, teacher_loss_start=0)
    kernel, _ = head_variables = [v.value for v in objective.pose_model.head.trainable_variables]
    points = [tf.Variable(p) for p in _points(batch, "hybrid")]
    with tf.GradientTape() as tape:
        loss = objective.loss(unlabelled, PredictedPoints(*points))
    joints_gradient, latents_gradient = tape.gradient(loss, points, unconnected_gradients="zero")
    assert not np.any(joints_gradient)
    # mean |difference| in m over 3 latents and 3 axes of 8 or 4 rows
    np.testing.assert_allclose(np.abs(latents_gradient[:8]), 1e-3 / (8 * 3 * 3), rtol=1e-5)
    np.testing.assert_allclose(np.abs(latents_gradient[8:]), 0.2 * 0.5 * 1e-3 / (4 * 3 * 3), rtol=1e-5)
    with tf.GradientTape() as tape:
        loss = objective({**unlabelled, "step": np.int32(5)}, training=False)
    by_point = tape.gradient(loss, head_variables)[0].numpy().reshape(kernel.shape[2], 9, 7 + 3)
    assert not by_point[..., :7].any()
    assert (np.abs(by_point[..., 7:]).max(axis=(0, 1)) > 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_batches_without_2d_labels(models, batch, mode):
    objective = PoseObjective(models[mode], small_model.LossSettings(np.zeros((0, 7), "float32"), num_datasets=2), num_blocks=2)
    only_3d = {name: values[:8] if np.ndim(values) else values for name, values in batch.items() if "2d" not in name}
    points = _rows(_points(batch, mode), slice(8))
    loss = float(objective.loss(only_3d, points))
    means = _means(objective, ["arms", "legs"])
    assert "loss_2d" not in means
    assert loss == pytest.approx(sum(value for name, value in means.items() if name in LOSS_NAMES[1:] and name not in (
        "loss_absolute", "loss_teacher")), rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_shares_of_devices_add_up_to_the_loss_of_the_batch(objective_of, batch, mode):
    batch = {**batch, "joints3d_mask": batch["joints3d_mask"] & (np.arange(8) != 1)[:, None]}  # a half has fewer labels
    points, whole = _points(batch, mode), objective_of(mode, teacher_loss_start=0)
    expected = float(whole.loss(batch, points))
    halves = list(zip(blocks(batch, 2), (_rows(points, rows) for rows in block_rows(8, 4, 2)), strict=True))

    def share(half, totals):
        """The loss of a half, its sums, and what it gave to be added up, in the order of the calls."""
        given = []

        def sum_over_devices(value):
            given.append(_numpy(value))
            return value if totals is None else keras.ops.convert_to_tensor(totals[len(given) - 1])

        plain = objective_of(mode, teacher_loss_start=0)
        objective = PoseObjective(plain.pose_model, plain.settings, sum_over_devices=sum_over_devices)
        return float(objective.loss(*half)), _means(objective), given

    totals = None
    for _ in range(3):  # what is added up first has an influence on what is added up later
        shares, means, given = zip(*(share(half, totals) for half in halves), strict=True)
        totals = [a + b for a, b in zip(*given, strict=True)]
    assert sum(shares) == pytest.approx(expected, rel=1e-5)
    assert sum(share(half, None)[0] for half in halves) / 2 != pytest.approx(expected, rel=1e-3)
    for device_means in means:
        assert device_means == pytest.approx(_means(whole), rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_order_in_blocks_changes_nothing(objective_of, batch, mode):
    batch = {**batch, "joints3d_mask": batch["joints3d_mask"] & (np.arange(8) != 1)[:, None]}
    points, whole = _points(batch, mode), objective_of(mode, teacher_loss_start=0)
    expected = float(whole.loss(batch, points))
    objective = PoseObjective(whole.pose_model, whole.settings, num_blocks=2)
    loss = float(objective.loss(in_blocks(batch, 2), _rows(points, block_rows(8, 4, 2).ravel())))
    assert loss == pytest.approx(expected, rel=1e-6)
    assert _means(objective) == pytest.approx(_means(whole), rel=1e-5)


@pytest.mark.parametrize(("mode", "field"), [("none", "joints3d"), ("latent", "latents3d"), ("hybrid", "joints3d"),
                                             ("hybrid", "latents3d")])
def test_loss_of_a_prediction_that_is_not_finite(objective_of, batch, mode, field):
    points, objective = _points(batch, mode), objective_of(mode)
    getattr(points, field)[3, 1] = np.nan
    unlabelled = {**batch, "joints3d_mask": np.zeros_like(batch["joints3d_mask"])}
    assert np.isnan(float(objective.loss(unlabelled, points)))
    assert not _numpy(objective.sums).any()


def test_weak_perspective_at_first_then_full(objective_of, batch):
    objective = objective_of("hybrid", weak_perspective_steps=1)
    for step in (0, 1):
        actual, expected, other = (
            _numpy(points.latents3d) for points in (
                objective.predict({**batch, "step": np.int32(step)}, training=False),
                *(objective.pose_model.predict_points(batch, mix=batch["mix"][:, None, None], use_weak_perspective=weak)
                  for weak in (step == 0, step == 1))))
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=0.1)
        assert np.abs(actual - other).max() > 10


def test_every_example_has_its_own_mix(objective_of, batch):
    objective = objective_of("none")
    mixed = _numpy(objective.predict(batch, training=False).joints3d)
    ends = [_numpy(objective.predict({**batch, "mix": np.full(12, mix, "float32")}, training=False).joints3d) for mix in (0, 1)]
    expected = ends[0] + batch["mix"][:, None, None] * (ends[1] - ends[0])
    assert np.abs(ends[1] - ends[0]).max() > 10
    np.testing.assert_allclose(mixed, expected, rtol=1e-4, atol=0.1)


@needs_tape
def test_stored_statistics_rest_while_scale_and_offset_learn(batch_plan, batch):
    import tensorflow as tf
    objective = small_model.make_objective(batch_plan)
    layers = ghost_layers(objective.pose_model)
    assert len(layers) == 7
    assert [v.name for v in layers[0].variables] == ["gamma", "beta", "moving_mean", "moving_variance"]
    for value in (False, True):
        objective.set_use_stored_statistics(value)
        before = [[_numpy(v) for v in layer.non_trainable_variables] for layer in layers]
        with tf.GradientTape() as tape:
            loss = objective(batch)
        gradients = tape.gradient(loss, [v.value for layer in layers for v in layer.trainable_variables])
        assert all(np.abs(g).max() > 0 for g in gradients)
        changed = [np.abs(_numpy(v) - old).max() > 0 for layer, values in zip(layers, before, strict=True)
                   for v, old in zip(layer.non_trainable_variables, values, strict=True)]
        assert changed == [not value] * 14


def test_nothing_of_the_autoencoder_is_trained(models):
    for mode in ("latent", "hybrid"):
        trainable, others = ({v.path.split("/")[-1] for v in variables} for variables in (
            models[mode].trainable_variables, models[mode].non_trainable_variables))
        assert {"encoder", "decoder"} <= others - trainable


def test_a_projection_matrix_is_for_models_of_joints(objective_of):
    with pytest.raises(ValueError, match="variant 'hybrid'"):
        objective_of("hybrid", projection_matrix=np.eye(7, dtype="float32"))


@needs_tape
def test_2d_labels_reach_all_joints_of_that_name_and_no_others(batch_plan, batch):
    import tensorflow as tf
    names = small_model.MERGED.joint_names
    assert names == ("neck_arms", "left_wrist_arms", "right_wrist_arms", "pelvis_legs", "left_ankle_legs",
                     "right_ankle_legs", "neck_legs")
    objective = small_model.make_objective(batch_plan)
    unlabelled = {**batch, "joints3d_mask": np.zeros_like(batch["joints3d_mask"])}
    # all joints on the optical axes, so that their projections are inside; both necks support the labelled one
    joints3d = tf.Variable(np.tile(np.float32([0, 0, 4000]), (12, 7, 1)))
    with tf.GradientTape() as tape:
        loss = objective.loss(unlabelled, PredictedPoints(joints3d, None))
    gradient = np.abs(tape.gradient(loss, joints3d).numpy())
    assert (gradient[:8] == 0).all()
    assert (gradient[8:, [0, 1, 2, 6], :2].max(axis=0) > 0).all()
    assert (gradient[8:, 3:6] < 1e-9).all()  # rounding
    np.testing.assert_allclose(gradient[8:, 0], gradient[8:, 6])  # half each
    assert gradient[8:, 1].sum() == pytest.approx(2 * gradient[8:, 0].sum(), rel=0.5)


def test_2d_labels_of_a_joint_that_no_format_has_do_not_count(models, batch_plan, batch):
    matrix = small_model.make_objective(batch_plan).settings.averaging_matrix
    more = {"joints2d": np.pad(batch["joints2d"], ((0, 0), (0, 1), (0, 0)), constant_values=15.0),
            "joints2d_mask": np.pad(batch["joints2d_mask"], ((0, 0), (0, 1)), constant_values=True)}
    expected, loss = (float(PoseObjective(models["none"], small_model.LossSettings(m)).loss(b, _points(batch, "none")))
                      for m, b in ((matrix, batch), (np.pad(matrix, ((0, 1), (0, 0))), {**batch, **more})))
    assert loss == pytest.approx(expected, rel=1e-6)


def test_default_onsets_are_the_papers(batch_plan):
    defaults = {field.name: field.default for field in dataclasses.fields(small_model.LossSettings)}
    assert defaults["absolute_loss_start"] == defaults["teacher_loss_start"] == 5000
