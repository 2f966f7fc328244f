"""Example records, and prepared data sets: TFRecord shards with an index of byte offsets and a manifest.

    DATA_ROOT/NAME/SPLIT-NNNNN-of-NNNNN.tfrecord    the records
    DATA_ROOT/NAME/SPLIT.index.npy                  [num_examples, 3] int64: shard, byte offset, bytes
    DATA_ROOT/NAME/manifest.json                    skeleton, counts, checksums; written last: without it nothing is
    prepared

Every file appears under its final name only when it is complete.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from posepile.data import tfrecord
from posepile.geometry.skeleton import Skeleton, skeleton_from_dict

SPLITS = ("train", "validation", "test")
MANIFEST_NAME = "manifest.json"


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
    """

    image: bytes
    intrinsics: np.ndarray
    world_to_camera: np.ndarray
    bbox: np.ndarray
    joints3d: np.ndarray | None = None
    joints2d: np.ndarray | None = None
    mask_rle: np.ndarray | None = None
    provenance: dict = dataclasses.field(default_factory=dict)

    def decode_image(self, where: str = "example") -> np.ndarray:
        """[height, width, 3] uint8 RGB. Raises: CorruptRecordError if the JPEG cannot be decoded."""
        image = cv2.imdecode(np.frombuffer(self.image, np.uint8), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise tfrecord.CorruptRecordError(f"{where}: the image cannot be decoded")
        return image


def encode_mask(mask: np.ndarray) -> np.ndarray:
    """[height, width] bool -> int64 run lengths in row order; the first run is background and may be empty."""
    flat = np.concatenate([[False], np.ravel(mask).astype(bool)])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [flat.size - 1]]))


def decode_mask(run_lengths: np.ndarray, height: int, width: int) -> np.ndarray:
    """The inverse of `encode_mask`: [height, width] bool. Raises: ValueError if the runs do not fill the image."""
    if np.sum(run_lengths) != height * width:
        raise ValueError(f"mask runs sum to {np.sum(run_lengths)}, not to {height} x {width} px")
    values = np.arange(len(run_lengths)) % 2 == 1
    return np.repeat(values, run_lengths).reshape(height, width)


def serialize_example(example: Example) -> bytes:
    """A `tf.train.Example` of the record; equal records give equal bytes."""
    features = {
        "image": example.image,
        "intrinsics": np.float32(example.intrinsics),
        "world_to_camera": np.float32(example.world_to_camera),
        "bbox": np.float32(example.bbox),
        "provenance": json.dumps(example.provenance, sort_keys=True).encode(),
    }
    if example.joints3d is not None:
        features["joints3d"] = np.float32(example.joints3d)
    if example.joints2d is not None:
        features["joints2d"] = np.float32(example.joints2d)
    if example.mask_rle is not None:
        features["mask_rle"] = np.int64(example.mask_rle)
    return tfrecord.encode_example(features)


