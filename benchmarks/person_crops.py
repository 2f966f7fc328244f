"""Prepared data sets for benchmarks, made up on the spot: crops as costly to decode, mask and warp as photos of people.

The pictures are 1/f noise over octaves, as photos are, with plain shapes; a person of other texture stands in the
middle. Labels lie on the person and mean nothing. Records repeat the pictures, so that shards can be larger than the
processor's caches without taking long to make.
"""

import dataclasses
import pathlib
import shutil

import cv2
import numpy as np

from posepile.data import records
from posepile.data.atomic_files import write_json
from posepile.data.augmentation import AugmentationConfig
from posepile.data.batches import BatchPlan
from posepile.data.records import Example, PreparedDataset
from posepile.geometry.skeleton import load_skeleton

EXAMPLES_PER_BATCH = {"rig_one": 32, "rig_two": 32, "rig_three": 32, "photos": 32}  # 96 with 3D labels, 32 with 2D labels
_KINDS = {name: "2d" if name == "photos" else "3d" for name in EXAMPLES_PER_BATCH}
_SKELETON = "smpl_24"
_SHARDS = 2
_JPEG_QUALITY = 95  # as `prepare` stores crops
_PERSON_MM, _DISTANCE_MM, _DEPTH_MM = 1700, 3500, 150  # height; distance of the pelvis; standard deviation around it
_NOISE_AMPLITUDE, _NOISE_FALL_OFF = 150, 0.8  # code values; with them a 384 px JPEG takes about 45 kB
_NUM_SHAPES = 6


def write_datasets(data_root: pathlib.Path, image_side: int, person_side: int, num_pictures: int, num_examples: int) -> None:
    """Writes one prepared data set per entry of EXAMPLES_PER_BATCH, in split `train`.

    Args:
        data_root: folder.
        image_side: px of the stored, square pictures.
        person_side: px, about; the longer side of the person's box in them.
        num_pictures: different pictures per data set.
        num_examples: per data set.
    """
    for number, name in enumerate(EXAMPLES_PER_BATCH):
        pictures = [_example(image_side, person_side, _KINDS[name], np.random.default_rng((number, i)))
                    for i in range(num_pictures)]
        shards, index = [], []
        for shard, positions in enumerate(np.array_split(np.arange(num_examples), _SHARDS)):
            path = records.shard_path(data_root / name, "train", shard, _SHARDS)
            records.write_shard(path, (dataclasses.replace(pictures[i % num_pictures], provenance={"frame": i})
                                       for i in positions.tolist()))
            entries, digest = records.scan_shard(path)
            shards.append({"file": path.name, "num_examples": len(entries), "sha256": digest})
            index.append(np.column_stack([np.full(len(entries), shard), entries]))
        np.save(records.index_path(data_root / name, "train"), np.concatenate(index))
        write_json(data_root / name / records.MANIFEST_NAME, {
            "name": name, "kind": _KINDS[name], "skeleton": load_skeleton(_SKELETON).to_dict(),
            "splits": {"train": {"num_examples": num_examples, "num_units": 1, "shards": shards}},
            "bone_lengths_mm": {}, "licence": "none needed", "version": "0", "skipped": []})


def write_repeated(source: PreparedDataset, folder: pathlib.Path, num_examples: int) -> None:
    """Writes a prepared data set of any number of examples whose index points again and again to the same records."""
    shutil.copytree(source.folder, folder)
    np.save(records.index_path(folder, "train"), np.resize(source.index("train"), (num_examples, 3)))
    manifest = source.manifest
    split = {**manifest["splits"]["train"], "num_examples": num_examples}
    write_json(folder / records.MANIFEST_NAME, {**manifest, "name": folder.name, "splits": {"train": split}})


def open_plan(data_root: pathlib.Path, crop_side: int, augmentation: AugmentationConfig | None = None) -> BatchPlan:
    """The batch plan of what `write_datasets` wrote; None: the default augmentation."""
    counts = {kind: [(PreparedDataset(data_root / name), count) for name, count in EXAMPLES_PER_BATCH.items()
                     if _KINDS[name] == kind] for kind in ("3d", "2d")}
    return BatchPlan(counts["3d"], counts["2d"], crop_side, augmentation=augmentation or AugmentationConfig())


