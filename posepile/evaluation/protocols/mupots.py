"""The protocol of MuPoTS-3D: TS1 to TS20, several people per frame, 17 joints.

Predictions are matched with annotated people by their 2D joints, see `match_people`. `metrics` are flat means over the matched
people, metric annotations, all 17 joints, together with `recall`: which people are matched depends on the detector, so numbers
of different recall are not comparable. The benchmark's own numbers are means over the sequences, in `matched` (of the matched
people) and `all_annotated` (a missed person is wrong in every joint), each for the metric and the universal annotations (one
body size for all), with and without giving the predicted bones the annotated lengths. What is usually printed is PCK of
`universal_rescaled`, and MPJPE of `metric`.
"""

import dataclasses

import numpy as np

from posepile.evaluation import metrics
from posepile.evaluation.metrics import JointDistances
from posepile.evaluation.prediction_files import Poses, check_pair, comparable_labels, named_alike
from posepile.evaluation.protocols.mpi_inf_3dhp import JOINTS, NUM_PCK_JOINTS, ROOT
from posepile.evaluation.protocols.record import PER_SEQUENCE, flat_record, score_pair
from posepile.evaluation.statistics import PoseSums, beside

MATCHED_JOINTS = slice(1, 14)  # neck to left ankle
MATCH_RADIUS_PX = 40.0  # in x and in y, each
# Joint and the joint that it starts at, outward from the pelvis.
BONES = ((15, 14), (1, 15), (0, 1), (16, 1), (2, 1), (3, 2), (4, 3), (5, 1), (6, 5), (7, 6), (8, 14), (9, 8), (10, 9), (11, 14),
         (12, 11), (13, 12))
_SHARES = ("pck150", "auc31", "apck150", "aauc31")


def score(pred: Poses, true: Poses, confidence: float = 0.95) -> dict:
    """Matches and scores predictions of any number of people.

    Args:
        pred: a row per predicted person, with `joints2d`, `sequence` and `frame`.
        true: a row per annotated person, with the same; `joints3d_universal` may be given.
        confidence: of the intervals.

    Returns: `record.flat_record` of the matched people, with `recall`, `num_annotated`, `num_predicted` among the metrics, all
        of people with an annotated joint; `recall_per_sequence`; `matched` and `all_annotated`: {variant: part}, the variants
        `metric`, `metric_rescaled`, `universal`, `universal_rescaled`. Of the first 14 joints: `pck150`, `auc31`, in camera
        space `apck150`, `aauc31`; in `matched` also `mpjpe14`, `mpjpe16` (without the pelvis), `mpjpe17`, `a_mpjpe17`, mm.
    Raises: ValueError naming the file and array that is missing or does not fit; if nobody is matched.
    """
    pred, true = (poses.in_order(JOINTS) for poses in named_alike(pred, true))
    for poses in (pred, true):
        if missing := [name for name in ("joints2d", "sequence", "frame") if getattr(poses, name) is None]:
            raise ValueError(f"{poses.source} lacks {', '.join(missing)}: people are matched by 2D joints, frame by frame")
    match = match_people(pred, true)
    is_matched = match >= 0
    if not is_matched.any():
        raise ValueError(f"{pred.source}: nobody is within {MATCH_RADIUS_PX:g} px of an annotated person of {true.source}. Are "
                         "joints2d in px of the whole image, and sequence and frame named alike?")
    joints3d = np.full(true.joints3d.shape, np.inf)  # a missed person is wrong in every joint
    joints3d[is_matched] = pred.joints3d[match[is_matched]]
    found, true = check_pair(Poses(pred.source, joints3d, joint_names=JOINTS), true)
    root = ROOT if true.root is None else true.root
    is_annotated = np.ones(len(match), bool) if true.validity is None else true.validity.any(axis=1)
    recall = PoseSums(("recall",), 100.0 * is_matched[None], is_annotated[None].astype(np.float64))
    stamp = {"protocol": "mupots", "recall": round(recall.values().item(), 2)}

    scored = score_pair(found, true, root, confidence, **stamp, annotation="metric (annot3)")
    record = flat_record(scored.select(is_matched, data="matched people"))
    recall_part = scored.metrics_of(recall)
    record["metrics"].update(recall=recall_part["metrics"]["recall"], num_annotated=recall_part["metrics"]["num_poses"],
                             num_predicted=len(pred.joints3d))
    record["intervals"]["metrics"].update(recall_part["intervals"])
    record["recall_per_sequence"] = dict(zip(map(str, np.unique(true.sequence)),
                                             recall.grouped(true.sequence).ratios()[0].tolist(), strict=True))
    targets = {"metric": dataclasses.replace(true, source=f"{true.source}: joints3d")}
    if true.joints3d_universal is not None:
        targets["universal"] = dataclasses.replace(true, joints3d=true.joints3d_universal,
                                                   source=f"{true.source}: joints3d_universal")
    record["matched"], record["all_annotated"] = {}, {}
    for kind, target in targets.items():
        predictions = {"": joints3d, "_rescaled": rescale_bones(joints3d, target.joints3d, true.validity)}
        for suffix, joints3d_pred in predictions.items():
            scored = score_pair(dataclasses.replace(found, joints3d=joints3d_pred), target, root, confidence, **stamp,
                                annotation="metric (annot3)" if kind == "metric" else "universal (univ_annot3)",
                                bones="of annotated length" if suffix else "as predicted",
                                pck_joints=", ".join(JOINTS[:NUM_PCK_JOINTS]))
            sums = official_sums(scored.distances)
            record["matched"][kind + suffix] = scored.metrics_of(sums.only(is_matched), PER_SEQUENCE, data="matched people")
            record["all_annotated"][kind + suffix] = scored.metrics_of(sums.select(_SHARES), PER_SEQUENCE,
                                                                       data="all annotated people")
    return record


