"""Records of evaluations with planted errors, for the tests of what is made of them."""

import numpy as np

from posepile.evaluation.comparison import measure_poses
from posepile.evaluation.prediction_files import Poses
from posepile.evaluation.protocols import h36m, mpi_inf_3dhp
from posepile.evaluation.scoring import score_merged, score_poses
from posepile.geometry.skeleton import load_skeleton, merge_skeletons

MERGED = merge_skeletons([load_skeleton("smpl_24"), load_skeleton("h36m_17")])


def poses(num_poses: int, num_joints: int) -> np.ndarray:
    """[num_poses, num_joints, 3] mm, in front of the camera."""
    return np.random.default_rng(0).normal(0, 300, (num_poses, num_joints, 3)) + np.array([0, 0, 4000])


def h36m_record(num_sequences: int = 3, confidence: float = 0.95) -> dict:
    """Two poses per sequence; the right wrist is off by 34 mm in the first, 68 mm in the second: MPJPE is 2 and 4, so 3."""
    true = poses(2 * num_sequences, 17)
    pred = true.copy()
    pred[::2, -1, 0] += 34
    pred[1::2, -1, 0] += 68
    sequence = np.repeat([f"S9 {i:03d}" for i in range(num_sequences)], 2)
    activity = np.tile(["Walking", "Sitting"], num_sequences)
    return score_poses(Poses("P.npz", pred, joint_names=h36m.JOINTS),
                       Poses("A.npz", true, sequence=sequence, activity=activity), "h36m", confidence)


def mupots_record() -> dict:
    """Two sequences of four people; TS1: all are found, each with a wrist off by 17 mm; TS2: nobody."""
    true = poses(8, 17)
    joints2d = true[..., :2] / true[..., 2:] * 1000
    pred = true.copy()
    pred[:, 7, 0] += 17
    labels = {"sequence": np.repeat(["TS1", "TS2"], 4), "frame": np.tile(np.arange(4), 2)}
    pred2d = joints2d + np.where(labels["sequence"] == "TS1", 0, 500)[:, None, None]
    return score_poses(Poses("P.npz", pred, pred2d, **labels),
                       Poses("A.npz", true, joints2d, joint_names=mpi_inf_3dhp.JOINTS, joints3d_universal=true, **labels),
                       "mupots")


def model_record() -> dict:
    """Of 6 poses in two formats; of smpl_24 the left hand is off by 48 mm, so that MPJPE is 2, and 48 / 41 over all."""
    true = poses(6, MERGED.num_joints)
    pred = true.copy()
    pred[:, MERGED.index("left_hand_smpl"), 1] += 48
    measured = measure_poses(pred, true, None, MERGED, sequence=np.repeat(["a", "b"], 3))
    stamp = {"dataset": "mine", "split": "test", "boxes": "of the data set", "num_poses": 6, "joints": MERGED.name,
             "root": "each format's own", "annotation": "metric", "averaging": "flat"}
    return {**score_merged(pred, true, None, MERGED), **measured, "stamp": {**stamp, **measured["stamp"]}}
