import json

import numpy as np
import pytest

from ace.autoencoder import AffineAutoencoder
from ace.report import latent_names, latent_sides, measure, reconstruction_errors
from posepile.geometry.skeleton import merge_skeletons, skeleton_from_dict

PAIR = skeleton_from_dict({"name": "pair", "joints": ["nose", "chin"]})
# one latent point at the middle: both joints are reconstructed there
MIDDLE = AffineAutoencoder(np.array([[0.5, 0.5]]), np.array([[1.0], [1.0]]), PAIR, 0, 0, 1)
BODY = skeleton_from_dict({"name": "body", "joints": ["left_hand", "right_hand", "neck"],
                           "mirror_pairs": [["left_hand", "right_hand"]]})


def body_autoencoder(encoder=((1.2, -0.2, 0), (-0.2, 1.2, 0), (0.25, 0.25, 0.5)),
                     decoder=((0.5, 0, 0.5), (0, 0.5, 0.5), (0, 0, 1)), history=((10, 0.5), (20, 0.25))):
    return AffineAutoencoder(np.array(encoder), np.array(decoder), BODY, 1, 1, 1, np.array(history).reshape(-1, 2))


def test_weight_figures_by_hand():
    figures = measure(body_autoencoder())
    assert figures["encoder"] == {
        "share_nonzero": 7 / 9, "share_exact_zero": 2 / 9,
        "latents_per_joint": {"median": 3, "largest": 3}, "joints_per_latent": {"median": 2, "largest": 3},
        "negative_weight": {"mean": pytest.approx(0.4 / 3), "worst": pytest.approx(0.2), "worst_row": "L1"}}
    assert figures["decoder"] == {
        "share_nonzero": 5 / 9, "share_exact_zero": 4 / 9,
        "latents_per_joint": {"median": 2, "largest": 2}, "joints_per_latent": {"median": 1, "largest": 3},
        "negative_weight": {"mean": 0, "worst": 0, "worst_row": "left_hand"}}
    assert figures["share_nonzero"] == 12 / 18 and figures["share_exact_zero"] == 6 / 18
    assert figures["objective"] == {"value": 0.25, "iteration": 20, "history": [[10, 0.5], [20, 0.25]]}
    assert figures["errors"] is None and measure(body_autoencoder(history=()))["objective"] is None


def test_small_weights_are_neither_used_nor_exact_zeros():
    figures = measure(body_autoencoder(decoder=((0.9995, 0, 0.0005), (0, 0.9995, 0.0005), (0, 0, 1))))
    assert figures["decoder"]["share_nonzero"] == 3 / 9 and figures["decoder"]["share_exact_zero"] == 4 / 9
    assert [latent["num_joints_using"] for latent in figures["latents"]] == [1, 1, 1]


def test_latent_table_and_dead_latents():
    figures = measure(body_autoencoder(decoder=((0, 0, 1), (0, 0, 1), (0, 0, 1))))
    left, right, centre = figures["latents"]
    assert left == {"name": "L1", "side": "left", "num_joints_using": 0, "is_dead": True,
                    "largest_weights": pytest.approx({"left_hand": 1.2, "right_hand": -0.2})}
    assert right["is_dead"] and not centre["is_dead"] and centre["num_joints_using"] == 3
    assert list(centre["largest_weights"]) == ["neck", "left_hand", "right_hand"]


def test_latent_names_pair_left_and_right(autoencoder):
    names, sides = latent_names(autoencoder), latent_sides(autoencoder)
    for k, mirrored in enumerate(autoencoder.latent_mirror):
        assert names[k][1:] == names[mirrored][1:]
        assert (sides[k], sides[mirrored]) in {("left", "right"), ("right", "left"), ("centre", "centre")}


def test_duplicates_by_weights_and_by_place():
    third = [[0.5, 0.5, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]]  # L1 and R1 are both in the middle of the hands
    autoencoder = body_autoencoder(encoder=third)
    assert measure(autoencoder)["duplicates"] == [{"latents": ["L1", "R1"], "largest_weight_difference": 0,
                                                   "mean_distance": None}]
    # C1 is half way from there to the neck
    poses = np.array([[[100.0, 0, 2000], [-100, 0, 2000], [0, neck, 2000]] for neck in (4, 12)])
    assert measure(autoencoder, poses)["duplicates"] == [
        {"latents": ["L1", "R1"], "largest_weight_difference": 0, "mean_distance": 0},
        {"latents": ["L1", "C1"], "largest_weight_difference": 0.5, "mean_distance": pytest.approx(4)},
        {"latents": ["R1", "C1"], "largest_weight_difference": 0.5, "mean_distance": pytest.approx(4)}]
    poses[0] = np.nan
    assert len(measure(autoencoder, poses)["duplicates"]) == 1  # 6 mm in the only pose there is


