"""Shows what is in a prepared data set: a summary as text, and examples or training crops with their labels as a picture."""

import pathlib

import cv2
import numpy as np

from posepile.data import augmentation, sampling
from posepile.data.augmentation import AugmentationConfig
from posepile.data.crops import crop_examples
from posepile.data.pictures import Pictures
from posepile.data.records import MANIFEST_NAME, Example, PreparedDataset, decode_mask
from posepile.geometry.camera import project
from posepile.geometry.skeleton import Skeleton
from posepile.visualization.contact_sheet import SIDE_LEGEND, contact_sheet, write_png
from posepile.visualization.drawing import (
    BOX_COLOR,
    MASK_COLOR,
    PREDICTION_STYLE,
    PoseStyle,
    draw_box,
    draw_mask_outline,
    draw_skeleton,
)

CELL_SIDE = 320  # px
MAX_COLUMNS = 6
MAX_CAPTION_VALUE = 60  # characters; whole poses are not for captions
_MIN_CROP_CELL = 128  # px; smaller crops are magnified to this or more


def describe(dataset: PreparedDataset) -> str:
    """Counts, skeleton, bone lengths, licence and skipped examples."""
    manifest, skeleton = dataset.manifest, dataset.skeleton
    lines = [f"{dataset.name}: labelled in {dataset.kind.upper()}, in {dataset.folder}"]
    for split in dataset.splits():
        table = manifest["splits"][split]
        lines.append(f"  {split}: {table['num_examples']} examples of {table['num_units']} units in "
                     f"{len(table['shards'])} shards")
    lines.append(f"  skeleton {skeleton.name}: {skeleton.num_joints} joints, {len(skeleton.edges)} bones")
    lines += [f"    {line}" for line in _wrapped(skeleton.joint_names)]
    if manifest["bone_lengths_mm"]:
        width = max(len(name) for name in manifest["bone_lengths_mm"])
        lines.append(f"  bone lengths, mm: {'':{max(0, width - 14)}}    mean     std     min     max")
        lines += [f"    {name:{width}}  " + "".join(f"{values[key]:8.1f}" for key in ("mean", "std", "min", "max"))
                  for name, values in manifest["bone_lengths_mm"].items()]
    if manifest.get("licence"):
        lines.append(f"  licence: {manifest['licence']}")
    if manifest.get("skipped"):
        lines.append(f"  {len(manifest['skipped'])} bad examples left out, listed in {dataset.folder / MANIFEST_NAME}")
    return "\n".join(lines)


def draw_examples(dataset: PreparedDataset, split: str, num_examples: int, seed: int, output: pathlib.Path) -> int:
    """Writes a contact sheet of examples chosen by `seed`, in their order. Returns: how many; fewer if there are
    fewer."""
    total = dataset.num_examples(split)
    positions = np.sort(np.random.default_rng(seed).permutation(total)[:num_examples])
    cells, captions = [], []
    for position in positions:
        example = dataset.read(split, int(position))
        cells.append(draw_example(example, dataset.skeleton, CELL_SIDE))
        details = " ".join(f"{key}={value}" for key, value in example.provenance.items()
                           if len(str(value)) <= MAX_CAPTION_VALUE)
        captions.append(f"#{position} {details}".rstrip())
    columns = min(MAX_COLUMNS, max(1, round(len(cells) ** 0.5 * 1.3)))
    legend = [*SIDE_LEGEND, ("box", BOX_COLOR), ("mask", MASK_COLOR)]
    title = f"{dataset.name}, {split}: {len(cells)} of {total} examples, skeleton {dataset.skeleton.name}"
    write_png(output, contact_sheet(cells, columns, captions, title=title, legend=legend))
    return len(cells)


def draw_augmented(dataset: PreparedDataset, split: str, num_crops: int, seed: int, output: pathlib.Path, *,
                   config: AugmentationConfig, crop_side: int, pictures: Pictures) -> None:
    """Writes a contact sheet of augmented crops, each without and with its labels: the crops of this data set with which
    a training of this seed begins.

    Args:
        dataset: the data set.
        split: of the data set.
        num_crops: how many; may be more than there are examples, each of which comes once per epoch.
        seed: of the training.
        output: a PNG file.
        config: how the crops vary.
        crop_side: px.
        pictures: to be pasted.
    """
    stream = np.arange(num_crops)
    positions = sampling.example_positions(seed, dataset.name, dataset.num_examples(split), stream)
    variations = augmentation.random_variations(config, dataset.kind, seed, dataset.name, stream)
    geometry = variations["geometry"]
    crops = crop_examples(dataset, split, positions, crop_side, **variations, pictures=pictures)
    joints2d, mask = crops[f"joints{dataset.kind}"], crops[f"joints{dataset.kind}_mask"]
    if dataset.kind == "3d":
        joints2d = project(np.where(mask[..., None], joints2d, np.nan), crops["intrinsics"])
    scale = -(-_MIN_CROP_CELL // crop_side)
    cells, captions = [], []
    for i, position in enumerate(positions.tolist()):
        crop = cv2.resize(crops["image"][i], None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        drawn = draw_skeleton(crop, scale * (joints2d[i] + 0.5) - 0.5, dataset.skeleton, mask[i],
                              style=_pose_style(dataset.skeleton))
        cells.append(np.hstack([crop, drawn]))
        captions.append(f"#{position} {'mirrored, ' if geometry['flip'][i] else ''}"
                        f"rolled {round(np.rad2deg(geometry['roll'][i])):+d} deg, zoom {geometry['zoom'][i]:.2f}")
    title = (f"{dataset.name}, {split}: the first {num_crops} training crops of seed {seed}, {crop_side} px, skeleton "
             f"{dataset.skeleton.name}")
    columns = min(MAX_COLUMNS // 2, max(1, round(num_crops**0.5)))
    write_png(output, contact_sheet(cells, columns, captions, title=title, legend=SIDE_LEGEND))


def draw_example(example: Example, skeleton: Skeleton, side: int) -> np.ndarray:
    """An example's crop, its longer side resized to `side` px, with box, mask outline and joints: projected, or as
    labelled in 2D."""
    image = example.decode_image()
    scale = side / max(image.shape[:2])
    size = tuple(max(1, round(scale * length)) for length in image.shape[1::-1])
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if example.mask_rle is not None:
        mask = decode_mask(example.mask_rle, *image.shape[:2])
        resized = draw_mask_outline(resized, cv2.resize(np.uint8(mask), size, interpolation=cv2.INTER_NEAREST))
    x, y, width, height = example.bbox
    box = np.array([scale * (x + 0.5) - 0.5, scale * (y + 0.5) - 0.5, scale * width, scale * height])
    resized = draw_box(resized, box)
    joints2d = example.joints2d if example.joints3d is None else project(example.joints3d, example.intrinsics)
    return draw_skeleton(resized, scale * (joints2d + 0.5) - 0.5, skeleton, style=_pose_style(skeleton))


def _pose_style(skeleton: Skeleton) -> PoseStyle:
    # Several formats at once lie over each other on the same body: thin lines leave something of it to be seen.
    return PoseStyle(width=0.4, rim=False) if len(skeleton.formats) > 1 else PREDICTION_STYLE


def _wrapped(words, width: int = 100) -> list[str]:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) + 2 > width:
            lines.append("")
        lines[-1] += f"{word}, "
    lines[-1] = lines[-1].removesuffix(", ")
    return [line.rstrip() for line in lines]
