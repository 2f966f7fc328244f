"""Metrics against numbers worked out by hand, other implementations, and the rules for incomplete data."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.spatial
from scipy.spatial.transform import Rotation

from posepile.evaluation import metrics

ROOT_RELATIVE = (metrics.mpjpe, metrics.n_mpjpe, metrics.pck, metrics.auc, metrics.auc31, metrics.cps, metrics.cps_auc)
ALL_METRICS = (*ROOT_RELATIVE, metrics.pa_mpjpe, metrics.a_mpjpe, metrics.apck)
KEYS = {"mpjpe", "pa_mpjpe", "n_mpjpe", "a_mpjpe", "pck50", "pck100", "pck150", "auc50", "auc100", "auc150", "auc31",
        "cps100", "cps150", "cps200", "cps_auc100", "cps_auc150", "cps_auc200", "apck150", "apck300", "num_poses",
        "num_undefined"}


def poses_of_distances(distances):
    """Truth and prediction, root at joint 0 off by 1000 mm in depth, the other joints by `distances` more, along x."""
    distances = np.array(distances, float)
    true = np.random.default_rng(0).normal(0, 300, (*distances.shape, 3)) + np.array([0, 0, 4000])
    true = np.concatenate([true[:, :1], true], axis=1)
    pred = true + np.array([0, 0, 1000])
    pred[:, 1:, 0] += distances
    return pred, true


@pytest.fixture(name="random_poses")
def _random_poses():
    rng = np.random.default_rng(1)
    true = rng.normal(0, 300, (40, 17, 3)) + np.array([0, 0, 3000])
    pred = true + rng.normal(0, 80, true.shape)
    return pred, true, rng.random((40, 17)) < 0.8


def test_numbers_worked_out_by_hand():
    # root-relative distances of 2 poses, the root's 0 included: 0 40 120 and 0 100 260
    pred, true = poses_of_distances([[40, 120], [100, 260]])
    result = metrics.compute_metrics(pred, true)
    assert set(result) == KEYS
    expected = {
        "mpjpe": 520 / 6,
        "pck50": 100 * 3 / 6, "pck100": 100 * 3 / 6, "pck150": 100 * 5 / 6,  # 100 is not below 100
        "auc50": 100 * (1 + 10 / 50 + 1) / 6,
        "auc100": 100 * (1 + 0.6 + 1) / 6,
        "auc150": 100 * (1 + 110 / 150 + 30 / 150 + 1 + 50 / 150) / 6,
        # thresholds 0, 5, ..., 150 above 0: 30; above 40: 45 to 150, 22; above 120: 125 to 150, 6; above 100: 10
        "auc31": 100 * (30 + 22 + 6 + 30 + 10) / (31 * 6),
        "cps100": 0, "cps150": 50, "cps200": 50,
        "cps_auc100": 0, "cps_auc150": 100 * (30 / 150) / 2, "cps_auc200": 100 * (80 / 200) / 2,
        "a_mpjpe": (2 * 1000 + sum(np.hypot(1000, d) for d in (40, 120, 100, 260))) / 6,
        "apck150": 0, "apck300": 0,
        "num_poses": 2, "num_undefined": 0,
    }
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_absolute_metrics_by_hand():
    true = np.zeros((1, 4, 3)) + np.array([0, 0, 2000])
    pred = true + np.array([[0, 0, 0], [3, 4, 0], [0, 150, 0], [0, 0, 299]])
    assert metrics.a_mpjpe(pred, true) == pytest.approx((5 + 150 + 299) / 4)
    assert metrics.apck(pred, true, threshold=150) == 50
    assert metrics.apck(pred, true, threshold=300) == 100


def test_n_mpjpe_by_hand():
    true = np.array([[[0, 0, 0], [100, 0, 0], [0, 100, 0.0]]])
    pred = np.array([[[5, 5, 5], [55, 5, 5], [5, 105, 5.0]]])  # relative: (50, 0, 0), (0, 100, 0)
    # scale = (50 * 100 + 100 * 100) / (50^2 + 100^2) = 1.2: (60, 0, 0), (0, 120, 0)
    assert metrics.n_mpjpe(pred, true) == pytest.approx((0 + 40 + 20) / 3)


@pytest.mark.parametrize("metric", [metrics.mpjpe, metrics.n_mpjpe, metrics.pa_mpjpe, metrics.a_mpjpe])
def test_perfect_prediction_has_no_error(metric, random_poses):
    _, true, validity = random_poses
    assert metric(true, true, validity) == pytest.approx(0, abs=1e-9)


def test_perfect_prediction_scores(random_poses):
    _, true, _ = random_poses
    result = metrics.compute_metrics(true, true)
    assert result["auc31"] == pytest.approx(96.774, abs=1e-3)  # nothing is below the threshold 0
    assert all(result[name] == 100 for name in KEYS if name.startswith(("pck", "cps", "apck", "auc1", "auc5")))


@pytest.mark.parametrize("metric", [metrics.pck, metrics.cps, metrics.apck])
def test_thresholds_are_strict(metric):
    true = np.zeros((1, 3, 3))
    pred = true.copy()
    pred[0, 2, 1] = 150
    assert metric(pred, true, threshold=150) < 100
    assert metric(pred, true, threshold=np.nextafter(150, 200)) == 100


@pytest.mark.parametrize("distance, num_thresholds_above", [(0, 30), (4.9, 30), (5, 29), (145, 1), (149, 1), (150, 0),
                                                            (151, 0)])
def test_auc31_counts_thresholds_above_the_distance(distance, num_thresholds_above):
    true = np.zeros((1, 2, 3))
    pred = np.array([[[0, 0, 0], [0, distance, 0]]])
    assert metrics.auc31(pred, true) == pytest.approx(100 * (30 + num_thresholds_above) / (2 * 31))


def test_auc31_is_the_mean_of_pck(random_poses):
    pred, true, validity = random_poses
    pred[0, 1] = true[0, 1] + pred[0, 0] - true[0, 0] + np.array([35, 0, 0])  # exactly at a threshold, but for rounding
    curve = [metrics.pck(pred, true, validity, threshold=5 * step) for step in range(31)]
    assert metrics.auc31(pred, true, validity) == pytest.approx(np.mean(curve))


@pytest.mark.parametrize("area, share", [(metrics.auc, metrics.pck), (metrics.cps_auc, metrics.cps)])
def test_continuous_area_is_the_mean_over_all_thresholds(area, share, random_poses):
    pred, true, validity = random_poses
    thresholds = np.linspace(0, 150, 3001)
    curve = np.array([share(pred, true, validity, threshold=t) for t in thresholds])
    assert area(pred, true, validity, threshold=150) == pytest.approx((curve[1:] + curve[:-1]).mean() / 2, abs=0.05)


def test_cps_asks_for_every_valid_joint():
    pred, true = poses_of_distances([[10, 199], [10, 200], [250, 10]])
    assert metrics.cps(pred, true) == pytest.approx(100 / 3)
    validity = np.ones((3, 3), bool)
    validity[2, 1] = False
    assert metrics.cps(pred, true, validity) == pytest.approx(200 / 3)


def test_equals_a_loop_over_poses_and_joints(random_poses):
    pred, true, validity = random_poses
    root = 3
    errors, errors_n, errors_pa, worst = [], [], [], []
    for p, g, v in zip(pred, true, validity, strict=True):
        p_rel, g_rel = p - p[root], g - g[root]
        factor = (p_rel[v] * g_rel[v]).sum() / (p_rel[v] ** 2).sum()
        if v[root]:
            errors += [np.linalg.norm(p_rel[j] - g_rel[j]) for j in np.flatnonzero(v)]
            errors_n += [np.linalg.norm(factor * p_rel[j] - g_rel[j]) for j in np.flatnonzero(v)]
            worst.append(np.linalg.norm(p_rel - g_rel, axis=-1)[v].max())
        # scipy's estimator of rotations (it never reflects), scale by its closed form
        p_centered, g_centered = p[v] - p[v].mean(axis=0), g[v] - g[v].mean(axis=0)
        rotated = Rotation.align_vectors(g_centered, p_centered)[0].apply(p_centered)
        rotated *= (rotated * g_centered).sum() / (rotated ** 2).sum()
        errors_pa += list(np.linalg.norm(rotated - g_centered, axis=-1))
    result = metrics.compute_metrics(pred, true, validity, root)
    assert result["mpjpe"] == pytest.approx(np.mean(errors), rel=1e-12)
    assert result["n_mpjpe"] == pytest.approx(np.mean(errors_n), rel=1e-12)
    assert result["pa_mpjpe"] == pytest.approx(np.mean(errors_pa), rel=1e-9)
    assert result["pck100"] == pytest.approx(100 * np.mean(np.array(errors) < 100))
    assert result["cps200"] == pytest.approx(100 * np.mean(np.array(worst) < 200))


def test_functions_agree_with_compute_metrics(random_poses):
    pred, true, validity = random_poses
    result = metrics.compute_metrics(pred, true, validity, 2)
    for metric in ALL_METRICS:
        name = metric.__name__
        if name in result:
            assert metric(pred, true, validity, 2) == result[name], name
        else:
            for key in (key for key in result if key.rstrip("0123456789") == name and key != "auc31"):
                assert metric(pred, true, validity, 2, threshold=float(key[len(name):])) == result[key], key


def test_more_poses_than_fit_in_one_chunk():
    rng = np.random.default_rng(2)
    pred, true = rng.normal(0, 100, (2, 5000, 3, 3))
    result = metrics.compute_metrics(pred, true)
    halves = [metrics.compute_metrics(pred[part], true[part]) for part in (slice(2500), slice(2500, None))]
    for name in KEYS - {"num_poses", "num_undefined"}:
        assert result[name] == pytest.approx((halves[0][name] + halves[1][name]) / 2)
    assert result["num_poses"] == 5000


def test_leading_axes_and_types(random_poses):
    pred, true, validity = random_poses
    expected = metrics.mpjpe(pred, true, validity)
    assert metrics.mpjpe(*(a.reshape(8, 5, *a.shape[1:]) for a in (pred, true, validity))) == expected
    assert metrics.mpjpe(pred, true, validity.astype(np.uint8)) == expected
    assert metrics.mpjpe(pred.tolist(), true.tolist(), validity.tolist()) == expected
    single = metrics.compute_metrics(pred.astype(np.float32), true.astype(np.float32), validity)
    assert all(isinstance(value, float | int) for value in single.values())
    assert single["mpjpe"] == pytest.approx(expected, rel=1e-5)


# ---- Procrustes


def test_alignment_undoes_a_similarity_transform():
    rng = np.random.default_rng(3)
    true = rng.normal(0, 300, (30, 17, 3)) + np.array([0, 0, 5000])
    rotation = Rotation.random(30, random_state=3).as_matrix()
    pred = rng.uniform(0.2, 5, (30, 1, 1)) * true @ rotation + rng.normal(0, 1000, (30, 1, 3))
    np.testing.assert_allclose(metrics.procrustes_align(pred, true), true, atol=1e-8)
    assert metrics.pa_mpjpe(pred, true) < 1e-8


def test_alignment_agrees_with_scipy_procrustes():
    rng = np.random.default_rng(4)
    true = rng.normal(0, 300, (20, 17, 3))
    pred = true + rng.normal(0, 50, true.shape)  # near the truth: scipy's, which may reflect, does not
    for p, g in zip(pred, true, strict=True):
        scipy_true, scipy_aligned, _ = scipy.spatial.procrustes(g, p)
        size = np.linalg.norm(g - g.mean(axis=0))  # scipy brings both to unit size
        np.testing.assert_allclose(metrics.procrustes_align(p, g) - g, (scipy_aligned - scipy_true) * size, atol=1e-8)


def test_alignment_agrees_with_scipy_orthogonal_procrustes():
    """Of any two poses: where scipy's best orthogonal matrix reflects, its last singular direction is turned."""
    rng = np.random.default_rng(7)
    pred, true = rng.normal(0, 300, (2, 40, 17, 3))
    num_reflected = 0
    for p, g, aligned in zip(pred, true, metrics.procrustes_align(pred, true), strict=True):
        p, center = p - p.mean(axis=0), g.mean(axis=0)
        matrix, _ = scipy.linalg.orthogonal_procrustes(p, g - center)
        if np.linalg.det(matrix) < 0:
            num_reflected += 1
            weakest = np.linalg.svd(p.T @ (g - center))[0][:, 2]
            matrix = (np.eye(3) - 2 * np.outer(weakest, weakest)) @ matrix
        scale = np.sum(p @ matrix * (g - center)) / np.square(p).sum()
        np.testing.assert_allclose(aligned, scale * p @ matrix + center, atol=1e-9)
    assert 5 < num_reflected < 35