def match_people(pred: Poses, true: Poses) -> np.ndarray:
    """Assigns predictions to annotated people as the benchmark does: in each frame, the annotated people in their order each
    take the prediction, not yet taken, of which most joints (neck to ankles) are within 40 px in x and in y; the first of equal
    ones, and none if no joint is. A predicted joint at (0, 0) does not count. Not an optimal assignment.

    Args: pred, true: with joints2d [n, 17, 2] px, sequence and frame.
    Returns: [len(true)] int64: the row of the prediction, -1 for none.
    """
    by_frame: dict[tuple, list[int]] = {}
    sequences, frames = comparable_labels(pred.sequence, true.sequence), comparable_labels(pred.frame, true.frame)
    for row, key in enumerate(zip(sequences[0].tolist(), frames[0].tolist(), strict=True)):
        by_frame.setdefault(key, []).append(row)
    validity = np.ones(true.joints3d.shape[:2], bool) if true.validity is None else true.validity
    match, is_taken = np.full(len(true.joints3d), -1), np.zeros(len(pred.joints3d), bool)
    for person, key in enumerate(zip(sequences[1].tolist(), frames[1].tolist(), strict=True)):
        rows = [row for row in by_frame.get(key, ()) if not is_taken[row]]
        if not rows:
            continue
        joints2d = pred.joints2d[rows, MATCHED_JOINTS]
        is_near = (np.abs(joints2d - true.joints2d[person, MATCHED_JOINTS]) < MATCH_RADIUS_PX).all(axis=-1)
        num_near = (is_near & (joints2d != 0).any(axis=-1) & validity[person, MATCHED_JOINTS]).sum(axis=1)
        if num_near.max() > 0:
            match[person] = rows[num_near.argmax()]
            is_taken[match[person]] = True
    return match


def rescale_bones(joints3d_pred: np.ndarray, joints3d_true: np.ndarray, validity: np.ndarray | None = None) -> np.ndarray:
    """Gives every predicted bone the annotated length, outward from the pelvis, which stays; directions stay as predicted.

    Args:
        joints3d_pred, joints3d_true: [n, 17, 3] mm. A predicted bone without length has no direction: its joint comes to lie
            where it starts.
        validity: [n, 17] bool, which annotations count; None: all. A bone with an end that does not keeps its length.

    Returns: [n, 17, 3] float64 mm.
    """
    pred, true = np.asarray(joints3d_pred, np.float64), np.asarray(joints3d_true, np.float64)
    result = pred.copy()
    with np.errstate(invalid="ignore", over="ignore"):
        for joint, start in BONES:
            bone = pred[:, joint] - pred[:, start]
            length, true_length = (np.linalg.norm(pose[:, joint] - pose[:, start], axis=-1) for pose in (pred, true))
            scale = np.divide(true_length, length, where=length > 0, out=np.zeros_like(length))
            if validity is not None:
                scale = np.where(validity[:, joint] & validity[:, start], scale, 1)
            result[:, joint] = result[:, start] + bone * scale[:, None]
    return result


def official_sums(distances: JointDistances) -> PoseSums:
    """The metrics of `score`'s parts, pose by pose."""
    absolute = dataclasses.replace(distances, relative=distances.absolute, relative_validity=distances.validity)

    def of_joints(part, name, joints):
        return metrics.pose_sums(part.select(slice(None), joints)).select([name])

    pck_joints, others = slice(0, NUM_PCK_JOINTS), [j for j in range(len(JOINTS)) if j != ROOT]
    columns = {"pck150": of_joints(distances, "pck150", pck_joints), "auc31": of_joints(distances, "auc31", pck_joints),
               "apck150": of_joints(absolute, "pck150", pck_joints), "aauc31": of_joints(absolute, "auc31", pck_joints),
               "mpjpe14": of_joints(distances, "mpjpe", pck_joints), "mpjpe16": of_joints(distances, "mpjpe", others),
               "mpjpe17": of_joints(distances, "mpjpe", slice(None)),
               "a_mpjpe17": of_joints(distances, "a_mpjpe", slice(None))}
    return beside([dataclasses.replace(sums, names=(name,)) for name, sums in columns.items()])
