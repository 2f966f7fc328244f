"""A network and data sets small enough for tests: 32 px crops, seven joints of two formats."""

import dataclasses
import pathlib

import numpy as np

from posepile.data.augmentation import AugmentationConfig
from posepile.data.batches import BatchPlan
from posepile.geometry.skeleton import Skeleton, averaging_matrix, merge_skeletons, skeleton_from_dict
from posepile.models.consistency import make_finetune_model
from posepile.models.objective import LossSettings, PoseObjective
from posepile.models.pose_model import PoseModel
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


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Three latent points of MERGED: left, right, centre; equal weights, so that mirrored joints give mirrored latents."""

    joint_names: tuple[str, ...] = MERGED.joint_names
    encoder: np.ndarray = dataclasses.field(default_factory=lambda: np.float32([
        [0, 0.5, 0, 0, 0.5, 0, 0], [0, 0, 0.5, 0, 0, 0.5, 0], [0.25, 0, 0, 0.5, 0, 0, 0.25]]))
    decoder: np.ndarray = dataclasses.field(default_factory=lambda: np.float32([
        [0.25, 0.25, 0.5], [1.25, -0.25, 0], [-0.25, 1.25, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0.125, 0.125, 0.75]]))


def make_consistent_model(consistency: str, seed: int = 0, autoencoder: Autoencoder | None = None) -> PoseModel:
    """A model for fine-tuning, made from an initial one whose weights are all random, the head's rather large."""
    initial = make_model(seed)
    rng = np.random.default_rng(seed)
    initial.head.set_weights([rng.normal(scale=0.3, size=w.shape) for w in initial.head.get_weights()])
    return make_finetune_model(initial, consistency, autoencoder or Autoencoder(), ghost_batch_size=4, seed=seed)


def make_objective(plan: BatchPlan, seed: int = 0, ghost_batch_size: int | tuple[int, ...] | None = 4,
                   pose_model: PoseModel | None = None, **settings) -> PoseObjective:
    """For batches of the plan, with loss settings other than the defaults in `settings`."""
    settings = {"absolute_loss_start": 2, "weak_perspective_steps": 1, "num_datasets": len(plan.parts), **settings}
    return PoseObjective(pose_model or make_model(seed, ghost_batch_size), LossSettings(
        averaging_matrix=averaging_matrix(plan.skeleton, plan.joint_names_2d), **settings))
