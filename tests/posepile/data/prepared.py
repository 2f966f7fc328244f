"""Small prepared data sets for tests."""

import dataclasses
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from posepile.data import records
from posepile.data.atomic_files import write_json
from posepile.data.augmentation import NO_AUGMENTATION, AugmentationConfig
from posepile.data.records import Example, PreparedDataset
from posepile.geometry import camera
from posepile.geometry.skeleton import Skeleton, load_skeleton

IMAGE_SIDE = 160
DOT_RADIUS = 3
GEOMETRY_ONLY = dataclasses.replace(
    NO_AUGMENTATION, **{name: getattr(AugmentationConfig(), name)
                        for name in ("shift", "zoom", "roll_degrees", "flip_probability")})


def write_prepared(folder: pathlib.Path, name: str, skeleton: Skeleton | str, examples: Sequence[Example], kind: str,
                   split: str = "train", num_shards: int = 1) -> PreparedDataset:
    """Writes `folder / name` as a prepared data set with one split, or adds the split to it, and opens it.

    Args:
        folder: data root.
        name: of the data set.
        skeleton: of the labels, or the name of a format.
        examples: in the order of the split.
        kind: "3d" or "2d".
        split: train, validation or test.
        num_shards: the examples are cut into so many shards.
    """
    skeleton = load_skeleton(skeleton) if isinstance(skeleton, str) else skeleton
    dataset_dir = folder / name
    shards, index = [], []
    for shard, positions in enumerate(np.array_split(np.arange(len(examples)), num_shards)):
        path = records.shard_path(dataset_dir, split, shard, num_shards)
        records.write_shard(path, [examples[i] for i in positions])
        entries, digest = records.scan_shard(path)
        shards.append({"file": path.name, "num_examples": len(entries), "sha256": digest})
        index.append(np.concatenate([np.full((len(entries), 1), shard), entries], axis=1))
    np.save(records.index_path(dataset_dir, split), np.concatenate(index).astype(np.int64))
    splits = {}
    if (dataset_dir / records.MANIFEST_NAME).exists():
        splits = PreparedDataset(dataset_dir).manifest["splits"]
    splits[split] = {"num_examples": len(examples), "num_units": 1, "shards": shards}
    write_json(dataset_dir / records.MANIFEST_NAME, {
        "name": name, "kind": kind, "skeleton": skeleton.to_dict(), "splits": splits, "bone_lengths_mm": {},
        "licence": "none needed", "version": "0", "skipped": []})
    return PreparedDataset(dataset_dir)


def dotted_example(rng: np.random.Generator, skeleton: Skeleton | str, kind: str, dot_joint: int | None = None,
                   background: int = 40) -> Example:
    """A person as a cloud of joints on a plain gray image, with one white dot where a chosen joint is.

    Args:
        rng: for joints, camera and box.
        skeleton: of the labels, or the name of a format.
        kind: "3d" or "2d".
        dot_joint: index of the joint under the dot; None: smooth noise all over the image, and no dot.
        background: gray value.
    """
    skeleton = load_skeleton(skeleton) if isinstance(skeleton, str) else skeleton
    focal = rng.uniform(250, 400)
    intrinsics = np.array([[focal, 0, 79 + rng.uniform(-5, 5)], [0, focal, 80 + rng.uniform(-5, 5)], [0, 0, 1]])
    center = np.array([rng.uniform(-200, 200), rng.uniform(-200, 200), rng.uniform(3500, 4500)])
    joints3d = center + rng.uniform(-1, 1, (skeleton.num_joints, 3)) * [350, 450, 200]
    joints2d = camera.project(joints3d, intrinsics)
    low, high = joints2d.min(axis=0) - 2, joints2d.max(axis=0) + 2
    if dot_joint is None:
        noise = rng.integers(0, 256, (IMAGE_SIDE // 8, IMAGE_SIDE // 8, 3), np.uint8)
        image = cv2.resize(noise, (IMAGE_SIDE, IMAGE_SIDE), interpolation=cv2.INTER_CUBIC)
    else:
        image = np.full((IMAGE_SIDE, IMAGE_SIDE, 3), background, np.uint8)
        subpixel = 4  # fractional bits of the dot's centre
        cv2.circle(image, np.rint(joints2d[dot_joint] * 2**subpixel).astype(int).tolist(), DOT_RADIUS << subpixel,
                   (255, 255, 255), -1, cv2.LINE_AA, subpixel)
    labels = {"joints3d": np.float32(joints3d)} if kind == "3d" else {"joints2d": np.float32(joints2d)}
    return Example(image=encode_jpeg(image), intrinsics=np.float32(intrinsics), bbox=np.float32([*low, *(high - low)]),
                   world_to_camera=np.eye(4, dtype=np.float32), provenance={"frame": int(rng.integers(1000))}, **labels)


def encode_jpeg(image: np.ndarray) -> bytes:
    """[height, width, 3] uint8 RGB -> JPEG bytes."""
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def masked_dataset(root, mask, image_value=200):
    """A data set of one person, plain bright, with this mask, in a camera whose crop is the stored picture."""
    side = len(mask)
    intrinsics = np.float32([[300, 0, (side - 1) / 2], [0, 300, (side - 1) / 2], [0, 0, 1]])
    example = Example(encode_jpeg(np.full((side, side, 3), image_value, np.uint8)), intrinsics,
                              np.eye(4, dtype=np.float32), np.float32([-0.5, -0.5, side, side]),
                              joints3d=np.full((17, 3), 3000, np.float32), mask_rle=records.encode_mask(mask))
    return write_prepared(root, "masked", "h36m_17", [example], "3d")
