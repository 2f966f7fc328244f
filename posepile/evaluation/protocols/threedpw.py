"""The protocol of 3DPW: SMPL's 24 joints, pelvis as root, every person in every frame with a valid camera and 2D joints.

`metrics` are flat means over all poses given; the published ones of WACV 2023 are over all 60 sequences, those of methods that
train on 3DPW over the test split only: part `test_split`, where the annotations have a `split`. The challenge's own numbers
count distances up to and including the threshold, and are over the 12 major joints where it says so.
"""

import numpy as np

from posepile.evaluation import metrics
from posepile.evaluation.metrics import JointDistances
from posepile.evaluation.prediction_files import Poses, check_protocol_pair
from posepile.evaluation.protocols.record import flat_record, score_pair
from posepile.evaluation.statistics import PoseSums, beside

JOINTS = ("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
          "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder", "right_shoulder",
          "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand")
ROOT = 0
MAJOR_JOINTS = (1, 2, 4, 5, 7, 8, 16, 17, 18, 19, 20, 21)
JOINTS_14 = (1, 2, 4, 5, 7, 8, 12, 15, 16, 17, 18, 19, 20, 21)
NCPS_THRESHOLDS_MM = (50, 75, 100, 125, 150)
NCPS_AUC_MM = 300
CHALLENGE_AUC_MM = 199


def score(pred: Poses, true: Poses, confidence: float = 0.95) -> dict:
    """Scores one prediction per annotated pose. Args, Raises: as `flat.score`; `true.split` may be given.

    Returns: `record.flat_record`, and the parts `challenge` (`mpjpe`, `pa_mpjpe` of 24 joints, `pck50` and `auc` of the 12
        major ones), `ncps` (share of poses whose worst major joint is at most so far off after alignment of the 24, and the
        area), `joints14` (without spine, collars, hands and feet; aligned and centred by all 24), and `test_split`.
    """
    pred, true = check_protocol_pair(pred, true, JOINTS)
    scored = score_pair(pred, true, ROOT if true.root is None else true.root, confidence, protocol="3dpw",
                        annotation="metric (jointPositions, camera space)")
    distances = scored.distances
    sums, major = metrics.pose_sums(distances), distances.select(slice(None), list(MAJOR_JOINTS))
    record = {
        **flat_record(scored),
        "challenge": scored.metrics_of(beside([sums.select(("mpjpe", "pa_mpjpe")), challenge_sums(major)]),
                                       pck_joints=_names(MAJOR_JOINTS), threshold="inclusive"),
        "ncps": scored.metrics_of(ncps_sums(major), **_joints(MAJOR_JOINTS), threshold="inclusive",
                                  alignment="similarity, fitted on all 24 joints"),
        "joints14": scored.metrics_of(metrics.pose_sums(distances.select(slice(None), list(JOINTS_14))).select(
            ("mpjpe", "pa_mpjpe", "pck50", "pck100")), **_joints(JOINTS_14))}
    if true.split is not None and (is_test := true.split.astype(str) == "test").any():
        record["test_split"] = scored.metrics_of(sums.only(is_test), data="test split")
    return record


def challenge_sums(major: JointDistances) -> PoseSums:
    """`pck50`, and `auc`: the PCK curve at 0, 1, ..., 199 mm, joined by lines, its area over 0..199; percent."""
    distance, validity = major.relative, major.relative_validity
    # A distance is inside from the next whole number on; the last threshold has half a step's weight.
    first = np.minimum(np.ceil(distance), CHALLENGE_AUC_MM + 1)
    area = np.clip(CHALLENGE_AUC_MM - first + 0.5, 0, None) - 0.5 * (first == 0)
    return _sums({"pck50": 100.0 * (distance <= 50), "auc": 100.0 * area / CHALLENGE_AUC_MM}, validity)


def ncps_sums(major: JointDistances) -> PoseSums:
    """`ncps50` to `ncps150` and `ncps_auc300`, of the worst joint of each pose after alignment; percent."""
    validity = major.aligned_validity
    worst, has_joint = np.where(validity, major.aligned, 0).max(axis=1, keepdims=True), validity.any(axis=1, keepdims=True)
    return _sums({**{f"ncps{t}": 100.0 * (worst <= t) for t in NCPS_THRESHOLDS_MM},
                  f"ncps_auc{NCPS_AUC_MM}": 100.0 * np.clip(1 - worst / NCPS_AUC_MM, 0, None)}, has_joint)


def _sums(terms: dict[str, np.ndarray], validity: np.ndarray) -> PoseSums:
    return PoseSums(tuple(terms), np.stack([np.where(validity, term, 0).sum(axis=1) for term in terms.values()]),
                    np.tile(validity.sum(axis=1).astype(np.float64), (len(terms), 1)))


def _joints(joints: tuple[int, ...]) -> dict:
    """For a stamp."""
    return {"joints": _names(joints), "num_joints": len(joints)}


def _names(joints: tuple[int, ...]) -> str:
    return ", ".join(JOINTS[j] for j in joints)