def make_picture(image_side: int, person_side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A square picture, uint8, of which about `person_side` px are a person in the middle; and the person's mask, bool."""
    mask = _person_mask(image_side, person_side, rng)
    image = np.where(mask[..., np.newaxis], _noise(image_side, rng), _with_shapes(_noise(image_side, rng), rng))
    return image, mask


def _example(image_side: int, person_side: int, kind: str, rng: np.random.Generator) -> Example:
    image, mask = make_picture(image_side, person_side, rng)
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    focal, middle = person_side * _DISTANCE_MM / _PERSON_MM, (image_side - 1) / 2
    places = np.argwhere(mask)[:, ::-1]
    joints2d = places[rng.integers(len(places), size=load_skeleton(_SKELETON).num_joints)].astype(np.float64)
    depth = _DISTANCE_MM + _DEPTH_MM * rng.standard_normal((len(joints2d), 1))
    joints3d = np.hstack([(joints2d - middle) / focal * depth, depth])
    return Example(
        image=jpeg, intrinsics=np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]]), world_to_camera=np.eye(4),
        bbox=np.array(cv2.boundingRect(np.uint8(mask)), np.float64), mask_rle=records.encode_mask(mask),
        **({"joints3d": joints3d} if kind == "3d" else {"joints2d": joints2d}))


def _noise(side: int, rng: np.random.Generator) -> np.ndarray:
    """[side, side, 3] uint8: noise whose amplitude falls with the frequency, around a random colour."""
    image = np.full((side, side, 3), rng.uniform(70, 180, 3), np.float32)
    octave = 4
    while octave <= side:
        noise = 0.8 * rng.standard_normal((octave, octave, 1), np.float32)  # most of a photo's contrast has no colour
        noise = noise + 0.35 * rng.standard_normal((octave, octave, 3), np.float32)
        image += _NOISE_AMPLITUDE * octave**-_NOISE_FALL_OFF * cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
        octave *= 2
    return np.uint8(np.clip(image, 0, 255))


def _with_shapes(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    side = len(image)
    shapes = image.copy()
    for _ in range(_NUM_SHAPES):
        center, size = rng.integers(0, side, 2), rng.integers(side // 20, side // 4, 2)
        color, angle = rng.integers(0, 256, 3).tolist(), rng.uniform(0, 180)
        if rng.random() < 0.5:
            cv2.ellipse(shapes, center.tolist(), size.tolist(), angle, 0, 360, color, -1, cv2.LINE_AA)
        else:
            corners = cv2.boxPoints((center.tolist(), size.tolist(), angle))
            cv2.fillConvexPoly(shapes, np.int32(corners), color, cv2.LINE_AA)
    return cv2.addWeighted(image, 0.5, shapes, 0.5, 0)


def _person_mask(image_side: int, person_side: int, rng: np.random.Generator) -> np.ndarray:
    """[image_side, image_side] bool: a head, a torso and bent limbs in the middle; about a fifth of the picture."""
    mask = np.zeros((image_side, image_side), np.uint8)

    def to_pixels(points):  # of a person from -0.5 (top) to 0.5 (bottom)
        return np.int32(np.rint((image_side - 1) / 2 + person_side * np.asarray(points)))

    def limb(start, length, thickness, angles):
        """Angles from straight down, degrees."""
        points = [np.array(start)]
        for angle in np.deg2rad(angles):
            points.append(points[-1] + length / 2 * np.array([np.sin(angle), np.cos(angle)]))
        cv2.polylines(mask, [to_pixels(points)], False, 1, round(thickness * person_side))

    cv2.circle(mask, to_pixels([0, -0.4]).tolist(), round(0.1 * person_side), 1, -1)
    cv2.fillConvexPoly(mask, to_pixels([[-0.2, -0.28], [0.2, -0.28], [0.17, 0.08], [-0.17, 0.08]]), 1)
    for side in (-1, 1):
        limb((side * 0.16, -0.25), 0.44, 0.12, side * rng.uniform([10, 10], [70, 110]))
        limb((side * 0.1, 0.06), 0.4, 0.17, side * rng.uniform([5, -10], [40, 20]))
    return mask > 0
