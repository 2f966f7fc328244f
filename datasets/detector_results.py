"""What a user's own detector and segmenter find in the images of a data set: boxes from a COCO result file or an ONNX network,
masks from a folder of pictures. docs/preparing_data.md tells users how the files name the images.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import pathlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from datasets.cropping import load_image
from datasets.onnx_detector import OnnxDetector
from datasets.person_boxes import foreground_parts, hull, match_detections, part_of_person
from datasets.raw_example import DetectionRule, RawExample
from datasets.raw_files import path_inside, read_json

PERSON_CATEGORY = 1  # of COCO
MIN_FOREGROUND = 128  # of a mask's 0..255

Finder = Callable[[RawExample], np.ndarray]  # the detections in the image of a person: [n, 5] x, y, width, height, score


def image_key(example: RawExample, raw_dir: pathlib.Path) -> str | None:
    """What results name an image by: the path of its file in the raw folder; of a frame of a video, SOURCE#FRAME. None
    where the adapter does not tell."""
    if not isinstance(example.image, np.ndarray):
        return pathlib.Path(os.path.relpath(example.image, raw_dir)).as_posix()
    source, frame = example.provenance.get("source"), example.provenance.get("frame")
    return None if source is None or frame is None else f"{source}#{frame}"


# ----------------------------------------------------------------------------------------------------------- detections


def index_detections(path: pathlib.Path, database: pathlib.Path, rule: DetectionRule) -> None:
    """Copies the people of a COCO result file into a database that many processes can look into without reading it all.

    Raises: FileNotFoundError; ValueError naming file and entry; OSError if the database cannot be written.
    """
    database.unlink(missing_ok=True)
    try:
        # Only this process writes, and what is half written is never read: neither locks nor a journal are needed.
        with contextlib.closing(_connect(database, "nolock=1")) as connection:
            connection.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; CREATE TABLE detections "
                                     "(image TEXT, x REAL, y REAL, width REAL, height REAL, score REAL)")
            num_people = _copy_people(path, connection, rule)
            connection.execute("CREATE INDEX by_image ON detections (image)")
            connection.commit()
    except sqlite3.Error as error:
        raise OSError(f"{database} cannot be written ({error})") from error
    if not num_people:
        raise ValueError(f"{path} has no detection of a person (category_id {PERSON_CATEGORY})")


def _copy_people(path: pathlib.Path, connection: sqlite3.Connection, rule: DetectionRule) -> int:
    num_entries = num_people = 0

    def copy(table: dict) -> dict | None:
        """Takes each entry away as soon as it is parsed: millions of tables would need gigabytes."""
        nonlocal num_entries, num_people
        if "bbox" not in table:
            return table
        where = f"{path}: entry {num_entries}"
        num_entries += 1
        if table.get("category_id", PERSON_CATEGORY) == PERSON_CATEGORY:
            row = _row(table, rule, where)
            connection.execute("INSERT INTO detections VALUES (?, ?, ?, ?, ?, ?)", row)
            num_people += 1
        return None

    content = read_json(path, "--detections expects a result file in COCO's format.", object_hook=copy)
    if not isinstance(content, list) or any(content):
        raise ValueError(f"{path} is not a COCO result file: expected a list of tables with file_name or image_id, bbox "
                         "and score")
    return num_people


def _row(table: dict, rule: DetectionRule, where: str) -> tuple:
    """Image, box (px counted from the centre of pixel (0, 0), COCO's from its corner) and score."""
    image = table.get("file_name", table.get("image_id"))
    if isinstance(image, str) and image:
        image = pathlib.PurePosixPath(image.replace("\\", "/")).as_posix()
    elif type(image) is not int:
        raise ValueError(f"{where}: expected a file_name or an image_id, got {image!r:.200}")
    elif rule.image_id is None:
        raise ValueError(f"{where}: image_id is the number {image}, but the images of this data set have no numbers; give "
                         "each entry a file_name, the path of its image in the raw folder")
    try:
        x, y, width, height, score = np.array([*table["bbox"], table["score"]], np.float64).tolist()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected bbox (x, y, width, height) and score; problem: {error!r:.200}") from error
    if not np.isfinite([x, y, width, height, score]).all() or width < 0 or height < 0:
        raise ValueError(f"{where}: bbox is {table['bbox']}, score {score}; expected finite numbers, no negative size")
    return str(image), x - 0.5, y - 0.5, width, height, score


@contextlib.contextmanager
def open_detections(database: pathlib.Path, raw_dir: pathlib.Path, rule: DetectionRule) -> Iterator[Finder]:
    """Looks detections up, in the order of the file.

    Raises: FileNotFoundError if the database is not there any more.
    """
    database.stat()
    with contextlib.closing(_connect(database, "mode=ro&immutable=1")) as connection:
        def find(person: RawExample) -> np.ndarray:
            key = image_key(person, raw_dir)
            names = [] if key is None else [key]
            if rule.image_id is not None and rule.image_id in person.provenance:
                names.append(str(person.provenance[rule.image_id]))
            rows = connection.execute("SELECT x, y, width, height, score FROM detections WHERE image IN "
                                      f"({', '.join('?' * len(names))}) ORDER BY rowid", names).fetchall()
            return np.array(rows, np.float64).reshape(-1, 5)

        yield find


def _connect(database: pathlib.Path, options: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.absolute().as_uri()}?{options}", uri=True)


def run_detector(path: pathlib.Path, rule: DetectionRule) -> Finder:
    """Finds people by an ONNX network, see `OnnxDetector`. Raises: ValueError naming the file if it cannot be used."""
    detector = _load_detector(path, path.stat().st_mtime_ns, rule.min_score)
    return lambda person: detector(load_image(person.image))


@functools.lru_cache(maxsize=1)  # a process makes one shard after the other
def _load_detector(path: pathlib.Path, _mtime_ns: int, min_score: float) -> OnnxDetector:
    return OnnxDetector(path, min_score)


def assign_detections(items: Iterable[Any], raw_dir: pathlib.Path, rule: DetectionRule, find: Finder,
                      counts: collections.Counter) -> Iterator[Any]:
    """Replaces the boxes of people by those of detections, by the rule of their data set.

    Args:
        items: what an adapter yields; anything but a `RawExample` is passed on.
        raw_dir: the raw folder.
        rule: of the adapter.
        find: of `open_detections` or `run_detector`; called once per image.
        counts: gets the numbers of images, images with detections, people, and people matched and dropped.
    """
    group: list[RawExample] = []
    group_key = None
    try:
        for item in items:
            if not isinstance(item, RawExample):
                yield item
                continue
            key = image_key(item, raw_dir)
            is_same_image = key == group_key and (key is not None or (group and item.image is group[-1].image))
            if group and not is_same_image:
                yield from _match_image(group, rule, find, counts)
                group = []
            group.append(item)
            group_key = key
    except Exception:  # the adapter has given up, but these people it had read
        yield from _match_image(group, rule, find, counts)
        raise
    yield from _match_image(group, rule, find, counts)


def _match_image(people: list[RawExample], rule: DetectionRule, find: Finder, counts) -> Iterator[RawExample]:
    """The people of one image with their new boxes."""
    if not people:
        return
    try:
        found = find(people[0])
    except ValueError:  # the image is unreadable, and whoever crops it says so
        yield from people
        return
    detections = found[found[:, 4] >= rule.min_score, :4]
    # A box of a wrong form matches nothing, and whoever crops it says what is wrong with it.
    boxes = np.array([box if np.shape(box) == (4,) else [np.nan] * 4 for box in (person.bbox for person in people)], np.float64)
    counts.update(images=1, images_with_detections=int(len(found) > 0), people=len(people))
    matches = match_detections(np.concatenate([boxes, people[0].bystanders]), detections, rule.min_iou)
    for person, box, match in zip(people, boxes, matches[:len(people)], strict=True):
        if match >= 0 and detections[match, 2:].prod() <= rule.max_area_ratio * box[2:].prod():
            counts["people_matched"] += 1
            bbox = detections[match] if rule.take == "detection" else hull(detections[match], box)
            yield dataclasses.replace(person, bbox=bbox)
        elif rule.unmatched == "keep":
            yield person
        else:
            counts["people_dropped"] += 1


# ---------------------------------------------------------------------------------------------------------------- masks


def add_mask(example: RawExample, masks: pathlib.Path, raw_dir: pathlib.Path, counts: collections.Counter) -> RawExample:
    """Gives a person without a mask the one in MASKS/KEY.png, KEY as of `image_key`: its connected part (by edges) whose
    box overlaps most with the person's. A person whose image has no such file, or no part near the box, gets none.

    Raises: ValueError naming a file that is unreadable or of another size than the image.
    """
    key = image_key(example, raw_dir)
    if example.mask is not None or key is None:
        return example
    path = path_inside(masks, f"{key}.png", "mask")
    counts["people_without_mask"] += 1
    if not path.is_file():
        return example
    height, width = load_image(example.image).shape[:2]
    labels, boxes = _parts(path, path.stat().st_mtime_ns)
    if labels.shape != (height, width):
        raise ValueError(f"mask {path} has {labels.shape[1]} x {labels.shape[0]} px, its image {width} x {height} px")
    mask = part_of_person(labels, boxes, example.bbox)
    if mask is None:
        return example
    counts["masks_added"] += 1
    return dataclasses.replace(example, mask=mask)


@functools.lru_cache(maxsize=1)  # the people of one image usually follow one another
def _parts(path: pathlib.Path, _mtime_ns: int) -> tuple[np.ndarray, np.ndarray]:
    """As `foreground_parts`."""
    mask = cv2.imread(os.fspath(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ValueError(f"mask {path} cannot be decoded: it is truncated, damaged or not an image")
    return foreground_parts(mask >= MIN_FOREGROUND)
