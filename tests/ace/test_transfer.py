import dataclasses
import json

import numpy as np
import pytest

from ace.autoencoder import AffineAutoencoder
from ace.transfer import AddedSkeleton, fit_skeleton
from ace.transfer_samples import MAX_POSES, checked_samples, read_samples, read_skeleton
from benchmarks.kinematic_poses import mirrored
from posepile.geometry.skeleton import load_skeleton, skeleton_from_dict

DEFINITION = {"name": "cap_5", "joints": ["brow", "left_cuff", "right_cuff", "left_heel", "right_heel"],
              "mirror_pairs": [["left_cuff", "right_cuff"], ["left_heel", "right_heel"]], "edges": ["brow-left_cuff"]}
SKELETON = skeleton_from_dict(DEFINITION)
MIRROR = list(SKELETON.mirror)


@pytest.fixture(scope="module")
def planted(autoencoder):
    """[5, L] convex rows with two or three weights each, mirrored and symmetric as they have to be."""
    rows = np.zeros((5, autoencoder.num_latents))
    left = autoencoder.num_left
    rows[0, [0, left, -1]] = 0.25, 0.25, 0.5
    rows[1, [1, 2, left + 3]] = 0.6, 0.3, 0.1
    rows[3, [3, 4]] = 0.2, 0.8
    rows[[2, 4]] = rows[[1, 3]][:, autoencoder.latent_mirror]
    return rows


@pytest.fixture(scope="module")
def known(poses):
    return poses[:120]


@pytest.fixture(scope="module")
def labels(planted, autoencoder, known):
    return planted @ autoencoder.encode(known)


@pytest.fixture(scope="module")
def noisy_labels(labels):
    """With depths that are off by a factor of their own in each pose."""
    rng = np.random.default_rng(3)
    return (labels + rng.normal(0, 5, labels.shape)) * rng.uniform(0.8, 1.2, (len(labels), 1, 1))


@pytest.fixture(scope="module")
def added(autoencoder, known, noisy_labels) -> AddedSkeleton:
    return fit_skeleton(autoencoder, SKELETON, joints3d=known, new_joints3d=noisy_labels)


def test_planted_rows_are_recovered(autoencoder, planted, known, labels):
    for names in ({"joints3d": known}, {"latents3d": autoencoder.encode(known)}):
        exact = fit_skeleton(autoencoder, SKELETON, l1=0.6, new_joints3d=labels, **names)
        np.testing.assert_allclose(exact.decoder, planted, atol=1e-4)
        np.testing.assert_allclose(exact.weights @ known, labels, atol=0.3)  # mm
        assert exact.joint_errors.max() < 0.3 and exact.warnings == ()


def test_2d_labels_give_the_rows_of_3d_labels(autoencoder, known, noisy_labels, added):
    rng = np.random.default_rng(5)
    intrinsics = np.repeat(np.eye(3)[None], len(known), axis=0)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = rng.uniform(500, 900, (2, len(known)))
    intrinsics[:, 0, 1], intrinsics[:, :2, 2] = 3, rng.uniform(200, 300, (len(known), 2))
    projected = np.einsum("nij,nkj->nki", intrinsics, noisy_labels)
    flat = fit_skeleton(autoencoder, SKELETON, joints3d=known, new_joints2d=projected[..., :2] / projected[..., 2:],
                        intrinsics=intrinsics)
    np.testing.assert_allclose(flat.decoder, added.decoder, atol=1e-5)
    np.testing.assert_allclose(flat.joint_errors[:, 1], added.joint_errors[:, 1], rtol=1e-3)
    assert np.isnan(flat.joint_errors[:, 0]).all() and not np.isnan(added.joint_errors).any()
    assert "brow                            -" in flat.describe()


