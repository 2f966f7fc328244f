"""The flat protocol on poses whose errors are known, on incomplete ones, and on pairs that do not fit together."""

import numpy as np
import pytest
import scipy.linalg

from posepile.evaluation.prediction_files import Poses
from posepile.evaluation.protocols import flat

# Relative to the root, joint 0, off by 0 30 120 mm and by 0 60 210 mm, and moved as a whole by 40 and 90 mm.
TRUE = np.array([[[0, 0, 3000], [400, 0, 3000], [0, 900, 3000]], [[100, 0, 4000], [500, 0, 4000], [100, 900, 4000.0]]])
PRED = TRUE + np.array([[[0, 0, 40], [30, 0, 40], [0, 120, 40]], [[0, 0, 90], [0, 60, 90], [210, 0, 90]]])
EXPECTED = {
    "mpjpe": 420 / 6, "a_mpjpe": (40 + 50 + 40 * 10 ** 0.5 + 90 + 30 * 13 ** 0.5 + 30 * 58 ** 0.5) / 6,
    "pck50": 100 * 3 / 6, "pck100": 100 * 4 / 6, "pck150": 100 * 5 / 6,
    "auc100": 100 * (1 + 0.7 + 0 + 1 + 0.4 + 0) / 6,
    # below 0 5 ... 150: 30 thresholds above 0, 24 above 30, 6 above 120; 30, 18 above 60, none above 210
    "auc31": 100 * (30 + 24 + 6 + 30 + 18) / (6 * 31),
    "cps100": 0, "cps150": 50, "cps200": 50, "cps_auc150": 100 * (30 / 150) / 2, "cps_auc200": 100 * (80 / 200) / 2,
    "apck150": 100 * 5 / 6, "apck300": 100, "num_poses": 2, "num_undefined": 0}
MEANS = {"mpjpe", "pa_mpjpe", "n_mpjpe", "a_mpjpe"}
COUNTED_WRONG = {"pck50", "pck100", "pck150", "auc31", "auc150", "cps100", "cps150", "cps200", "cps_auc200", "apck150",
                 "apck300"}


def score(pred, true, validity=None, **labels):
    return flat.score(Poses("P.npz", np.asarray(pred, float)),
                      Poses("A.npz", np.asarray(true, float), validity=validity, **labels))


def test_every_number_worked_out_by_hand():
    result = score(PRED, TRUE)["metrics"]
    assert {name: result[name] for name in EXPECTED} == pytest.approx(EXPECTED, rel=1e-9)
    # scales of the relative poses: <p, g> / <p, p>
    first = (430 * 400 + 1020 * 900) / (430 ** 2 + 1020 ** 2)
    second = (400 ** 2 + 900 ** 2) / (400 ** 2 + 60 ** 2 + 210 ** 2 + 900 ** 2)
    scaled = (abs(first * 430 - 400) + abs(first * 1020 - 900) + np.hypot(second * 400 - 400, second * 60)
              + np.hypot(second * 210, second * 900 - 900))
    assert result["n_mpjpe"] == pytest.approx(scaled / 6, rel=1e-9)


def test_alignment_is_that_of_scipy():
    """Of poses near the truth scipy's orthogonal matrix is a rotation; scale and shift in closed form."""
    rng = np.random.default_rng(1)
    true = rng.normal(0, 300, (20, 17, 3)) + np.array([0, 0, 5000])
    pred = true + rng.normal(0, 60, true.shape)
    errors = []
    for p, g in zip(pred, true, strict=True):
        p, g = p - p.mean(axis=0), g - g.mean(axis=0)
        rotation, size = scipy.linalg.orthogonal_procrustes(p, g)
        errors.append(np.linalg.norm(p @ rotation * size / np.square(p).sum() - g, axis=-1).mean())
    assert score(pred, true)["metrics"]["pa_mpjpe"] == pytest.approx(np.mean(errors), rel=1e-9)


def test_the_root_is_that_of_the_annotations_or_the_first_joint():
    assert score(PRED, TRUE)["stamp"]["root"] == "0"
    result = score(PRED, TRUE, root=1)
    first = 30 + np.hypot(30, 120)  # the others, relative to joint 1
    second = 60 + np.hypot(210, 60)
    assert result["metrics"]["mpjpe"] == pytest.approx((first + second) / 6) and result["stamp"]["root"] == "1"


