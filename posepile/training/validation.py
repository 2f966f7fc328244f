"""Fixed validation crops: how good and how plausible a model's predictions on them are while it is being trained."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from posepile.data.crops import crop_examples
from posepile.data.records import PreparedDataset
from posepile.data.sampling import evenly_spread
from posepile.data.tfrecord import CorruptRecordError
from posepile.geometry.skeleton import Skeleton, joint_indices
from posepile.visualization.prediction_sheet import prediction_sheet

MAX_PER_DATASET = 256
# Of all data sets together. They stay in memory as uint8: 12.6 MB at 64 px, 201 MB at 256 px, 453 MB at 384 px.
MAX_EXAMPLES = 1024
PICTURES_PER_DATASET = 3
SCORE_NAME = "validation_mpjpe"

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Crops [n, crop_side, crop_side, 3] uint8 RGB and their intrinsics [n, 3, 3] px -> [n, num_joints, 3] mm, crop camera frame,
the joints of the merged skeleton. n is up to `max_per_dataset`, and varies. `Predictor.predict_crops` is one."""


@dataclasses.dataclass(frozen=True)
class _Crops:
    """The validation crops of one data set.

    Attributes:
        name: of the data set; skeleton: of its labels; joints: their places in the model's merged skeleton.
        positions: [n] in the validation split.
        image, intrinsics, joints3d, mask: as from `crop_examples`.
    """

    name: str
    skeleton: Skeleton
    joints: np.ndarray
    positions: np.ndarray
    image: np.ndarray
    intrinsics: np.ndarray
    joints3d: np.ndarray
    mask: np.ndarray


class Validation:
    """Scores and draws predictions on the same crops every time; made by `make_validation`."""

    def __init__(self, crops: Sequence[_Crops]):
        self._crops = tuple(crops)

    @property
    def num_examples(self) -> dict[str, int]:
        """By data set."""
        return {crops.name: len(crops.image) for crops in self._crops}

    def score(self, predict: Predict) -> dict[str, float]:
        """Root-relative MPJPE, mm: `validation_mpjpe/NAME` per data set, and their mean, `validation_mpjpe`.

        Averaged over all labelled joints of all crops, the pooled MPJPE of the evaluation. Not finite where a prediction
        that counts is not.
        """
        scores = {}
        for crops in self._crops:
            pred = np.asarray(predict(crops.image, crops.intrinsics))[:, crops.joints]
            scores[f"{SCORE_NAME}/{crops.name}"] = _mean(*_joint_errors(pred, crops.joints3d, crops.mask, crops.skeleton))
        return {SCORE_NAME: float(np.mean(list(scores.values()))), **scores}

    def pictures(self, predict: Predict) -> dict[str, np.ndarray]:
        """`predictions/NAME` per data set: [height, width, 3] uint8 RGB, a few crops with predicted and true pose."""
        pictures = {}
        for crops in self._crops:
            chosen = evenly_spread(len(crops.image), PICTURES_PER_DATASET)
            pred = np.asarray(predict(crops.image[chosen], crops.intrinsics[chosen]))[:, crops.joints]
            true, mask = crops.joints3d[chosen], crops.mask[chosen]
            errors, is_counted = _joint_errors(pred, true, mask, crops.skeleton)
            captions = [f"example {position}, MPJPE {_mean(errors[i], is_counted[i]):.0f} mm"
                        for i, position in enumerate(crops.positions[chosen])]
            pictures[f"predictions/{crops.name}"] = prediction_sheet(
                crops.image[chosen], crops.intrinsics[chosen], pred, true, mask, crops.skeleton, captions,
                f"{crops.name}, validation")
        return pictures


def make_validation(datasets: Sequence[PreparedDataset], skeleton: Skeleton, crop_side: int,
                    max_per_dataset: int = MAX_PER_DATASET, skip_bad: bool = False) -> Validation | None:
    """Cuts unaugmented crops, evenly spread over the validation splits of the data sets with 3D labels.

    Args:
        datasets: those with 2D labels, or without a validation split, are left out.
        skeleton: the merged one that the model predicts.
        crop_side: px.
        max_per_dataset: crops; fewer where all data sets together would exceed MAX_EXAMPLES.
        skip_bad: warn of examples whose records cannot be used, instead of raising.

    Returns: None if there is no data set to validate on.
    Raises:
        CorruptRecordError: naming file and offset.
        ValueError: the model does not predict a data set's format.
    """
    datasets = [d for d in datasets if d.kind == "3d" and "validation" in d.splits()]
    max_per_dataset = max(1, min(max_per_dataset, MAX_EXAMPLES // max(len(datasets), 1)))
    crops = [_make_crops(dataset, skeleton, crop_side, max_per_dataset, skip_bad) for dataset in datasets]
    crops = [c for c in crops if c is not None]
    return Validation(crops) if crops else None


def _make_crops(dataset, skeleton, crop_side, max_examples, skip_bad) -> _Crops | None:
    """None if no example can be scored."""
    joints = joint_indices(skeleton, dataset.skeleton)
    positions, rows = [], []
    for position in evenly_spread(dataset.num_examples("validation"), max_examples):
        try:
            rows.append(crop_examples(dataset, "validation", [position], crop_side))
            positions.append(position)
        except CorruptRecordError as error:
            if not skip_bad:
                raise
            logging.warning("skipped a validation example of %s: %s", dataset.name, error)
    if rows:
        batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        _, is_counted = _joint_errors(batch["joints3d"], batch["joints3d"], batch["joints3d_mask"], dataset.skeleton)
        if is_counted.any():
            return _Crops(dataset.name, dataset.skeleton, joints, np.array(positions), batch["image"], batch["intrinsics"],
                          batch["joints3d"], batch["joints3d_mask"])
    logging.warning("no validation example of %s can be scored; it is left out of the validation", dataset.name)
    return None


def _joint_errors(joints3d_pred, joints3d_true, mask, skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Root-relative distances, mm, and which of them count; both [n, joints of all formats of the skeleton].

    Each format is relative to its own root, or to the mean of its labelled joints where it has none; a pose whose root is
    not labelled does not count.
    """
    errors, is_counted = [], []
    for fmt in skeleton.formats or (skeleton,):
        joints = joint_indices(skeleton, fmt) if skeleton.formats else np.arange(fmt.num_joints)
        is_labelled = mask[:, joints]
        is_reference = is_labelled if fmt.root is None else is_labelled & (np.arange(fmt.num_joints) == fmt.root)
        num_references = is_reference.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", over="ignore"):  # a diverged model predicts anything
            difference = np.float64(joints3d_pred[:, joints]) - joints3d_true[:, joints]
            offset = np.sum(difference, axis=1, where=is_reference[..., None]) / np.maximum(num_references, 1)
            errors.append(np.linalg.norm(difference - offset[:, None], axis=-1))
        is_counted.append(is_labelled & (num_references > 0))
    return np.concatenate(errors, axis=1), np.concatenate(is_counted, axis=1)


def _mean(errors: np.ndarray, is_counted: np.ndarray) -> float:
    """nan if nothing counts."""
    return float(np.sum(errors, where=is_counted) / np.float64(is_counted.sum())) if is_counted.any() else np.nan
