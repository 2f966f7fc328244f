"""The protocol of MPI-INF-3DHP: TS1 to TS6, valid frames, 17 joints.

`metrics` are flat means over all poses and all 17 joints, against the metric annotations. The benchmark's own numbers are in
the parts `official_metric` and `official_universal`: PCK@150 and AUC of 31 steps over the first 14 joints, MPJPE over all 17.
The universal annotations have one body size for all; numbers against them and against the metric ones are not comparable.
Parts of a scene, and activities, are pooled over their poses.
"""

import dataclasses

import numpy as np

from posepile.evaluation import metrics
from posepile.evaluation.metrics import JointDistances
from posepile.evaluation.prediction_files import Poses, check_protocol_pair
from posepile.evaluation.protocols.record import POOLED, Scored, flat_record, score_pair
from posepile.evaluation.statistics import PoseSums, beside

JOINTS = ("head_top", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
          "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "pelvis", "spine", "head")
ROOT = 14
NUM_PCK_JOINTS = 14  # the first ones: without pelvis, spine and head
SCENES = {"green screen": ("TS1", "TS2"), "no green screen": ("TS3", "TS4"), "outdoor": ("TS5", "TS6")}


def score(pred: Poses, true: Poses, confidence: float = 0.95) -> dict:
    """Scores one prediction per annotated pose. Args, Raises: as `flat.score`; `true.joints3d_universal` may be given.

    Returns: `record.flat_record`; `official_metric` and `official_universal`, each with `metrics`, `intervals`, `stamp`,
        `per_activity` and `per_scene`; `official_aligned`, after a similarity alignment of all 17 joints; `outdoor`: the flat
        metrics of TS5 and TS6.
    """
    pred, true = check_protocol_pair(pred, true, JOINTS)
    root = ROOT if true.root is None else true.root
    scored = score_pair(pred, true, root, confidence, protocol="mpi_inf_3dhp", annotation="metric (annot3)")
    record = {**flat_record(scored), "official_metric": _official(scored)}
    aligned = dataclasses.replace(scored.distances, relative=scored.distances.aligned,
                                  relative_validity=scored.distances.aligned_validity)
    record["official_aligned"] = scored.metrics_of(official_sums(aligned), alignment="similarity, fitted on all 17 joints",
                                                   pck_joints=_PCK_JOINTS)
    if true.sequence is not None and (is_outdoor := np.isin(true.sequence, SCENES["outdoor"])).any():
        record["outdoor"] = scored.metrics_of(metrics.pose_sums(scored.distances).only(is_outdoor), data="TS5 and TS6")
    if true.joints3d_universal is not None:
        universal = dataclasses.replace(true, joints3d=true.joints3d_universal, source=f"{true.source}: joints3d_universal")
        record["official_universal"] = _official(score_pair(pred, universal, root, confidence, protocol="mpi_inf_3dhp",
                                                            annotation="universal, one body size for all (univ_annot3)"))
    return record


_PCK_JOINTS = ", ".join(JOINTS[:NUM_PCK_JOINTS])


def official_sums(distances: JointDistances) -> PoseSums:
    """`pck150` and `auc31` of the first 14 joints, `mpjpe` of all 17; root-relative."""
    of_pck_joints = distances.select(slice(None), slice(0, NUM_PCK_JOINTS))
    return beside([metrics.pose_sums(of_pck_joints).select(("pck150", "auc31")),
                   metrics.pose_sums(distances).select(("mpjpe",))])


def _official(scored: Scored) -> dict:
    sums, true = official_sums(scored.distances), scored.true
    part = scored.metrics_of(sums, POOLED, pck_joints=_PCK_JOINTS)
    groups = {}
    if true.activity is not None:
        groups["per_activity"] = {str(label): true.activity == label for label in np.unique(true.activity)}
    if true.sequence is not None:
        groups["per_scene"] = {scene: is_member for scene, names in SCENES.items()
                               if (is_member := np.isin(true.sequence, names)).any()}
    return {**part, **{group: {label: scored.metrics_of(sums.only(is_member))["metrics"]
                               for label, is_member in members.items()} for group, members in groups.items() if members}}