def test_reconstruction_errors_by_hand():
    poses = np.array([[[0.0, 0, 1000], [60, 0, 1080]]])  # reconstructed at (30, 0, 1040), mean depth 1040
    error_3d, error_image = reconstruction_errors(MIDDLE, poses)
    np.testing.assert_allclose(error_3d, [[50, 50]])
    np.testing.assert_allclose(error_image, [[30, 60 / 1080 * 1040 - 30]], rtol=1e-6)


def test_errors_are_the_same_in_many_poses_as_in_few(autoencoder, poses):
    many = np.concatenate([poses, poses])  # more than one chunk
    for whole, half in zip(reconstruction_errors(autoencoder, many), reconstruction_errors(autoencoder, poses), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate([half, half]))


def test_missing_joints_have_no_error():
    poses = np.array([[[0.0, 0, 1000], [np.nan] * 3], [[0, 0, 1000], [0, 80, 1000]]])
    error_3d, error_image = reconstruction_errors(MIDDLE, poses)
    np.testing.assert_allclose(error_3d, [[0, np.nan], [40, 40]], atol=1e-9)
    np.testing.assert_allclose(error_image, [[0, np.nan], [40, 40]], atol=1e-9)
    by_mask = reconstruction_errors(MIDDLE, np.nan_to_num(poses, nan=7.0), np.array([[True, False], [True, True]]))
    np.testing.assert_array_equal(by_mask, (error_3d, error_image))


def test_distributions_per_format_and_joint():
    arms, face = (skeleton_from_dict({"name": name, "family": "one", "joints": joints})
                  for name, joints in (("arms", ["hand", "elbow"]), ("face", ["elbow", "nose"])))
    skeleton = merge_skeletons([arms, face])  # hand, elbow, nose
    autoencoder = AffineAutoencoder(np.array([[1.0, 0, 0]]), np.ones((3, 1)), skeleton, 0, 0, 1)  # all at the hand
    elbow, nose = np.array([10, 20, 30, 40, 100]), np.array([50, 50, 50, 50, 50])
    poses = np.full((5, 3, 3), [0.0, 0, 1000])
    poses[:, 1, 0], poses[:, 2, 1] = elbow, -nose
    errors = measure(autoencoder, poses)["errors"]
    hand = {"mean": 0, "median": 0, "percentile_95": 0}
    elbow = {"mean": 40, "median": 30, "percentile_95": pytest.approx(88)}  # 4/5 of the way from 40 to 100
    nose = {"mean": 50, "median": 50, "percentile_95": 50}
    expected = [{"name": name, "num_valid": 5, "error_3d": statistics, "error_image": statistics}
                for name, statistics in (("hand_one", hand), ("elbow_one", elbow), ("nose_one", nose))]
    assert errors["joints"] == expected and errors["num_poses"] == 5
    arms, face = errors["formats"]
    assert arms["error_3d"] == {"mean": 20, "median": 5, "percentile_95": pytest.approx(73)}  # .45 short of the last one
    assert (arms["worst_joints"], face["worst_joints"]) == (["elbow_one", "hand_one"], ["nose_one", "elbow_one"])
    assert face["error_image"]["mean"] == 45 and errors["all"]["error_3d"]["mean"] == 30


def test_joints_behind_the_camera_have_no_error_on_the_image_plane():
    poses = np.array([[[0.0, 0, 1000], [0, 30, -100]], [[0, 0, 100], [0, 30, -1000]]])
    error_3d, error_image = reconstruction_errors(MIDDLE, poses)
    assert np.isfinite(error_3d).all()
    assert np.isfinite(error_image).tolist() == [[True, False], [False, False]]  # reconstructed at z = 450 and -450
    exact = AffineAutoencoder(np.eye(2), np.eye(2), PAIR, 0, 0, 2)
    assert np.isnan(reconstruction_errors(exact, poses[1:])[1]).all()  # the nose is in front, the mean depth behind
    figures = measure(MIDDLE, poses)
    assert figures["errors"]["num_behind_camera"] == 3 and figures["errors"]["joints"][1]["error_image"] is None
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize(("poses", "mask", "message"), [
    ([[[np.nan] * 3] * 2], None, "no valid joint"),
    ([[[0, 0, 900], [0, 90, 900]]], [[False, False]], "no valid joint"),
    (np.zeros((0, 2, 3)), None, "no valid joint"),
    ([[[0, 0, 900], [0, np.nan, 900]]], [[True, True]], "pose 0: the joint chin is not finite"),
    ([[[0, np.inf, 900], [0, 0, 900]]], None, "pose 0: the joint nose is not finite"),
    ([[[0, 0, 2.5], [0, 1.8, 2.5]]], None, "look like metres; multiply them by 1000"),
    (np.ones((1, 3, 3)), None, r"shape \[1, 3, 3\]; expected \[n, 2, 3\] for pair"),
])
def test_wrong_poses_are_explained(poses, mask, message):
    with pytest.raises(ValueError, match=message):
        reconstruction_errors(MIDDLE, np.array(poses, np.float64), None if mask is None else np.array(mask))
