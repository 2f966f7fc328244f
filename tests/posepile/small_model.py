"""A network and data sets small enough for tests: 32 px crops, seven joints of two formats."""

import pathlib

import numpy as np

from posepile.data.augmentation import AugmentationConfig
from posepile.data.batches import BatchPlan
from posepile.geometry.skeleton import Skeleton, averaging_matrix, merge_skeletons, skeleton_from_dict
from posepile.models.pose_model import PoseModel
from posepile.models.pose_trainer import LossSettings, PoseTrainer
from tests.posepile.data.prepared import dotted_example, write_prepared

CROP_SIDE = 32
ARMS = skeleton_from_dict({
    "name": "arms", "joints": ["neck", "left_wrist", "right_wrist"], "mirror_pairs": [["left_wrist", "right_wrist"]],
    "edges": ["neck-left_wrist"], "root": "neck"})
LEGS = skeleton_from_dict({
    "name": "legs", "joints": ["pelvis", "left_ankle", "right_ankle", "neck"],
    "mirror_pairs": [["left_ankle", "right_ankle"]], "edges": ["neck-pelvis-left_ankle"], "root": "pelvis"})
MERGED = merge_skeletons([ARMS, LEGS])
NUM_EXAMPLES = 12  # of each data set


def make_model(seed: int = 0, ghost_batch_size: int | tuple[int, ...] | None = 4, skeleton: Skeleton = MERGED) -> PoseModel:
    return PoseModel("tiny", CROP_SIDE, skeleton, ghost_batch_size=ghost_batch_size, seed=seed)


def make_plan(data_root: pathlib.Path) -> BatchPlan:
    """Batches of 12: 4 of each of two formats with 3D labels, and 4 with 2D labels."""
    rng = np.random.default_rng(5)

    def dataset(name, skeleton, kind):
        return write_prepared(data_root, name, skeleton, [dotted_example(rng, skeleton, kind) for _ in range(NUM_EXAMPLES)],
                              kind)

    return BatchPlan([(dataset("arms", ARMS, "3d"), 4), (dataset("legs", LEGS, "3d"), 4)],
                     [(dataset("photos", ARMS, "2d"), 4)], CROP_SIDE, augmentation=AugmentationConfig())


def make_trainer(plan: BatchPlan, seed: int = 0, ghost_batch_size: int | tuple[int, ...] | None = 4, **settings) -> PoseTrainer:
    """With loss settings other than the defaults in `settings`."""
    settings = {"absolute_loss_start": 2, "weak_perspective_steps": 1, **settings}
    return PoseTrainer(make_model(seed, ghost_batch_size), LossSettings(
        num_3d=plan.num_3d, averaging_matrix=averaging_matrix(plan.skeleton, plan.joint_names_2d), **settings), seed=seed)