def test_poses_without_a_valid_joint_do_not_count_and_are_reported():
    true = np.concatenate([TRUE, np.full((1, 3, 3), np.nan)])
    pred = np.concatenate([PRED, np.full((1, 3, 3), np.nan)])
    record = score(pred, true, np.array([[True] * 3, [True] * 3, [False] * 3]), sequence=np.array(["s", "s", "t"]))
    assert record["metrics"] == pytest.approx(score(PRED, TRUE)["metrics"])
    assert record["poses"]["num_empty"] == 1 and record["metrics"]["num_poses"] == record["stamp"]["num_poses"] == 2
    assert record["per_sequence"]["t"]["num_poses"] == 0 and np.isnan(record["per_sequence"]["t"]["mpjpe"])


def test_too_few_joints_and_an_invalid_root():
    validity = np.array([[True, True, True], [False, True, True]])
    record = score(PRED, TRUE, validity)
    alone = score(PRED[:1], TRUE[:1])["metrics"]
    assert {name: record["metrics"][name] for name in ("mpjpe", "pa_mpjpe", "n_mpjpe", "pck100", "cps150")} == pytest.approx(
        {name: alone[name] for name in ("mpjpe", "pa_mpjpe", "n_mpjpe", "pck100", "cps150")})
    assert record["metrics"]["apck150"] == pytest.approx(100 * 4 / 5)  # in camera space it counts
    assert {"num_poses": 2, "num_undefined": 1, "num_without_root": 1, "num_unaligned": 1}.items() <= record["poses"].items()


def test_mirror_images_are_never_aligned_by_reflection():
    true = np.random.default_rng(2).normal(0, 300, (5, 17, 3))
    assert score(true * [-1, 1, 1], true)["metrics"]["pa_mpjpe"] > 100
    assert score(true * [-1, -1, 1], true)["metrics"]["pa_mpjpe"] < 1e-9  # a turn by 180 degrees


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e300])
def test_a_prediction_that_is_not_finite_is_wrong_and_never_drops_out(bad):
    pred = np.concatenate([PRED, TRUE[:1]])
    pred[2, 1, 0] = bad
    record = score(pred, np.concatenate([TRUE, TRUE[:1]]), sequence=np.array(["s", "s", "t"]))
    far = pred.copy()
    far[2, 1, 0] = 1e9
    expected = score(far, np.concatenate([TRUE, TRUE[:1]]))["metrics"]
    assert all(np.isnan(record["metrics"][name]) for name in MEANS)
    assert all(np.isnan(record["intervals"]["metrics"][name]).all() for name in MEANS)
    assert {name: record["metrics"][name] for name in COUNTED_WRONG} == pytest.approx(
        {name: expected[name] for name in COUNTED_WRONG})
    assert record["per_sequence"]["s"]["mpjpe"] == pytest.approx(70) and np.isnan(record["per_sequence"]["t"]["mpjpe"])
    assert np.isnan(record["per_joint"]["1"]["mpjpe"]) and np.isfinite(record["per_joint"]["2"]["mpjpe"])
    assert record["poses"]["num_nonfinite"] == record["metrics"]["num_undefined"] == 1


def test_points_in_one_place_divide_by_nothing():
    point = np.full_like(TRUE, 1000.0)
    with np.errstate(all="raise"):
        flattened, right = score(point, TRUE)["metrics"], score(point, point)["metrics"]
    assert flattened["mpjpe"] == flattened["n_mpjpe"] == pytest.approx((400 + 900) / 3)
    centered = TRUE[0] - TRUE[0].mean(axis=0)
    assert flattened["pa_mpjpe"] == pytest.approx(np.linalg.norm(centered, axis=-1).mean())
    assert right["mpjpe"] == right["pa_mpjpe"] == right["n_mpjpe"] == 0


def test_pairs_that_do_not_fit():
    with pytest.raises(ValueError, match=r"P\.npz: joints3d is \[1, 3, 3\], but that of A\.npz is \[2, 3, 3\]"):
        score(PRED[:1], TRUE)
    with pytest.raises(ValueError, match=r"P\.npz against A\.npz: joints3d_true is not finite at pose 1, joint 2"):
        score(PRED, np.where(np.arange(18).reshape(2, 3, 3) == 17, np.nan, TRUE))
    with pytest.raises(ValueError, match="confidence must be above 0 and below 1"):
        flat.score(Poses("P", PRED), Poses("A", TRUE), confidence=95)