def parse_example(payload: bytes, num_joints: int, where: str) -> Example:
    """Reads what `serialize_example` wrote. Raises: CorruptRecordError naming the missing or misshapen field."""
    features = tfrecord.decode_example(payload, where)

    def refuse(name, expected):
        value = features[name]
        found = f"{value.size} numbers" if isinstance(value, np.ndarray) else f"{len(value)} byte strings"
        raise tfrecord.CorruptRecordError(f"{where}: field {name} has {found}, expected {expected}")

    def numbers(name, shape, dtype=np.float32):
        value = features.get(name)
        if value is None:
            return None
        if not isinstance(value, np.ndarray) or (-1 not in shape and value.size != math.prod(shape)):
            refuse(name, f"shape {list(shape)}")
        return value.astype(dtype, copy=False).reshape(shape)

    def byte_string(name):
        value = features[name]
        if isinstance(value, np.ndarray) or len(value) != 1:
            refuse(name, "one byte string")
        return value[0]

    required = ("image", "intrinsics", "world_to_camera", "bbox")
    if missing := [name for name in required if name not in features]:
        raise tfrecord.CorruptRecordError(f"{where}: the record lacks {', '.join(missing)}")
    joints3d, joints2d = numbers("joints3d", (num_joints, 3)), numbers("joints2d", (num_joints, 2))
    if joints3d is None and joints2d is None:
        raise tfrecord.CorruptRecordError(f"{where}: the record has neither joints3d nor joints2d")
    try:
        provenance = json.loads(byte_string("provenance").decode()) if "provenance" in features else {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise tfrecord.CorruptRecordError(f"{where}: field provenance is not JSON ({error})") from error
    return Example(
        image=byte_string("image"), intrinsics=numbers("intrinsics", (3, 3)),
        world_to_camera=numbers("world_to_camera", (4, 4)), bbox=numbers("bbox", (4,)),
        joints3d=joints3d, joints2d=joints2d, mask_rle=numbers("mask_rle", (-1,), np.int64), provenance=provenance)


@contextlib.contextmanager
def atomic_file(path: pathlib.Path, mode: str = "wb") -> Iterator:
    """Opens a temporary file beside `path` that takes its name on success and vanishes on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: pathlib.Path, content) -> None:
    """Writes JSON atomically."""
    with atomic_file(path, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


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
            num_bytes = length + tfrecord.HEADER_BYTES + tfrecord.FOOTER_BYTES
            if offset + num_bytes > size:
                raise tfrecord.CorruptRecordError(f"{path} at byte {offset}: the file ends inside a record")
            entries.append((offset, num_bytes))
            offset += num_bytes
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return np.array(entries, np.int64).reshape(-1, 2), digest


class PreparedDataset:
    """Random access to the examples of a prepared data set.

    Attributes:
        name: of the data set.
        manifest: the content of manifest.json.
        skeleton: the format of its labels.
        kind: "3d" or "2d".
    """

    def __init__(self, folder: pathlib.Path | str):
        """Raises: FileNotFoundError if it is not prepared, naming the command that prepares it."""
        self.folder = pathlib.Path(folder)
        path = self.folder / MANIFEST_NAME
        if not path.is_file():
            raise FileNotFoundError(f"data set {self.folder.name} is not prepared: {path} is missing. Run `python -m "
                                    f"datasets prepare {self.folder.name} --data-root={self.folder.parent}`.")
        try:
            self.manifest = json.loads(path.read_text())
            self.skeleton: Skeleton = skeleton_from_dict(self.manifest["skeleton"])
            self.kind: str = self.manifest["kind"]
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{path} is not a manifest of a prepared data set ({error}); prepare it again") from error
        self.name: str = self.manifest["name"]
        self._descriptors: dict[tuple[str, int], int] = {}

    def splits(self) -> list[str]:
        return [split for split in SPLITS if split in self.manifest["splits"]]

    def num_examples(self, split: str) -> int:
        """Raises: ValueError listing the splits there are."""
        if split not in self.manifest["splits"]:
            raise ValueError(f"data set {self.name} in {self.folder} has no {split} split; "
                             f"it has: {', '.join(self.splits())}")
        return self.manifest["splits"][split]["num_examples"]

    @functools.cache  # noqa: B019 - one small object per data set lives as long as the process
    def index(self, split: str) -> np.ndarray:
        """[num_examples, 3] int64, memory-mapped: shard, byte offset, bytes."""
        self.num_examples(split)
        return np.asarray(np.load(index_path(self.folder, split), mmap_mode="r"))

    def where(self, split: str, position: int) -> str:
        """File and byte offset of an example, for messages."""
        shard, offset, _ = self.index(split)[position].tolist()
        return f"{self._shard_path(split, shard)} at byte {offset}"

    def read(self, split: str, position: int) -> Example:
        """The example at a position of the split. Raises: CorruptRecordError naming file and offset."""
        shard, offset, num_bytes = self.index(split)[position].tolist()
        path = self._shard_path(split, shard)
        if (split, shard) not in self._descriptors:
            self._descriptors[split, shard] = os.open(path, os.O_RDONLY)
        where = f"{path} at byte {offset}"
        data = os.pread(self._descriptors[split, shard], num_bytes, offset)
        return parse_example(tfrecord.unframe_record(data, where), self.skeleton.num_joints, where)

    @functools.cache  # noqa: B019 - paths are slow to build, and there are few
    def _shard_path(self, split: str, shard: int) -> str:
        return str(shard_path(self.folder, split, shard, len(self.manifest["splits"][split]["shards"])))

    def __getstate__(self):
        return {"folder": self.folder}

    def __setstate__(self, state):
        self.__init__(state["folder"])