def test_rows_are_affine_and_mirror_images_equal(autoencoder, known, added):
    np.testing.assert_allclose(added.decoder.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(added.decoder[MIRROR][:, autoencoder.latent_mirror], added.decoder)
    joint_mirror = list(autoencoder.skeleton.mirror)
    np.testing.assert_array_equal(added.weights[MIRROR][:, joint_mirror], added.weights)
    np.testing.assert_allclose(added.weights, added.decoder @ autoencoder.encoder, atol=1e-6)
    np.testing.assert_allclose(added.weights @ mirrored(known, joint_mirror), mirrored(added.weights @ known, MIRROR),
                               atol=0.01)


@pytest.mark.parametrize("l1", [0.6, 0.02])
def test_no_other_rows_have_a_lower_objective(autoencoder, known, noisy_labels, l1):
    rows = fit_skeleton(autoencoder, SKELETON, l1=l1, joints3d=known, new_joints3d=noisy_labels).decoder.astype(np.float64)
    latents, depth = autoencoder.encode(known), known[..., 2].mean(axis=1)

    def objective(rows):
        joints = rows @ latents
        projected, truth = (points[..., :2] / points[..., 2:] * depth[:, None, None] for points in (joints, noisy_labels))
        return np.abs(projected - truth).mean() / 1000 + l1 * np.abs(rows).sum() / (48 * len(rows))

    rng, best = np.random.default_rng(7), objective(rows)
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(40):
            step = rng.normal(0, size, rows.shape) * (rng.random(rows.shape) < 0.2)
            step = step + step[MIRROR][:, autoencoder.latent_mirror]
            step -= step.mean(axis=1, keepdims=True)
            assert objective(rows + step) > best - 1e-7


def test_errors_are_those_of_held_out_poses(autoencoder, known, noisy_labels, labels, added):
    """Noise of 5 mm in each of two or three coordinates: 6.3 and 8.0 mm on average."""
    assert added.learning_curve[:, 0].tolist() == [25, 50, 90]
    assert added.learning_curve[-1, 2] == pytest.approx(6.3, rel=0.2)
    assert added.learning_curve[-1, 1] == pytest.approx(8.0, rel=0.25)
    np.testing.assert_allclose(added.joint_errors.mean(axis=0), added.learning_curve[-1, 1:], rtol=1e-6)
    assert added.learning_curve[0, 2] > added.learning_curve[-1, 2]
    assert np.linalg.norm(added.weights @ known - labels, axis=-1).mean() < 5  # less than the noise: nothing is overfitted
    text = added.describe()
    assert text.startswith("cap_5: 5 joints from 36") and f"{added.learning_curve[-1, 2]:.1f}" in text


def test_missing_joints_are_not_read(autoencoder, known, labels, planted):
    rng = np.random.default_rng(9)
    joints, new = np.concatenate([known, known[:5]]), np.concatenate([labels, labels[:5]])
    mask = np.ones(joints.shape[:2], bool)
    mask[-1] = False  # a pose without known joints
    new[-2] = np.nan  # and one without labels
    missing = rng.random(new.shape[:2]) < 0.3
    new[missing] = np.nan
    added = fit_skeleton(autoencoder, SKELETON, l1=0.6, new_joints3d=new, joints3d_mask=mask,
                         joints3d=np.where(mask[..., None], joints, -9e9))
    np.testing.assert_allclose(added.decoder, planted, atol=1e-4)
    mask[:, 7] = False
    joints[:, 7] = np.nan
    samples = checked_samples(autoencoder, SKELETON, joints3d=joints, new_joints3d=new)
    np.testing.assert_allclose(samples.latents[0], autoencoder.encode(joints[0], mask[0]))


def test_at_most_so_many_poses_are_used(autoencoder, known, labels):
    many = checked_samples(autoencoder, SKELETON, joints3d=np.tile(known, (10, 1, 1)), new_joints3d=np.tile(labels, (10, 1, 1)))
    assert (len(many.index), many.index[0], many.index[-1]) == (MAX_POSES, 0, 1199)


def test_swapped_sides_are_reported(autoencoder, known, noisy_labels, added):
    assert added.warnings == ()
    swapped = fit_skeleton(autoencoder, SKELETON, l1=0.02, joints3d=known, new_joints3d=noisy_labels[:, MIRROR])
    assert "left and right look swapped: left_cuff/right_cuff, left_heel/right_heel follow" in swapped.warnings[0]
    some = noisy_labels.copy()
    some[[4, 11, 60]] = some[[4, 11, 60]][:, MIRROR]
    some = fit_skeleton(autoencoder, SKELETON, l1=0.02, joints3d=known, new_joints3d=some)
    assert "in 3 of 120 poses the labels fit far better with left and right swapped" in some.warnings[0]
    assert some.describe().endswith("The first ones: 4, 11, 60")


def test_labels_of_other_poses_are_reported(autoencoder, known, noisy_labels):
    mixed = fit_skeleton(autoencoder, SKELETON, l1=0.6, joints3d=known, new_joints3d=np.roll(noisy_labels, 7, axis=0))
    assert any("hardly follow the known joints" in text for text in mixed.warnings)


def test_skeleton_without_mirror_table(autoencoder, known, noisy_labels):
    one_sided = skeleton_from_dict({"name": "cap", "joints": DEFINITION["joints"]})
    with pytest.raises(ValueError, match=r"left_cuff follows one side of the body, .* list it in mirror_pairs"):
        fit_skeleton(autoencoder, one_sided, l1=0.2, joints3d=known, new_joints3d=noisy_labels)


def test_wrong_labels_are_explained(autoencoder, known, labels):
    def message(**arrays):
        with pytest.raises(ValueError) as error:
            fit_skeleton(autoencoder, SKELETON, **{"joints3d": known, "new_joints3d": labels, **arrays})
        return str(error.value)

    behind, infinite, rare = labels.copy(), labels.copy(), labels.copy()
    behind[3, 1, 2], infinite[5, 0, 0], rare[9:, 1:3] = -4, np.inf, np.nan
    assert "new_joints3d[3, 1] is behind the camera, z = -4.0 mm (1 such" in message(new_joints3d=behind)
    assert "new_joints3d[5] is infinite" in message(new_joints3d=infinite)
    assert "got left_cuff 18, right_cuff 18" in message(new_joints3d=rare)
    assert "left_heel 0" in message(new_joints3d=np.where(np.arange(5)[:, None] < 3, labels, np.nan))
    assert "median pose of new_joints3d is" in (metres := message(new_joints3d=labels / 1000)) and "by 1000" in metres
    assert "median pose of joints3d is" in message(joints3d=known / 1000)
    assert "20 of 20 poses" in message(joints3d=known[:20], new_joints3d=labels[:20])
    assert "0 of 120 poses have both" in message(new_joints3d=labels * np.nan)
    assert "expected numbers [120, 5, 3]" in message(new_joints3d=labels[:100])
    assert "expected numbers [n, 36, 3]" in message(joints3d=known[:, :30])
    assert "person sizes (median) away" in message(new_joints3d=labels + np.array([20000, 0, 0]))
    assert "either joints3d or latents3d" in message(latents3d=known)
    assert "either new_joints3d or new_joints2d" in message(new_joints3d=None)
    assert "go together" in message(new_joints3d=None, new_joints2d=labels[..., :2])
    assert "l1 is nan" in message(l1=np.nan)
    unit = np.repeat(np.eye(3)[None], 120, axis=0)
    assert "intrinsics have to be" in message(new_joints3d=None, new_joints2d=labels[..., :2], intrinsics=0 * unit)
    assert "joints3d_mask is float64" in message(joints3d_mask=np.ones((120, 36)))
    with pytest.raises(ValueError, match=r"merged from several formats"):
        fit_skeleton(autoencoder, autoencoder.skeleton, joints3d=known, new_joints3d=known)


def test_saved_file(added, tmp_path):
    added.save(tmp_path / "sub" / "cap.npz")
    with np.load(tmp_path / "sub" / "cap.npz") as file:
        assert skeleton_from_dict(json.loads(str(file["skeleton"]))) == SKELETON
        assert tuple(file["joint_names"]) == added.joint_names
        for name in ("weights", "decoder", "learning_curve", "joint_errors"):
            np.testing.assert_array_equal(file[name], getattr(added, name))
        assert file["weights"].shape == (5, 36) and file["weights"].dtype == np.float32
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["cap.npz"]


def test_files_are_checked(autoencoder: AffineAutoencoder, known, labels, tmp_path):
    path = tmp_path / "both.npz"
    arrays = {"joints3d": known, "new_joints3d": labels, "joint_names": np.array(autoencoder.joint_names),
              "new_joint_names": np.array(SKELETON.joint_names), "skeleton": json.dumps(SKELETON.to_dict())}
    np.savez(path, **arrays)
    read, skeleton = read_samples(path, autoencoder, None)
    assert skeleton == SKELETON and sorted(read) == ["joints3d", "new_joints3d"]
    with pytest.raises(ValueError, match=r"both\.npz: new_joint_names has 5 names, the skeleton h36m_17 has 17 joints"):
        read_samples(path, autoencoder, load_skeleton("h36m_17"))
    other = dataclasses.replace(SKELETON, joint_names=("brow", "left_cuff", "right_cuff", "left_toe", "right_toe"))
    with pytest.raises(ValueError, match="new_joint_names: joint 3 is 'left_heel', but 'left_toe' in the skeleton cap_5"):
        read_samples(path, autoencoder, other)
    np.savez(path, **{**arrays, "joint_names": np.array(autoencoder.joint_names[::-1])})
    with pytest.raises(ValueError, match=r"joint_names: joint 0 is .* in the autoencoder"):
        read_samples(path, autoencoder, None)
    np.savez(path, joints3d=known)
    with pytest.raises(ValueError, match="it defines no skeleton; give --skeleton"):
        read_samples(path, autoencoder, None)
    path.write_text("text")
    with pytest.raises(ValueError, match=r"both\.npz: it is no \.npz file"):
        read_samples(path, autoencoder, None)


def test_skeleton_files(tmp_path):
    path = tmp_path / "cap.toml"
    path.write_text('name = "cap"\njoints = ["a", "b"]\nmirror_pairs = [["a", "b"]]\n')
    assert read_skeleton(str(path)).mirror == (1, 0)
    assert read_skeleton("h36m_17") == load_skeleton("h36m_17")
    for text, message in (('joints = ["a"]', "needs a name"), ("joints = [", "cap.toml: ")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_skeleton(str(path))
