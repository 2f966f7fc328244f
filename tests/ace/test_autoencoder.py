import dataclasses

import numpy as np
import pytest

from ace.autoencoder import AffineAutoencoder
from ace.poses import center_poses
from benchmarks.kinematic_poses import euler_rotation, mirrored
from posepile.geometry.skeleton import skeleton_from_dict

LINE = skeleton_from_dict({"name": "line", "joints": ["left_hand", "right_hand", "head"],
                           "mirror_pairs": [["left_hand", "right_hand"]]})
ENCODER = [[0.8, 0.0, 0.2], [0.0, 0.8, 0.2], [0.25, 0.25, 0.5]]  # left, right, centre
DECODER = [[1.2, 0.0, -0.2], [0.0, 1.2, -0.2], [0.0, 0.0, 1.0]]


@pytest.fixture
def by_hand():
    return AffineAutoencoder(np.array(ENCODER), np.array(DECODER), LINE, 1, 1, 1)


def test_encode_and_decode_by_hand(by_hand):
    joints = np.array([[10.0, 0.0], [-10.0, 0.0], [0.0, 20.0]])
    np.testing.assert_allclose(by_hand.encode(joints), [[8, 4], [-8, 4], [0, 10]], rtol=1e-6)
    # left hand: 1.2 (8, 4) - 0.2 (0, 10)
    np.testing.assert_allclose(by_hand.reconstruct(joints), [[9.6, 2.8], [-9.6, 2.8], [0, 10]], rtol=1e-6)


def test_masked_encoding_by_hand(by_hand):
    joints = np.array([[10.0, 0.0], [-10.0, 0.0], [np.nan, np.nan]])
    latents = by_hand.encode(joints, np.array([True, True, False]))
    # the head is put between the hands, at the origin, which leaves 0.8 of a hand
    np.testing.assert_allclose(latents, [[8, 0], [-8, 0], [0, 0]], atol=1e-5)
    # only the head is seen, with weight 0.2 < 0.25 in the hands' points: its own mean, where everything then stands
    latents = by_hand.encode(np.array([[np.nan] * 2, [np.nan] * 2, [0.0, 20.0]]), np.array([False, False, True]))
    np.testing.assert_allclose(latents, [[0, 20]] * 3, atol=1e-5)


def test_a_full_mask_changes_nothing(autoencoder, poses):
    everything = np.ones(poses.shape[:2], bool)
    np.testing.assert_allclose(autoencoder.encode(poses, everything), autoencoder.encode(poses), atol=2e-3)


def test_masked_joints_are_estimated_from_the_rest(autoencoder, poses):
    mask = np.ones(poses.shape[:2], bool)
    mask[:, autoencoder.skeleton.index("left_knee_coco")] = False
    garbage = np.where(mask[..., None], poses, 9e9)
    estimated = autoencoder.reconstruct(garbage, mask)
    np.testing.assert_array_equal(estimated, autoencoder.reconstruct(np.where(mask[..., None], poses, np.nan), mask))
    missing = autoencoder.skeleton.index("left_knee_coco")
    assert np.linalg.norm(estimated - poses, axis=-1)[:, missing].mean() < 60  # mm; the body is 1.7 m tall


def test_rows_sum_to_one(autoencoder):
    for weights in (autoencoder.encoder, autoencoder.decoder):
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights.sum(axis=1, dtype=np.float64), 1, atol=1e-6)


def test_equivariant_to_rotation_translation_and_scale(autoencoder, poses):
    rotation = euler_rotation(np.array([[0.4, -1.1, 0.3]]))[0]
    shift, scale = np.array([300.0, -200.0, 1500.0]), 1.7
    moved = scale * poses @ rotation.T + shift
    latents = scale * autoencoder.encode(poses) @ rotation.T + shift
    np.testing.assert_allclose(autoencoder.encode(moved), latents, atol=1e-3)
    np.testing.assert_allclose(autoencoder.decode(latents), scale * autoencoder.reconstruct(poses) @ rotation.T + shift,
                               atol=2e-3)


def test_the_same_weights_serve_two_dimensions(autoencoder, poses):
    np.testing.assert_allclose(autoencoder.reconstruct(poses[..., :2]), autoencoder.reconstruct(poses)[..., :2])


def test_mirroring_commutes(autoencoder, poses):
    mirror = autoencoder.skeleton.mirror
    latents = autoencoder.encode(mirrored(poses, mirror))
    np.testing.assert_allclose(latents, mirrored(autoencoder.encode(poses), autoencoder.latent_mirror), atol=1e-5)
    np.testing.assert_allclose(autoencoder.decode(latents), mirrored(autoencoder.reconstruct(poses), mirror), atol=1e-5)


