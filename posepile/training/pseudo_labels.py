"""Pseudo-ground truth for the autoencoder: what the initial model predicts, in all formats, on training images."""

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging
from tqdm import tqdm

from posepile.data.crops import UnusableExampleError, crop_examples
from posepile.data.records import PreparedDataset, atomic_file
from posepile.data.sampling import evenly_spread
from posepile.geometry.bone_lengths import is_implausible_length
from posepile.geometry.skeleton import Skeleton, merged_joint_names
from posepile.prediction.predictor import Predictor

MIN_DEPTH_MM = 300.0  # nearer joints have no trustworthy projection
_CHUNK = 256


def predict_poses(predictor: Predictor, dataset: PreparedDataset, split: str, positions: np.ndarray,
                  description: str = "", skip_bad: bool = False) -> np.ndarray:
    """Predictions on unaugmented crops.

    Args: skip_bad: warn of examples whose records cannot be used, instead of raising.
    Returns: [len(positions), num_joints, 3] float32, crop camera frame, mm; nan for examples that cannot be used.
    Raises: UnusableExampleError naming file and offset.
    """
    results = []
    with tqdm(total=len(positions), desc=f"{description or dataset.name:12}", unit="crop", mininterval=1.0,
              dynamic_ncols=True) as progress:
        for start in range(0, len(positions), _CHUNK):
            batch, is_used = _crop(dataset, split, positions[start:start + _CHUNK], predictor.model.crop_side, skip_bad)
            poses = np.full((len(is_used), predictor.skeleton.num_joints, 3), np.nan, np.float32)
            if is_used.any():
                poses[is_used] = predictor.predict_crops(batch["image"], batch["intrinsics"])
            results.append(poses)
            progress.update(len(poses))
    return np.concatenate(results)


def _crop(dataset: PreparedDataset, split: str, positions: np.ndarray, crop_side: int,
          skip_bad: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The crops of those examples that can be used, and which ones these are: [len(positions)] bool."""
    is_used = np.ones(len(positions), bool)
    while is_used.any():
        try:
            return crop_examples(dataset, split, positions[is_used], crop_side), is_used
        except UnusableExampleError as error:
            if not skip_bad:
                raise
            logging.warning("skipped an example of %s: %s", dataset.name, error)
            is_used[np.flatnonzero(is_used)[error.row]] = False
    return {}, is_used


def plausible_poses(poses: np.ndarray, skeleton: Skeleton, datasets: Sequence[PreparedDataset]) -> np.ndarray:
    """Which predicted poses have plausible bones in every format whose mean bone lengths are known.

    All joints have to be at least 300 mm in front of the camera, and no bone may have an implausible length.

    Args: poses: [n, num_joints, 3] mm; datasets: their manifests hold the mean bone lengths of their formats.
    Returns: [n] bool.
    """
    plausible = np.isfinite(poses).all(axis=(1, 2)) & (poses[..., 2] > MIN_DEPTH_MM).all(axis=1)
    for dataset in datasets:
        for fmt in dataset.skeleton.formats or (dataset.skeleton,):
            names = merged_joint_names(fmt)
            for i, j in fmt.edges:
                statistics = dataset.manifest.get("bone_lengths_mm", {}).get(f"{fmt.joint_names[i]}-{fmt.joint_names[j]}")
                if statistics is None:
                    continue
                a, b = skeleton.index(names[i]), skeleton.index(names[j])
                length = np.linalg.norm(poses[:, a] - poses[:, b], axis=-1)
                plausible &= ~is_implausible_length(length, statistics["mean"])
    return plausible


def make_pseudo_labels(predictor: Predictor, datasets: Sequence[PreparedDataset], all_datasets: Sequence[PreparedDataset],
                       max_per_dataset: int, path: pathlib.Path, skip_bad: bool = False) -> np.ndarray:
    """Predicts all formats on training images, leaves implausible poses out, and writes the rest to `path`.

    Args:
        datasets: whose training images are used, at most `max_per_dataset` of each, evenly spread.
        all_datasets: whose bone lengths tell what is plausible.
        skip_bad: as in `predict_poses`.

    Returns: [n, num_joints, 3] float32, camera frame, mm.
    Raises: ValueError if no pose is plausible.
    """
    poses = []
    for dataset in datasets:
        positions = evenly_spread(dataset.num_examples("train"), max_per_dataset)
        poses.append(predict_poses(predictor, dataset, "train", positions, f"pseudo-labels {dataset.name}", skip_bad))
    poses = np.concatenate(poses)
    keep = plausible_poses(poses, predictor.skeleton, all_datasets)
    if not keep.any():
        raise ValueError(f"none of the {len(poses)} predicted poses has plausible bone lengths: the initial model is not "
                         "trained far enough to fit the autoencoder. Train it with more --steps.")
    poses = poses[keep]
    with atomic_file(path) as file:
        np.savez(file, joints3d=poses, joint_names=np.array(predictor.skeleton.joint_names), num_left_out=np.sum(~keep))
    return poses
