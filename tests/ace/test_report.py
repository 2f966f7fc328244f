import numpy as np
import pytest

from ace.autoencoder import AffineAutoencoder
from ace.report import describe, reconstruction_errors
from posepile.geometry.skeleton import skeleton_from_dict

PAIR = skeleton_from_dict({"name": "pair", "joints": ["nose", "chin"]})
# one latent point at the middle: both joints are reconstructed there
MIDDLE = AffineAutoencoder(np.array([[0.5, 0.5]]), np.array([[1.0], [1.0]]), PAIR, 0, 0, 1)


def test_reconstruction_errors_by_hand():
    poses = np.array([[[0.0, 0, 1000], [60, 0, 1080]]])  # reconstructed at (30, 0, 1040), mean depth 1040
    error_3d, error_image = reconstruction_errors(MIDDLE, poses)
    np.testing.assert_allclose(error_3d, [[50, 50]])
    np.testing.assert_allclose(error_image, [[30, 60 / 1080 * 1040 - 30]])


def test_missing_joints_have_no_error():
    poses = np.array([[[0.0, 0, 1000], [np.nan] * 3], [[0, 0, 1000], [0, 80, 1000]]])
    error_3d, error_image = reconstruction_errors(MIDDLE, poses)
    np.testing.assert_allclose(error_3d, [[0, np.nan], [40, 40]], atol=1e-9)
    np.testing.assert_allclose(error_image, [[0, np.nan], [40, 40]], atol=1e-9)
    by_mask = reconstruction_errors(MIDDLE, np.nan_to_num(poses, nan=7.0), np.array([[True, False], [True, True]]))
    np.testing.assert_array_equal(by_mask, (error_3d, error_image))
    with pytest.raises(ValueError, match="no valid joint"):
        reconstruction_errors(MIDDLE, poses * np.nan)


def test_report_lists_formats_and_their_worst_joint(autoencoder, poses):
    error_3d, error_image = reconstruction_errors(autoencoder, poses)
    text = describe(autoencoder, poses)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    coco = error_3d[:, 17:].mean(axis=0)
    assert lines["coco_19"][1:] == [f"{coco.mean():.1f}", f"{error_image[:, 17:].mean():.1f}", f"{coco.max():.1f}",
                                    autoencoder.joint_names[17 + coco.argmax()]]
    assert lines["all"][2] == f"{error_3d.mean():.1f}"
    assert f"{autoencoder.sparsity:.1%}" in text and f"{autoencoder.negative_weight_share:.1%}" in text


def test_report_says_which_format_has_no_valid_joint(autoencoder, poses):
    masks = np.arange(36)[None].repeat(len(poses), axis=0) < 17
    lines = describe(autoencoder, poses, masks).splitlines()
    assert next(line for line in lines if line.startswith("coco_19")).split()[1:] == ["no", "valid", "joint"]