@pytest.mark.parametrize("seed", range(2))
def test_no_nearby_transform_is_better_than_the_alignment(seed):
    """Brute force around it and far away: rotations, scales and shifts drawn at random never fit better."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 300, (17, 3))
    pred = true * [-1, 1, 1] + rng.normal(0, 100, true.shape)  # a mirror image, off by some
    aligned = metrics.procrustes_align(pred, true)
    best = np.square(aligned - true).sum()
    for size in (1e-3, 1e-2, 0.1, 1, 10):
        rotations = Rotation.from_rotvec(rng.normal(0, size, (200, 3))).as_matrix()
        scales, shifts = np.exp(rng.normal(0, size, (200, 1, 1))), rng.normal(0, 100 * size, (200, 1, 3))
        others = scales * (aligned - aligned.mean(axis=0)) @ rotations + aligned.mean(axis=0) + shifts
        assert (np.square(others - true).sum(axis=(1, 2)) > best).all()


def test_alignment_is_exact_in_the_file_of_a_distant_person():
    """float32 positions 20 m away: the rounding of the file, 0.002 mm, is all there is."""
    rng = np.random.default_rng(8)
    true = rng.normal(0, 300, (50, 17, 3)) + np.array([3000, 0, 20_000])
    pred = true + rng.normal(0, 50, true.shape)
    exact = metrics.compute_metrics(pred, true)
    single = metrics.compute_metrics(pred.astype(np.float32), true.astype(np.float32))
    assert single["pa_mpjpe"] == pytest.approx(exact["pa_mpjpe"], abs=1e-3)
    rounded = metrics.compute_metrics(pred.astype(np.float32).astype(np.float64), true.astype(np.float32).astype(np.float64))
    assert single == rounded  # whatever the type, it is computed in float64


@pytest.mark.parametrize("seed", range(4))
def test_alignment_agrees_with_a_general_optimiser(seed):
    rng = np.random.default_rng(seed)
    pred, true = rng.normal(0, 1, (2, 6, 3))  # far apart, so that the best orthogonal matrix may well be a reflection

    def moved(parameters):
        return np.exp(parameters[6]) * Rotation.from_rotvec(parameters[:3]).apply(pred) + parameters[3:6]

    starts = Rotation.random(12, random_state=seed).as_rotvec()
    fits = [scipy.optimize.least_squares(lambda x: (moved(x) - true).ravel(), [*start, 0, 0, 0, -1],
                                         xtol=1e-14, ftol=1e-14, gtol=1e-14)
            for start in starts]
    best = min(fits, key=lambda fit: fit.cost)
    np.testing.assert_allclose(metrics.procrustes_align(pred, true), moved(best.x), atol=1e-4)
    residual = metrics.procrustes_align(pred, true) - true
    assert (residual ** 2).sum() == pytest.approx(2 * best.cost, rel=1e-9)


def test_mirror_image_is_not_aligned_by_reflection():
    rng = np.random.default_rng(5)
    true = rng.normal(0, 300, (10, 17, 3))
    pred = true * [-1, 1, 1]
    assert metrics.pa_mpjpe(pred, true) > 50
    # A mirror image in a plane can be turned into the original through the third dimension.
    flat = true * [1, 1, 0]
    assert metrics.pa_mpjpe(flat * [-1, 1, 1], flat) < 1e-8


def test_alignment_fits_valid_joints_only():
    rng = np.random.default_rng(6)
    true = rng.normal(0, 300, (17, 3))
    rotation = Rotation.random(random_state=6).as_matrix()
    pred = 1.5 * true @ rotation + 100
    pred[:4] += rng.normal(0, 500, (4, 3))
    validity = np.arange(17) >= 4
    aligned = metrics.procrustes_align(pred, true, validity)
    np.testing.assert_allclose(aligned[4:], true[4:], atol=1e-8)
    np.testing.assert_allclose(aligned[:4], (pred[:4] - 100) @ rotation.T / 1.5, atol=1e-8)  # moved along
    assert metrics.pa_mpjpe(pred, true, validity) < 1e-8


def test_points_that_coincide_or_lie_on_a_line():
    point = np.full((1, 5, 3), 7.0)
    line = np.arange(5.0)[None, :, None] * np.array([3, 4, 0])  # 0, 5, ..., 20 mm along
    assert metrics.pa_mpjpe(point, line) == pytest.approx((10 + 5 + 0 + 5 + 10) / 5)  # all at the centre
    assert metrics.n_mpjpe(point, line) == pytest.approx(10)  # all at the root
    assert metrics.pa_mpjpe(line, point) == pytest.approx(0, abs=1e-9)
    assert metrics.pa_mpjpe(line[..., [2, 0, 1]], line) == pytest.approx(0, abs=1e-9)
    assert metrics.compute_metrics(point, point)["pa_mpjpe"] == 0
    with np.errstate(all="raise"):  # no division by zero
        for pred, true in ((point, line), (line, point), (point, point)):
            assert all(np.isfinite(value) for value in metrics.compute_metrics(pred, true).values())


def test_flags_name_the_poses_that_are_counted():
    pred, true = poses_of_distances([[1, 2], [3, 4], [5, 6], [7, 8]])
    pred[1, 2, 0] = np.nan
    validity = np.array([[True, True, True], [True, True, True], [False, True, True], [False, False, False]])
    flags = metrics.pose_flags(metrics.joint_distances(pred, true, validity))
    assert {name: np.flatnonzero(flag).tolist() for name, flag in flags.items()} == {
        "num_poses": [0, 1, 2], "num_undefined": [1, 2], "num_nonfinite": [1], "num_without_root": [2], "num_unaligned": [2],
        "num_empty": [3]}


# ---- Incomplete data


@pytest.mark.parametrize("garbage", [1e9, 1e300, np.nan, np.inf])
@pytest.mark.parametrize("root", [0, None])
def test_garbage_where_not_valid_changes_nothing(garbage, root, random_poses):
    pred, true, validity = random_poses
    validity[:3] = False
    expected = metrics.compute_metrics(pred, true, validity, root)
    pred[~validity] = garbage
    true[~validity] = -garbage
    assert metrics.compute_metrics(pred, true, validity, root) == expected
    assert expected["num_poses"] == 37


def test_poses_without_valid_joint_contribute_nothing():
    pred, true = poses_of_distances([[40, 120], [100, 260], [1, 2]])
    validity = np.ones((3, 3), bool)
    validity[2] = False
    assert metrics.compute_metrics(pred, true, validity) == metrics.compute_metrics(pred[:2], true[:2])
    assert metrics.count_poses(pred, true, validity) == {
        "num_poses": 2, "num_undefined": 0, "num_nonfinite": 0, "num_without_root": 0, "num_unaligned": 0,
        "num_empty": 1}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_prediction_that_is_not_finite_counts_as_wrong(bad):
    pred, true = poses_of_distances([[40, 120], [100, 260], [10, 20], [30, 40]])
    pred[2, 1, 1] = bad
    result = metrics.compute_metrics(pred, true)
    assert all(np.isnan(result[name]) for name in ("mpjpe", "pa_mpjpe", "n_mpjpe", "a_mpjpe"))
    assert all(np.isnan(metric(pred, true)) for metric in (metrics.mpjpe, metrics.n_mpjpe, metrics.pa_mpjpe,
                                                           metrics.a_mpjpe))
    assert result["pck150"] == pytest.approx(100 * (2 + 1 + 1 + 1 + 1 + 1 + 1 + 2) / 12)  # 12 joints, 10 below, not 11
    assert result["cps200"] == 50 and result["cps_auc200"] == pytest.approx(100 * (80 / 200 + 160 / 200) / 4)
    assert result["num_poses"] == 4 and result["num_undefined"] == 1
    assert metrics.count_poses(pred, true)["num_nonfinite"] == 1
    assert np.isnan(metrics.procrustes_align(pred, true)[2]).all()
    assert np.isfinite(metrics.procrustes_align(pred, true)[[0, 1, 3]]).all()


@pytest.mark.parametrize("root", [0, None])
def test_root_that_is_not_finite_makes_the_whole_pose_wrong(root):
    pred, true = poses_of_distances([[0, 0], [0, 0]])
    pred[1, 0] = np.nan
    result = metrics.compute_metrics(pred, true, root=root)
    assert result["pck150"] == 50 and result["auc150"] == 50 and result["cps200"] == 50
    pred[..., 2] -= 1000
    assert metrics.apck(pred, true, root=root) == pytest.approx(100 * 5 / 6)  # all others are right


def test_pose_whose_root_is_not_valid_has_no_root_relative_score():
    pred, true = poses_of_distances([[40, 120], [100, 260]])
    validity = np.array([[True] * 3, [False, True, True]])
    result = metrics.compute_metrics(pred, true, validity)
    alone = metrics.compute_metrics(pred[:1], true[:1])
    for name in KEYS - {"a_mpjpe", "pa_mpjpe", "apck150", "apck300", "num_poses", "num_undefined"}:
        assert result[name] == alone[name], name
    assert result["a_mpjpe"] == pytest.approx(
        (1000 + sum(np.hypot(1000, d) for d in (40, 120, 100, 260))) / 5)
    assert result["num_poses"] == 2 and result["num_undefined"] == 1
    counts = metrics.count_poses(pred, true, validity)
    assert counts["num_without_root"] == 1 and counts["num_unaligned"] == 1


def test_two_joints_do_not_determine_an_alignment(random_poses):
    pred, true, _ = random_poses
    validity = np.zeros(true.shape[:2], bool)
    validity[:, :2] = True
    validity[:5] = True
    assert metrics.pa_mpjpe(pred, true, validity) == pytest.approx(metrics.pa_mpjpe(pred[:5], true[:5]))
    assert metrics.count_poses(pred, true, validity)["num_unaligned"] == 35
    assert np.isnan(metrics.procrustes_align(pred, true, validity)[5:]).all()


def test_nothing_to_score_is_nan():
    result = metrics.compute_metrics(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)), np.zeros((2, 3), bool))
    assert all(np.isnan(result[name]) for name in KEYS - {"num_poses", "num_undefined"})
    assert result["num_poses"] == result["num_undefined"] == 0
    empty = metrics.compute_metrics(np.zeros((0, 3, 3)), np.zeros((0, 3, 3)))
    assert empty["num_poses"] == 0 and np.isnan(empty["mpjpe"])


def test_without_root_the_mean_of_the_valid_joints_is_subtracted():
    true = np.array([[[0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 0.0]]])
    pred = true + 500
    pred[0, 1, 0] += 30
    validity = np.array([[True, True, True, False]])
    pred[0, 3] = 1e6
    # the mean moves by 10: distances 10, 20, 10
    assert metrics.mpjpe(pred, true, validity, None) == pytest.approx(40 / 3)


def test_selected_and_pooled_distances_score_like_the_poses(random_poses):
    pred, true, validity = random_poses
    distances = metrics.joint_distances(pred, true, validity)
    assert metrics.summarize(distances.select(slice(5, 9))) == metrics.compute_metrics(
        pred[5:9], true[5:9], validity[5:9])
    short = metrics.joint_distances(pred[:, :10], true[:, :10], validity[:, :10])
    pooled = metrics.summarize(metrics.pool_distances([distances, short]))
    parts = [distances.relative[distances.relative_validity], short.relative[short.relative_validity]]
    assert pooled["mpjpe"] == pytest.approx(np.concatenate(parts).mean())
    assert pooled["num_poses"] == 80


# ---- Errors


@pytest.mark.parametrize("metric", [*ALL_METRICS, metrics.compute_metrics])
def test_refuses_an_annotation_that_is_not_finite(metric):
    true = np.zeros((3000, 3, 3))
    true[2900, 1, 2] = np.nan
    with pytest.raises(ValueError, match="joints3d_true is not finite at pose 2900, joint 1"):
        metric(np.zeros((3000, 3, 3)), true)


@pytest.mark.parametrize("arguments, message", [
    ((np.zeros((2, 3, 2)), np.zeros((2, 3, 2))), r"joints3d_pred must be .*got shape \[2, 3, 2\]"),
    ((np.zeros((2, 3, 3)), np.zeros((2, 4, 3))), r"one shape; got \[2, 3, 3\] and \[2, 4, 3\]"),
    ((np.zeros((2, 3, 3)), np.zeros((2, 3, 3)), np.ones((2, 4), bool)), r"validity must be \[2, 3\]"),
    ((np.zeros((2, 3, 3)), np.zeros((2, 3, 3)), np.full((2, 3), 0.5)), "boolean"),
    ((np.zeros((2, 3, 3)), np.zeros((2, 3, 3)), None, 3), r"root is 3, .*0\.\.2"),
])
def test_refuses_arrays_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.compute_metrics(*arguments)


@pytest.mark.parametrize("axis_order", list(itertools.permutations(range(3)))[1:3])
def test_errors_do_not_depend_on_the_choice_of_axes(axis_order, random_poses):
    pred, true, validity = random_poses
    expected = metrics.compute_metrics(pred, true, validity)
    permuted = metrics.compute_metrics(pred[..., axis_order], true[..., axis_order], validity)
    assert permuted == pytest.approx(expected)
