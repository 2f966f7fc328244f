"""The protocol of Human3.6M: S9 and S11, every 64th frame, four cameras, 17 joints.

`metrics` are flat means over all poses. Many papers print the mean of the 15 activity values instead: part
`mean_of_activities`. MPJPE is protocol 1, PA-MPJPE protocol 2.
"""

from posepile.evaluation import metrics
from posepile.evaluation.prediction_files import Poses, check_pair, check_protocol_pair
from posepile.evaluation.protocols.record import PER_ACTIVITY, flat_record, score_pair

JOINTS = ("pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "spine", "neck", "head",
          "head_top", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist")
ROOT = 0


def score(pred: Poses, true: Poses, confidence: float = 0.95) -> dict:
    """Scores one prediction per annotated pose. Args, Raises: as `flat.score`; without joint names the root may be another, as
    in arrays that have the pelvis last: of the order of the joints, only the root matters.

    Returns: `record.flat_record`, and where there are activities the part `mean_of_activities`.
    """
    is_other_order = not (pred.joint_names or true.joint_names) and true.root not in (None, ROOT)
    if is_other_order and true.joints3d.shape[1] == len(JOINTS):
        pred, true = check_pair(pred, true)
    else:
        pred, true = check_protocol_pair(pred, true, JOINTS)
    scored = score_pair(pred, true, ROOT if true.root is None else true.root, confidence, protocol="h36m",
                        annotation="metric (D3_Positions)")
    record = flat_record(scored)
    if true.activity is not None:
        record["mean_of_activities"] = scored.metrics_of(
            metrics.pose_sums(scored.distances).select(("mpjpe", "pa_mpjpe", "n_mpjpe", "pck150", "auc31")), PER_ACTIVITY)
    return record