def test_l1_norm_of_a_row_is_one_plus_twice_its_negative_weights(autoencoder):
    """Supplement, Eq. 10."""
    for weights in (autoencoder.encoder, autoencoder.decoder):
        weights = weights.astype(np.float64)
        negative = np.minimum(weights, 0).sum(axis=1)
        np.testing.assert_allclose(np.abs(weights).sum(axis=1), 1 + 2 * np.abs(negative), atol=1e-6)


def test_sparsity_and_negative_share_by_hand(by_hand):
    # zeros: 2 of 9 in the encoder, 4 of 9 in the decoder; negative 0.4 of |weights| 3 + 3.8
    assert by_hand.sparsity == pytest.approx(6 / 18)
    assert by_hand.negative_weight_share == pytest.approx(0.4 / 6.8)


def test_prune_keeps_an_autoencoder_affine_and_mirrored(autoencoder):
    pruned = autoencoder.prune(0.02)  # its checks would refuse anything else
    assert pruned.sparsity > autoencoder.sparsity
    kept = np.abs(autoencoder.encoder) >= 0.02
    np.testing.assert_array_equal(pruned.encoder != 0, kept)


def test_save_and_load(autoencoder, tmp_path):
    autoencoder.save(tmp_path / "deep" / "autoencoder.npz")
    loaded = AffineAutoencoder.load(tmp_path / "deep" / "autoencoder.npz")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["autoencoder.npz"]
    for field in dataclasses.fields(AffineAutoencoder):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(autoencoder, field.name))
    assert loaded.skeleton == autoencoder.skeleton


def test_a_skeleton_of_ones_own_is_saved_with_it(by_hand, tmp_path):
    by_hand.save(tmp_path / "a.npz")
    assert AffineAutoencoder.load(tmp_path / "a.npz").skeleton == LINE


def test_a_failed_save_leaves_the_old_file(by_hand, tmp_path, monkeypatch):
    by_hand.save(tmp_path / "a.npz")
    before = (tmp_path / "a.npz").read_bytes()

    def disk_full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", disk_full)
    with pytest.raises(OSError, match="no space left"):
        by_hand.save(tmp_path / "a.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"] and (tmp_path / "a.npz").read_bytes() == before


def test_load_refuses_what_is_not_an_autoencoder(by_hand, tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError):
        AffineAutoencoder.load(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"a\.npz is not an autoencoder file: it is no \.npz file"):
        AffineAutoencoder.load(path)
    np.savez(path, encoder=np.eye(3))
    with pytest.raises(ValueError, match="it lacks decoder, num_left"):
        AffineAutoencoder.load(path)
    by_hand.save(path)
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(1.2).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        AffineAutoencoder.load(path)


def test_load_never_unpickles(by_hand, tmp_path):
    by_hand.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "b.npz", **{**arrays, "history": np.array([print], object)})
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        AffineAutoencoder.load(tmp_path / "b.npz")


@pytest.mark.parametrize(("encoder", "counts", "message"), [
    (np.array(ENCODER)[:2], (1, 1, 1), r"encoder has shape \[2, 3\]; expected \[3, 3\]"),
    (np.array(ENCODER) * 1.01, (1, 1, 1), "encoder: the sum of a row is off by 0.01"),
    (np.array(ENCODER) * np.nan, (1, 1, 1), "encoder contains weights that are not finite"),
    (np.array(ENCODER)[[0, 0, 2]], (1, 1, 1), "swap sides"),
    (np.array(ENCODER), (2, 0, 1), "as many left as right"),
])
def test_inconsistent_parts_are_refused(encoder, counts, message):
    with pytest.raises(ValueError, match=message):
        AffineAutoencoder(encoder, np.array(DECODER), LINE, *counts)


def test_points_of_other_shapes_are_refused(by_hand):
    with pytest.raises(ValueError, match=r"points have shape \[4, 3\]; expected \[..., 3, 2 or 3\]: the 3 joints"):
        by_hand.encode(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"mask has shape \[2\] and dtype bool; expected bool \[3\]"):
        by_hand.encode(np.zeros((3, 3)), np.ones(2, bool))


def test_center_poses_by_hand():
    points = np.array([[2.0, 0], [4, 6], [np.nan, 7]])
    center, centered = center_poses(points, np.array([True, True, False]))
    np.testing.assert_array_equal(center, [[3, 3]])
    np.testing.assert_array_equal(centered, [[-1, -3], [1, 3], [0, 0]])
