"""The pictures that augmentation pastes into training crops: occluders before people, backgrounds behind them.

They come from folders of the user's, or are drawn, so that nothing has to be downloaded. Either way they are the same
in every process and on every machine.
"""

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable

import cv2
import numpy as np

from posepile.data.procedural_objects import OBJECTS, draw_occluder
from posepile.data.procedural_scenes import SCENES, draw_background
from posepile.data.sampling import evenly_spread

MAX_OCCLUDERS = 256
MAX_BACKGROUNDS = 256  # 79 MB for crops of 256 px
NUM_DRAWN_OCCLUDERS = 3 * len(OBJECTS)
NUM_DRAWN_BACKGROUNDS = 3 * len(SCENES)

_OCCLUDER_SUFFIXES = (".png", ".webp")
_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_MIN_ALPHA = 16  # of 255; fainter pixels, such as those of a shadow, are not the object
_MAX_PIXELS = 2**27  # 400 MB while one is decoded
_NUM_THREADS = 4
_NUM_LEVELS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """What is pasted into crops. The arrays cannot be written to.

    Attributes:
        occluders: [height, width, 4] uint8 RGBA each, the colours premultiplied by alpha; the longer side is half of
            the crop's.
        backgrounds: [n, side, side, 3] uint8 RGB, a quarter larger than the crop.
    """

    occluders: tuple[np.ndarray, ...]
    backgrounds: np.ndarray

    def __post_init__(self):
        for array in (*self.occluders, self.backgrounds):
            array.flags.writeable = False

    @functools.cached_property
    def occluder_pyramids(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """Per occluder its picture at full size, half, a quarter and an eighth."""
        return tuple(tuple(occluder if level == 0 else cv2.resize(
            occluder, tuple(max(1, length >> level) for length in occluder.shape[1::-1]), interpolation=cv2.INTER_AREA)
            for level in range(_NUM_LEVELS)) for occluder in self.occluders)


def load_pictures(crop_side: int, occluder_dir: str | None = None, background_dir: str | None = None) -> Pictures:
    """Loads or draws the pictures for crops of one size; again for the same arguments, returns the same ones.

    Args:
        crop_side: px.
        occluder_dir: a folder, searched with its subfolders, of segmented objects: PNG or WebP files, transparent
            where the object is not. At most MAX_OCCLUDERS of them are taken, evenly spread over the sorted paths.
            None or empty: drawn objects.
        background_dir: the same for photos (JPEG, PNG, WebP), at most MAX_BACKGROUNDS, of which the largest centred
            square is taken. None or empty: drawn scenes.

    Raises: ValueError naming the folder or file, if it is missing, empty, unreadable, enormous, or not what it should
        be.
    """
    return _load_pictures(crop_side, occluder_dir or None, background_dir or None)


@functools.lru_cache(maxsize=4)
def _load_pictures(crop_side, occluder_dir, background_dir):
    occluder_side, background_side = crop_side // 2, crop_side * 5 // 4
    occluders = _draw_occluders(occluder_side) if occluder_dir is None else _load_files(
        occluder_dir, _OCCLUDER_SUFFIXES, MAX_OCCLUDERS, lambda path: _load_occluder(path, occluder_side))
    backgrounds = _draw_backgrounds(background_side) if background_dir is None else np.stack(_load_files(
        background_dir, _PHOTO_SUFFIXES, MAX_BACKGROUNDS, lambda path: _load_background(path, background_side)))
    return Pictures(tuple(occluders), backgrounds)


@functools.lru_cache(maxsize=4)
def _draw_occluders(longer_side):
    return [draw_occluder(index, longer_side) for index in range(NUM_DRAWN_OCCLUDERS)]


@functools.lru_cache(maxsize=4)
def _draw_backgrounds(side):
    return np.stack([draw_background(index, side) for index in range(NUM_DRAWN_BACKGROUNDS)])


def _load_files(folder: str, suffixes: tuple[str, ...], max_files: int,
                load: Callable[[pathlib.Path], np.ndarray]) -> list[np.ndarray]:
    """Loads files evenly spread over the sorted paths; none but these are opened."""
    paths = _list_files(folder, suffixes)
    chosen = [pathlib.Path(folder, paths[k]) for k in evenly_spread(len(paths), max_files)]
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(pool.map(load, chosen))


def _list_files(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Paths relative to the folder, sorted by code point, with slashes; hidden files are left out."""
    def refuse(error):
        raise ValueError(f"folder of pictures {folder}: {error.filename} cannot be listed ({error.strerror})") from error
    paths = sorted(pathlib.Path(parent, name).relative_to(folder).as_posix()
                   for parent, _, names in os.walk(folder, onerror=refuse) for name in names
                   if name.lower().endswith(suffixes) and not name.startswith("."))
    if not paths:
        raise ValueError(f"folder of pictures {folder} holds no file that ends with {', '.join(suffixes)}. Name another "
                         "folder, or none for drawn pictures.")
    return paths


def _load_occluder(path: pathlib.Path, longer_side: int) -> np.ndarray:
    data, _ = _read_file(path)
    image = _decode(path, data, cv2.IMREAD_UNCHANGED)
    if image.ndim != 3 or image.shape[2] != 4:
        raise ValueError(f"occluder {path} has no alpha channel; expected an object that is cut out: a picture that is "
                         "transparent where the object is not")
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    alpha = image[..., 3]
    if alpha.min() > 255 - _MIN_ALPHA:
        raise ValueError(f"occluder {path} is opaque all over; expected transparency where the object is not")
    x, y, width, height = cv2.boundingRect((alpha >= _MIN_ALPHA).astype(np.uint8))
    if not width:
        raise ValueError(f"occluder {path} is transparent all over; expected an object")
    image = cv2.cvtColor(image[y:y + height, x:x + width], cv2.COLOR_BGRA2RGBA)
    alpha = image[..., 3]
    premultiplied = cv2.multiply(image, cv2.merge([alpha, alpha, alpha, np.full_like(alpha, 255)]), scale=1 / 255)
    factor = longer_side / max(width, height)
    return _resize(premultiplied, max(1, round(factor * width)), max(1, round(factor * height)))


def _load_background(path: pathlib.Path, side: int) -> np.ndarray:
    data, size = _read_file(path)
    reduction = next((reduction for reduction in (8, 4, 2) if min(size) >= reduction * side), 1)
    # 16, 32 and 64 are OpenCV's IMREAD_REDUCED_*: faster for JPEGs.
    image = _decode(path, data, cv2.IMREAD_COLOR_RGB | (0 if reduction == 1 else 8 * reduction))
    height, width = image.shape[:2]
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    return _resize(image[top:top + square, left:left + square], side, side)


def _resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    is_enlarged = width > image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR if is_enlarged else cv2.INTER_AREA)


def _read_file(path: pathlib.Path) -> tuple[bytes, tuple[int, int]]:
    """The content of a picture file, and its height and width, which are checked before anything is decoded."""
    try:
        if not path.is_file():
            raise ValueError(f"picture {path} is not a file that can be read")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"picture {path} cannot be read ({error.strerror})") from error
    try:
        height, width = _stored_size(data)
    except ValueError as error:
        raise ValueError(f"picture {path} ({len(data)} bytes) is damaged, or no JPEG, PNG or WebP file") from error
    if height * width > _MAX_PIXELS:
        raise ValueError(f"picture {path} claims to have {width} x {height} px; at most {_MAX_PIXELS} px in all are read")
    return data, (height, width)


def _stored_size(data: bytes) -> tuple[int, int]:
    """Height and width by the header. Raises: ValueError if it is none of a JPEG, PNG or WebP file."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return int.from_bytes(data[20:24]), int.from_bytes(data[16:20])
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    raise ValueError("unknown signature")


def _webp_size(data):
    if data[12:16] == b"VP8X":  # extended: 24 bits each, less 1
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if data[12:16] == b"VP8L":  # lossless: 14 bits each, less 1, behind a signature
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14) % 2**14 + 1, bits % 2**14 + 1
    return int.from_bytes(data[28:30], "little") % 2**14, int.from_bytes(data[26:28], "little") % 2**14


def _jpeg_size(data):
    """Unlike `records.jpeg_size` for any JPEG, progressive ones and those with odd segments too."""
    offset = 2
    while offset + 9 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame; these are tables and extensions
            return int.from_bytes(data[offset + 5:offset + 7]), int.from_bytes(data[offset + 7:offset + 9])
        offset += 1 if marker == 0xFF else 2 + int.from_bytes(data[offset + 2:offset + 4])  # 0xFF may be repeated
    raise ValueError("no frame header")


def _decode(path: pathlib.Path, data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise ValueError(f"picture {path} ({len(data)} bytes) cannot be decoded: it is truncated or damaged. Fetch it "
                         "anew, or take it out of the folder.")
    return image
