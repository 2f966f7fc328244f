"""Example records, and prepared data sets: TFRecord shards with an index of byte offsets and a manifest.

    DATA_ROOT/NAME/SPLIT-NNNNN-of-NNNNN.tfrecord    the records
    DATA_ROOT/NAME/SPLIT.index.npy                  [num_examples, 3] int64: shard, byte offset, bytes
    DATA_ROOT/NAME/manifest.json                    skeleton, counts, checksums; written last: without it nothing is
    prepared

Every file appears under its final name only when it is complete.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import struct
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from posepile.data import tfrecord
from posepile.data.atomic_files import atomic_file
from posepile.data.open_files import OpenFiles
from posepile.data.tfrecord import CorruptRecordError
from posepile.geometry.skeleton import Skeleton, skeleton_from_dict

SPLITS = ("train", "validation", "test")
MANIFEST_NAME = "manifest.json"
# Bounds of what a record may claim. They lie far outside of what occurs: beyond them reading would take long, take much
# memory, or overflow float32 later on.
MAX_IMAGE_SIDE = 4096  # px
MAX_PX = 1e6  # of coordinates, box sides and focal lengths
MIN_PX = 1e-3  # of box sides and focal lengths
MAX_MM = 1e7  # of joint coordinates
MAX_PROVENANCE_BYTES = 1 << 16  # of JSON
MAX_PIXELS_PER_BYTE = 256  # of a baseline JPEG: a block of 8 x 8 px takes two Huffman codes, and so two bits or more
_MAX_JPEG_SEGMENTS = 64  # before the pixels; some 10 occur
# The segments that stand before the pixels of a baseline JPEG (ITU-T T.81, table B.1), except for the frame header: Huffman
# and quantisation tables, restart interval, application data, comment.
_JPEG_SEGMENTS = frozenset([0xFFC4, 0xFFDB, 0xFFDD, *range(0xFFE0, 0xFFF0), 0xFFFE])
_JPEG_FRAMES = (0xFFC0, 0xFFC1)  # baseline, and extended sequential
_JPEG_SCAN = 0xFFDA
_FRAME_BYTES = tfrecord.HEADER_BYTES + tfrecord.FOOTER_BYTES
_FLOAT32, _INT64 = np.dtype(np.float32), np.dtype(np.int64)
_INDEX_ROW = struct.Struct("<3q")  # shard, byte offset, bytes
# As numpy.save writes it. numpy's own parser takes headers for Python code, and fails on bad ones in any number of ways.
_INDEX_HEADER = re.compile(rb"\x93NUMPY\x01\x00..\{'descr': '<i8', 'fortran_order': False, 'shape': \((\d+), 3\), \} *\n",
                           re.DOTALL)
_MAX_INDEX_HEADER_BYTES = 512


@dataclasses.dataclass(frozen=True)
class Example:
    """One person in one image.

    Attributes:
        image: JPEG bytes of the person-centred, undistorted crop.
        intrinsics: [3, 3] float32 of the crop's pinhole camera, px.
        world_to_camera: [4, 4] float32, rigid, mm; the identity where no world is known.
        bbox: [4] float32: x, y, width, height of the person, px of the crop.
        joints3d: [num_joints, 3] float32, the crop camera's frame, mm; nan where there is no label. None: labelled in
            2D only.
        joints2d: [num_joints, 2] float32, px of the crop; nan where there is no label. None: labelled in 3D.
        mask_rle: run lengths of the person mask, see `encode_mask`; None where there is no mask.
        provenance: where it comes from: `subject`, `sequence`, `frame`, `camera`, `source` (file) as far as known.
        where: file and byte offset that it was read from, for messages.
    """

    image: bytes
    intrinsics: np.ndarray
    world_to_camera: np.ndarray
    bbox: np.ndarray
    joints3d: np.ndarray | None = None
    joints2d: np.ndarray | None = None
    mask_rle: np.ndarray | None = None
    provenance: dict = dataclasses.field(default_factory=dict)
    where: str = dataclasses.field(default="example", compare=False)

    def decode_image(self, reduction: int = 1) -> np.ndarray:
        """Decodes the crop.

        Args:
            reduction: 1, 2, 4 or 8: how many times smaller to decode it, which the decoder does by averaging, and faster.

        Returns: [height, width, 3] uint8 RGB.
        Raises: CorruptRecordError if it is not a whole baseline JPEG of at most MAX_IMAGE_SIDE px a side.
        """
        try:
            jpeg_size(self.image)
            if self.image[-2:] != b"\xff\xd9":
                raise ValueError("it is cut short")
            # OpenCV's flags IMREAD_REDUCED_* are 16, 32 and 64; a rotation in the metadata is none of the camera's.
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | reduction // 2 * 16
            image = cv2.imdecode(np.frombuffer(self.image, np.uint8), flags)
            if image is None:
                raise ValueError("it is broken")
        except (ValueError, cv2.error) as error:
            raise CorruptRecordError(f"{self.where}: the image cannot be decoded: {error}. {tfrecord.REPAIR_ADVICE}") from error
        return image


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) of a baseline JPEG, px, from its header alone.

    Raises: ValueError if it is no such JPEG, has a side above MAX_IMAGE_SIDE, claims more pixels than so many bytes can
        hold, or has several scans, each of which would cost the time of a whole image.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("it is not a JPEG")
    offset, size, num_components = 2, None, 0
    try:
        for _ in range(_MAX_JPEG_SEGMENTS):
            marker, length = struct.unpack_from(">HH", data, offset)
            if marker in _JPEG_FRAMES and size is None:
                *size, num_components = struct.unpack_from(">HHB", data, offset + 5)
            elif marker == _JPEG_SCAN and size is not None:
                if data[offset + 4] != num_components:
                    raise ValueError("it has several scans; expected a baseline JPEG with one")
                break
            elif marker not in _JPEG_SEGMENTS or length < 2:
                raise ValueError(f"unexpected bytes {marker:04x} {length:04x} in its header; expected a baseline JPEG")
            offset += 2 + length
        else:
            raise ValueError(f"its header has more than {_MAX_JPEG_SEGMENTS} segments")
    except (struct.error, IndexError):
        raise ValueError("it ends inside its header") from None
    height, width = size
    if not (1 <= height <= MAX_IMAGE_SIDE and 1 <= width <= MAX_IMAGE_SIDE):
        raise ValueError(f"it claims {width} x {height} px; expected 1 to {MAX_IMAGE_SIDE} a side")
    if height * width > MAX_PIXELS_PER_BYTE * len(data):
        raise ValueError(f"it claims {width} x {height} px, which {len(data)} bytes cannot hold")
    return height, width


def encode_mask(mask: np.ndarray) -> np.ndarray:
    """[height, width] bool -> int64 run lengths in row order; the first run is background and may be empty."""
    flat = np.concatenate([[False], np.ravel(mask).astype(bool)])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [flat.size - 1]]))


def decode_mask(run_lengths: np.ndarray, height: int, width: int, value: int | None = None) -> np.ndarray:
    """The inverse of `encode_mask`.

    Args:
        run_lengths: [num_runs] int64.
        height, width: of the mask, px.
        value: 1 to 255, of the foreground.

    Returns: [height, width] bool; with a `value` uint8, 0 in the background.
    Raises: ValueError if the runs do not fill the image.
    """
    # Negative runs are huge as unsigned numbers; if none exceeds the image, then the sum cannot overflow.
    if run_lengths.view(np.uint64).max(initial=0) > height * width or run_lengths.sum() != height * width:
        raise ValueError(f"mask runs sum to {run_lengths.sum(dtype=np.float64):.0f}, not to {height} x {width} px, or are "
                         "negative")
    values = np.zeros(len(run_lengths), bool if value is None else np.uint8)
    values[1::2] = True if value is None else value
    return np.repeat(values, run_lengths).reshape(height, width)


def serialize_example(example: Example) -> bytes:
    """A `tf.train.Example` of the record; equal records give equal bytes. Raises: ValueError if the provenance is too
    long."""
    provenance = json.dumps(example.provenance, sort_keys=True).encode()
    if len(provenance) > MAX_PROVENANCE_BYTES:
        raise ValueError(f"the provenance takes {len(provenance)} bytes as JSON; expected {MAX_PROVENANCE_BYTES} or fewer")
    features = {
        "image": example.image,
        "intrinsics": np.float32(example.intrinsics),
        "world_to_camera": np.float32(example.world_to_camera),
        "bbox": np.float32(example.bbox),
        "provenance": provenance,
    }
    if example.joints3d is not None:
        features["joints3d"] = np.float32(example.joints3d)
    if example.joints2d is not None:
        features["joints2d"] = np.float32(example.joints2d)
    if example.mask_rle is not None:
        features["mask_rle"] = np.int64(example.mask_rle)
    return tfrecord.encode_example(features)


def parse_example(payload: bytes, num_joints: int, where: str) -> Example:
    """Reads what `serialize_example` wrote.

    Raises: CorruptRecordError naming the field that is missing, misshapen, not finite, or beyond the bounds above.
    """
    features = tfrecord.decode_example(payload, where)
    for name in ("image", "intrinsics", "world_to_camera", "bbox"):
        if name not in features:
            raise CorruptRecordError(f"{where}: the record lacks {name}")
    joints3d = _array(features, "joints3d", (num_joints, 3), where)
    joints2d = _array(features, "joints2d", (num_joints, 2), where)
    if joints3d is None and joints2d is None:
        raise CorruptRecordError(f"{where}: the record has neither joints3d nor joints2d")
    for name, joints, bound in (("joints3d", joints3d, MAX_MM), ("joints2d", joints2d, MAX_PX)):
        if joints is not None and np.count_nonzero(np.abs(joints) > bound):  # not so for nan
            raise CorruptRecordError(f"{where}: field {name} goes up to {np.nanmax(np.abs(joints))}; "
                                     f"expected at most {bound:.0f}")
    intrinsics = _array(features, "intrinsics", (3, 3), where)
    world_to_camera = _array(features, "world_to_camera", (4, 4), where)
    bbox = _array(features, "bbox", (4,), where)
    # These comparisons are False for nan. Plain numbers: numpy would take several times as long.
    (fx, skew, cx), (lower, fy, cy), last_row = intrinsics.tolist()
    if not (MIN_PX <= fx <= MAX_PX and MIN_PX <= fy <= MAX_PX and abs(cx) <= MAX_PX and abs(cy) <= MAX_PX
            and abs(skew) <= MAX_PX and lower == 0 and last_row == [0, 0, 1]):
        raise CorruptRecordError(f"{where}: field intrinsics is {intrinsics.tolist()}; expected positive focal lengths, "
                                 f"0, 0, 1 as the last row, and nothing above {MAX_PX:.0f} px")
    x, y, width, height = bbox.tolist()
    if not (abs(x) <= MAX_PX and abs(y) <= MAX_PX and MIN_PX <= width <= MAX_PX and MIN_PX <= height <= MAX_PX):
        raise CorruptRecordError(f"{where}: field bbox is {bbox.tolist()}; expected a box of positive size, "
                                 f"nothing above {MAX_PX:.0f} px")
    if not all(map(math.isfinite, world_to_camera.ravel().tolist())):
        raise CorruptRecordError(f"{where}: field world_to_camera is not finite")
    return Example(image=_byte_string(features, "image", where), intrinsics=intrinsics, world_to_camera=world_to_camera,
                   bbox=bbox, joints3d=joints3d, joints2d=joints2d,
                   mask_rle=_array(features, "mask_rle", (-1,), where, _INT64),
                   provenance=_parse_provenance(features, where), where=where)


def _array(features: dict, name: str, shape: tuple[int, ...], where: str, dtype: np.dtype = _FLOAT32) -> np.ndarray | None:
    """A feature as an array; None if there is no such feature."""
    value = features.get(name)
    if value is None:
        return None
    try:
        if value.dtype == dtype:
            return value.reshape(shape)
    except (AttributeError, ValueError):
        pass
    raise CorruptRecordError(f"{where}: field {name} has {_describe(value)}, expected {dtype} of shape {list(shape)}")


def _byte_string(features: dict, name: str, where: str) -> bytes:
    value = features[name]
    if isinstance(value, np.ndarray) or len(value) != 1:
        raise CorruptRecordError(f"{where}: field {name} has {_describe(value)}, expected one byte string")
    return value[0]


def _describe(value: np.ndarray | list[bytes]) -> str:
    return f"{value.size} {value.dtype} numbers" if isinstance(value, np.ndarray) else f"{len(value)} byte strings"


def _parse_provenance(features: dict, where: str) -> dict:
    if "provenance" not in features:
        return {}
    text = _byte_string(features, "provenance", where)
    if len(text) > MAX_PROVENANCE_BYTES:
        raise CorruptRecordError(f"{where}: field provenance has {len(text)} bytes, expected at most {MAX_PROVENANCE_BYTES}")
    try:
        provenance = json.loads(text.decode())
        if not isinstance(provenance, dict):
            raise ValueError(f"got {type(provenance).__name__}")
    except (ValueError, RecursionError) as error:
        raise CorruptRecordError(f"{where}: field provenance is not a JSON object ({error})") from error
    return provenance


def shard_path(folder: pathlib.Path, split: str, shard: int, num_shards: int) -> pathlib.Path:
    return folder / f"{split}-{shard:05d}-of-{num_shards:05d}.tfrecord"


def index_path(folder: pathlib.Path, split: str) -> pathlib.Path:
    return folder / f"{split}.index.npy"


def write_shard(path: pathlib.Path, examples: Iterable[Example]) -> int:
    """Writes one shard atomically, record after record. Returns: the number of examples."""
    count = 0
    with atomic_file(path) as file:
        for example in examples:
            file.write(tfrecord.frame_record(serialize_example(example)))
            count += 1
    return count


def scan_shard(path: pathlib.Path) -> tuple[np.ndarray, str]:
    """Walks through a shard's record headers.

    Returns: [num_records, 2] int64 byte offset and size of every record, and the SHA-256 of the file.
    Raises: CorruptRecordError at a broken or truncated header.
    """
    entries, offset, size = [], 0, path.stat().st_size
    with open(path, "rb") as file:
        while offset < size:
            file.seek(offset)
            length = tfrecord.read_record_length(file.read(tfrecord.HEADER_BYTES), f"{path} at byte {offset}")
            num_bytes = length + _FRAME_BYTES
            if offset + num_bytes > size:
                raise CorruptRecordError(f"{path} at byte {offset}: the file ends inside a record")
            entries.append((offset, num_bytes))
            offset += num_bytes
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return np.array(entries, np.int64).reshape(-1, 2), digest


class PreparedDataset:
    """Random access to the examples of a prepared data set; any number of threads may read at once.

    Nothing is held in memory that grows with the number of examples.

    Attributes:
        folder: of the data set.
        name: of the data set.
        manifest: the content of manifest.json.
        skeleton: the format of its labels.
        kind: "3d" or "2d".
    """

    def __init__(self, folder: pathlib.Path | str):
        """Raises: FileNotFoundError if it is not prepared, naming the command that prepares it; ValueError if its
        manifest is broken."""
        self.folder = pathlib.Path(folder)
        self._prepare_command = f"python -m datasets prepare {self.folder.name} --data-root={self.folder.parent}"
        path = self.folder / MANIFEST_NAME
        if not path.is_file():
            raise FileNotFoundError(f"data set {self.folder.name} is not prepared: {path} is missing. Run "
                                    f"`{self._prepare_command}`.")
        try:
            self.manifest = json.loads(path.read_text())
            self.name: str = self.manifest["name"]
            self.skeleton: Skeleton = skeleton_from_dict(self.manifest["skeleton"])
            self.kind: str = self.manifest["kind"]
            self._split_files = {
                split: _SplitFiles(int(table["num_examples"]), str(index_path(self.folder, split)), tuple(
                    str(shard_path(self.folder, split, i, len(table["shards"]))) for i in range(len(table["shards"]))))
                for split, table in self.manifest["splits"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is not a manifest of a prepared data set ({error}); prepare it again") from error
        self._open_files = OpenFiles()
        self._index_starts: dict[str, int] = {}

    def splits(self) -> list[str]:
        return [split for split in SPLITS if split in self._split_files]

    def num_examples(self, split: str) -> int:
        """Raises: ValueError listing the splits there are."""
        return self._files(split).num_examples

    def check_files(self, splits: Sequence[str] | None = None) -> None:
        """Checks, without reading records, that the files of these splits are there; None: of all splits.

        Raises: FileNotFoundError naming the missing files; CorruptRecordError if an index does not fit the manifest.
        """
        splits = self.splits() if splits is None else splits
        present = set(os.listdir(self.folder))
        names = [os.path.basename(path) for split in splits
                 for path in (self._files(split).index, *self._files(split).shards)]
        if missing := [name for name in names if name not in present]:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise FileNotFoundError(f"data set {self.name}: {len(missing)} of {len(names)} files are missing in "
                                    f"{self.folder}: {shown}. `{self._prepare_command}` makes them anew.")
        for split in splits:
            self._index_start(split)

    def index(self, split: str) -> np.ndarray:
        """[num_examples, 3] int64, memory-mapped: shard, byte offset, bytes of all examples. Raises: as `read`."""
        start = self._index_start(split)
        files = self._files(split)
        return np.memmap(files.index, np.int64, "r", start, (files.num_examples, 3))

    def entries(self, split: str, positions: Iterable[int]) -> np.ndarray:
        """[n, 3] int64: shard, byte offset, bytes of the examples at these positions. Raises: as `read`."""
        return np.array([self._entry(split, position) for position in positions], np.int64).reshape(-1, 3)

    def where(self, split: str, position: int) -> str:
        """File and byte offset of an example, for messages. Raises: as `read`."""
        shard, offset, _ = self._entry(split, position)
        return f"{self._files(split).shards[shard]} at byte {offset}"

    def read(self, split: str, position: int) -> Example:
        """The example at a position of the split.

        Raises:
            CorruptRecordError: naming file, offset and reason.
            FileNotFoundError: the shard or the index has vanished.
            IndexError: there is no such position.
        """
        shard, offset, num_bytes = self._entry(split, position)
        path = self._files(split).shards[shard]
        where = f"{path} at byte {offset}"
        data = self._read_bytes(path, num_bytes, offset)
        if len(data) < num_bytes:
            raise CorruptRecordError(f"{where}: the file ends after {len(data)} of the record's {num_bytes} bytes. "
                                     f"{tfrecord.REPAIR_ADVICE}")
        return parse_example(tfrecord.unframe_record(data, where), self.skeleton.num_joints, where)

    def _files(self, split: str) -> "_SplitFiles":
        files = self._split_files.get(split)
        if files is None:
            raise ValueError(f"data set {self.name} in {self.folder} has no {split} split; "
                             f"it has: {', '.join(self.splits())}")
        return files

    def _entry(self, split: str, position: int) -> tuple[int, int, int]:
        """Shard, byte offset, bytes of an example."""
        files, position = self._files(split), int(position)
        if not 0 <= position < files.num_examples:
            raise IndexError(f"data set {self.name} has no {split} example {position}; it has {files.num_examples}")
        start = self._index_starts.get(split) or self._index_start(split)
        row = self._read_bytes(files.index, _INDEX_ROW.size, start + _INDEX_ROW.size * position)
        if len(row) < _INDEX_ROW.size:
            raise self._bad_index(files, f"the file ends before row {position}")
        shard, offset, num_bytes = entry = _INDEX_ROW.unpack(row)
        if not (0 <= shard < len(files.shards) and 0 <= offset < 1 << 62
                and _FRAME_BYTES <= num_bytes <= _FRAME_BYTES + tfrecord.MAX_RECORD_BYTES):
            raise self._bad_index(files, f"row {position} says shard {shard}, byte {offset}, {num_bytes} bytes; expected "
                                         f"one of {len(files.shards)} shards and {_FRAME_BYTES} to "
                                         f"{_FRAME_BYTES + tfrecord.MAX_RECORD_BYTES} bytes")
        return entry

    def _index_start(self, split: str) -> int:
        """The byte at which the rows of the index begin, after checking that there are as many as examples."""
        files = self._files(split)
        data = self._read_bytes(files.index, _MAX_INDEX_HEADER_BYTES, 0)
        num_bytes = os.stat(files.index).st_size
        header = _INDEX_HEADER.match(data)
        if (not header or int(header[1]) != files.num_examples
                or num_bytes != header.end() + _INDEX_ROW.size * files.num_examples):
            raise self._bad_index(files, f"it has {num_bytes} bytes and begins with {data[10:90]}; the manifest says "
                                         f"{files.num_examples} examples, so expected an int64 array of shape "
                                         f"[{files.num_examples}, 3] as written by numpy.save")
        self._index_starts[split] = header.end()
        return header.end()

    def _bad_index(self, files: "_SplitFiles", reason: str) -> CorruptRecordError:
        return CorruptRecordError(f"{files.index}: {reason}. Delete it and run `{self._prepare_command}`, which makes it anew.")

    def _read_bytes(self, path: str, num_bytes: int, offset: int) -> bytes:
        try:
            return self._open_files.read(path, num_bytes, offset)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing. `{self._prepare_command}` makes it anew.") from None
        except OSError as error:  # of reading, without a name
            raise OSError(error.errno, error.strerror, path) from error

    def __getstate__(self):
        return {"folder": self.folder}

    def __setstate__(self, state):
        self.__init__(state["folder"])


@dataclasses.dataclass(frozen=True)
class _SplitFiles:
    """Where one split of a prepared data set is stored: paths of the index and of the shards."""

    num_examples: int
    index: str
    shards: tuple[str, ...]
