import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from ace.fitting import default_num_latents, fit_autoencoder, split_latents
from benchmarks.kinematic_poses import LANDMARKS, kinematic_poses, merged_skeleton, mirrored, noisy
from posepile.geometry.skeleton import skeleton_from_dict

# None is an affine combination of others, however the body moves.
SIDED_POINTS = ("shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "toe")
CENTRE_POINTS = ("spine1", "nose", "head_top")


def mean_error(a, b):
    return np.linalg.norm(a - b, axis=-1).mean()


def planted_points():
    """19 points of the body, as `kinematic_poses` takes them: 8 left, 8 right, 3 on the centre line."""
    landmarks = []
    for sign, names in ((1, SIDED_POINTS), (-1, SIDED_POINTS), (1, CENTRE_POINTS)):
        for name in names:
            segment, position = LANDMARKS[name]
            side = "" if segment in ("pelvis", "torso", "head") else ("left_" if sign > 0 else "right_")
            landmarks.append((side + segment, np.multiply(position, [sign, 1, 1])))
    return landmarks


def planted_combinations(rng, skeleton):
    """[num_joints, 19]: every point is a joint, and further joints are combinations of two points, alike on both sides."""
    weights = np.zeros((skeleton.num_joints, 19))
    for k, joint in enumerate(skeleton.left):
        first, second = k % 8, (k + rng.integers(1, 8)) % 8
        share = 1 if k < 8 else rng.uniform(0.3, 1)
        for j, shift in ((joint, 0), (skeleton.mirror[joint], 8)):
            weights[j, first + shift], weights[j, second + shift] = share, 1 - share
    centre = [j for j in range(skeleton.num_joints) if skeleton.mirror[j] == j]
    for k, joint in enumerate(centre):
        share = 1 if k < 3 else rng.uniform(0.3, 1)
        weights[joint, 16 + k % 3], weights[joint, 16 + (k + 1) % 3] = share, 1 - share
    return weights


def test_finds_planted_latent_points():
    skeleton = merged_skeleton("smpl_24", "h36m_17", "mpi_inf_3dhp_17", "coco_19")
    rng = np.random.default_rng(5)
    points = kinematic_poses(rng, 1500, planted_points())
    weights = planted_combinations(rng, skeleton)
    poses = weights @ points
    observed = noisy(poses, rng, along_ray_mm=20, noise_mm=3)
    autoencoder = fit_autoencoder(observed[:1200], skeleton, num_latents=19, progress=False)
    assert (autoencoder.num_left, autoencoder.num_right, autoencoder.num_centre) == (8, 8, 3)
    points, poses, observed = points[1200:], poses[1200:], observed[1200:]

    distances = np.linalg.norm(autoencoder.encode(poses)[:, :, None] - points[:, None], axis=-1).mean(axis=0)
    latents, planted = linear_sum_assignment(distances)
    assert distances[latents, planted].max() < 12  # mm: the points themselves, up to their order
    np.testing.assert_array_equal(planted // 8, latents // 8)  # left for left, right for right, centre for centre
    np.testing.assert_allclose(autoencoder.decoder[:, latents], weights[:, planted], atol=0.07)

    assert mean_error(autoencoder.reconstruct(poses), poses) < 5
    assert mean_error(autoencoder.reconstruct(observed), poses) < 0.75 * mean_error(observed, poses)
    assert autoencoder.sparsity > 0.8
    assert np.abs(autoencoder.decoder).sum(axis=1).mean() < 1.02  # nearly convex


def test_formats_agree_after_reconstruction(skeleton, poses, autoencoder):
    """Each format's depth is off by its own offset, as separately trained outputs are; the autoencoder removes most."""
    rng = np.random.default_rng(6)
    h36m = np.arange(skeleton.num_joints) < 17
    offsets = rng.normal(0, 60, (len(poses), 1)) * h36m + rng.normal(0, 60, (len(poses), 1)) * ~h36m
    observed = poses * (1 + offsets / poses[..., 2])[..., None]
    first = [skeleton.index(f"{j}_h36m") for j in ("left_knee", "right_wrist", "neck", "left_shoulder")]
    second = [skeleton.index(f"{j}_coco") for j in ("left_knee", "right_wrist", "neck", "left_shoulder")]

    def disagreement(p):
        return np.abs((p - poses)[:, first, 2] - (p - poses)[:, second, 2]).mean()

    assert disagreement(autoencoder.reconstruct(observed)) < 0.5 * disagreement(observed)


def test_reconstruction_error_of_held_out_poses(skeleton, autoencoder, poses):
    """Noise-free poses; formats up to 40 mm apart, half as many latent points as joints."""
    assert mean_error(autoencoder.reconstruct(poses), poses) < 20  # mm


def test_l1_makes_weights_sparse_and_less_negative(skeleton, poses):
    plain, regularized = (fit_autoencoder(poses, skeleton, l1=l1, progress=False) for l1 in (0.0, 0.6))
    assert regularized.sparsity > plain.sparsity + 0.2
    assert regularized.negative_weight_share < 0.6 * plain.negative_weight_share


def test_same_seed_same_weights_other_seed_others(skeleton, poses):
    first, again, other = (fit_autoencoder(poses, skeleton, seed=s, progress=False) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.encoder, again.encoder)
    np.testing.assert_array_equal(first.decoder, again.decoder)
    np.testing.assert_array_equal(first.history, again.history)
    assert not np.array_equal(first.encoder, other.encoder)


def test_history_falls(autoencoder):
    sweeps, objectives = autoencoder.history.T
    convex = 0.6 / 555 + 0.6 / 48  # the penalty that no weights can undercut
    assert sweeps[-1] <= 202 and (np.diff(sweeps) > 0).all() and (objectives > convex).all()
    assert objectives[-1] - convex < 0.9 * (objectives[0] - convex)


def test_left_latent_points_lie_on_the_left(skeleton, autoencoder):
    left = np.abs(autoencoder.encoder)[:, list(skeleton.left)].sum(axis=1)
    right = left[autoencoder.latent_mirror]
    assert (left[:autoencoder.num_left] > right[:autoencoder.num_left]).all()
    assert all(skeleton.joint_names[j].startswith("left_") for j in skeleton.left)  # h36m_17 lists right joints first


def test_stops_early_when_flat(skeleton, poses):
    still = np.repeat(poses[:1], 64, axis=0)  # one pose: soon fitted
    autoencoder = fit_autoencoder(still, skeleton, progress=False)
    assert autoencoder.history[-1, 0] < 15_000


def test_missing_joints_are_left_out(skeleton, poses):
    rng = np.random.default_rng(7)
    masks = rng.random(poses.shape[:2]) > 0.1
    by_mask = fit_autoencoder(np.where(masks[..., None], poses, 5e5), skeleton, masks=masks, progress=False)
    by_nan = fit_autoencoder(np.where(masks[..., None], poses, np.nan), skeleton, progress=False)
    np.testing.assert_array_equal(by_mask.encoder, by_nan.encoder)
    complete = fit_autoencoder(poses, skeleton, progress=False)
    assert mean_error(by_mask.reconstruct(poses), poses) < mean_error(complete.reconstruct(poses), poses) + 15


@pytest.mark.parametrize(("num_joints", "expected"), [(555, 48), (77, 24), (17, 14), (3, 3), (1, 1)])
def test_default_num_latents(num_joints, expected):
    skeleton = skeleton_from_dict({"name": "s", "joints": [f"j{i}" for i in range(num_joints)]})
    assert default_num_latents(skeleton) == expected


def test_split_latents():
    full = skeleton_from_dict({"name": "full", "joints": [f"j{i}" for i in range(555)],
                               "mirror_pairs": [[f"j{i}", f"j{i + 250}"] for i in range(250)]})
    assert split_latents(48, full) == (20, 8)
    assert split_latents(24, full) == (10, 4)
    assert split_latents(1, full) == (0, 1)
    pairs = skeleton_from_dict({"name": "pairs", "joints": [f"j{i}" for i in range(58)],
                                "mirror_pairs": [[f"j{i}", f"j{i + 29}"] for i in range(29)]})
    assert split_latents(58, pairs) == (29, 0) and split_latents(5, pairs) == (2, 1)  # no joint on the centre line
    assert split_latents(6, skeleton_from_dict({"name": "s", "joints": list("abcdef")})) == (0, 6)
    with pytest.raises(ValueError, match=r"num_latents is 556; expected 1 to 555.*default is 48"):
        split_latents(556, full)


def test_smallest_and_unpaired_skeletons_can_be_fitted():
    poses = np.random.default_rng(8).normal(0, 300, (50, 3, 3)) + np.array([0, 0, 3000])
    for pairs, joints in (([], ["a"]), ([], ["a", "b", "c"]), ([["a", "b"]], ["a", "b"])):
        skeleton = skeleton_from_dict({"name": "s", "joints": joints, "mirror_pairs": pairs})
        given = poses[:, :len(joints)]
        autoencoder = fit_autoencoder(given, skeleton, progress=False)
        assert mean_error(autoencoder.reconstruct(given), given) < 5  # as many points as joints: the identity


def test_mirrored_poses_give_mirrored_reconstructions_after_any_fit(skeleton, poses):
    one_sided = fit_autoencoder(poses[:40], skeleton, progress=False)
    np.testing.assert_allclose(one_sided.reconstruct(mirrored(poses, skeleton.mirror)),
                               mirrored(one_sided.reconstruct(poses), skeleton.mirror), atol=1e-5)


def with_value(poses, value, coordinate=2):
    result = poses[:20].copy()
    result[3, 1, coordinate] = value
    return result


@pytest.mark.parametrize(("change", "masks", "message"), [
    (lambda p: p[:, :-1], None, r"poses have shape \[600, 35, 3\]; expected \[n, 36, 3\]"),
    (lambda p: p[:0], None, r"poses have shape \[0, 36, 3\]"),
    (lambda p: p[0], None, r"poses have shape \[36, 3\]"),
    (lambda p: with_value(p, np.nan), np.ones((20, 36), bool), r"poses\[3\]: the joint right_hip_h36m is not finite"),
    (lambda p: with_value(p, np.inf), None, "right_hip_h36m is not finite"),
    (lambda p: p.astype(str), None, "have dtype <U"),
    (lambda p: p / 1000, None, "look like metres"),
    (lambda p: with_value(p, 1e5, 0), None, r"poses\[3\]: the joint right_hip_h36m is \d{5,6} mm from the middle"),
    (lambda p: p[:20], np.arange(20)[:, None] % 2 == np.arange(36) // 18, "no pose has both pelvis_h36m and"),
    (lambda p: with_value(p, -10.0), None, r"poses\[3\]: the joint right_hip_h36m is behind the camera, z = -10.0 mm"),
    (lambda p: p[:20], np.ones((20, 3), bool), r"masks have shape \[20, 3\] and dtype bool; expected bool \[20, 36\]"),
    (lambda p: p[:20], np.ones((20, 36)), "dtype float64; expected bool"),
    (lambda p: p[:2], np.array([[True], [False]]).repeat(36, axis=1), r"poses\[1\] has no valid joint"),
    (lambda p: p[:2], np.arange(72).reshape(2, 36) % 36 > 0, "1 joints are valid in no pose.*: pelvis_h36m"),
])
def test_bad_poses_are_refused(skeleton, poses, change, masks, message):
    with pytest.raises(ValueError, match=message):
        fit_autoencoder(change(poses), skeleton, masks=masks, progress=False)


def test_bad_numbers_are_refused(skeleton, poses):
    for numbers, message in [
            ({"sweeps": 0}, r"sweeps \(0\)"), ({"restarts": 0}, r"restarts \(0\)"),
            ({"l1": -1}, r"l1 \(-1\)"), ({"l1": np.nan}, r"l1 \(nan\)"),
            ({"joint_weights": [1.0]}, r"joint_weights has shape \[1\]; expected \[36\]"),
            ({"joint_weights": np.zeros(36)}, "not all 0"), ({"joint_weights": -np.ones(36)}, "at least 0")]:
        with pytest.raises(ValueError, match=message):
            fit_autoencoder(poses, skeleton, progress=False, **numbers)
    with pytest.raises(ValueError, match="num_latents is 37; expected 1 to 36"):
        fit_autoencoder(poses, skeleton, num_latents=37, progress=False)


def test_more_guesses_are_not_worse(skeleton, poses):
    one, several = (fit_autoencoder(poses, skeleton, 12, restarts=restarts, progress=False) for restarts in (1, 4))
    assert several.history[-1, 1] <= one.history[-1, 1] * 1.002


def test_joints_of_more_weight_are_reconstructed_better(skeleton, poses):
    weights = np.ones(skeleton.num_joints)
    heavy = [skeleton.index("left_ear_coco"), skeleton.index("right_ear_coco")]
    weights[heavy[0]] = 40  # that of the pair is the mean
    plain, weighted = (fit_autoencoder(poses, skeleton, 12, joint_weights=w, progress=False) for w in (None, weights))

    def error(autoencoder):
        return np.linalg.norm(autoencoder.reconstruct(poses) - poses, axis=-1)[:, heavy].mean()

    assert error(weighted) < 0.7 * error(plain)


@pytest.mark.parametrize("num_poses", [1, 5])
def test_fewer_poses_than_joints_and_constant_poses_give_finite_weights(skeleton, poses, num_poses):
    few = np.repeat(poses[:num_poses], 3, axis=0)
    autoencoder = fit_autoencoder(few, skeleton, progress=False)
    restored = autoencoder.reconstruct(few)
    depth = few[..., 2:].mean()
    assert mean_error(restored[..., :2] / restored[..., 2:] * depth, few[..., :2] / few[..., 2:] * depth) < 5  # mm


def test_one_point_for_all_joints_gives_finite_weights(skeleton):
    still = np.tile([10.0, 20.0, 3000.0], (5, skeleton.num_joints, 1))
    autoencoder = fit_autoencoder(still, skeleton, progress=False)
    np.testing.assert_allclose(autoencoder.reconstruct(still), still, atol=1e-2)


def test_equations_of_l1_and_negative_weights_hold(autoencoder):
    """Equations 1 to 10 of the supplement: rows sum to 1, so l1 = w+ - w- = 1 - 2 w- = 1 + 2 |w-|."""
    for weights in (np.float64(autoencoder.encoder), np.float64(autoencoder.decoder)):
        positive, negative = np.maximum(weights, 0).sum(axis=1), np.minimum(weights, 0).sum(axis=1)
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(positive + negative, 1, atol=1e-6)
        np.testing.assert_allclose(np.abs(weights).sum(axis=1), positive - negative)
        np.testing.assert_allclose(np.abs(weights).sum(axis=1), 1 - 2 * negative, atol=1e-6)
        np.testing.assert_allclose(np.abs(weights).sum(axis=1), 1 + 2 * np.abs(negative), atol=1e-6)
