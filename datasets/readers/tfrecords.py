"""TFRecord files of `tf.train.Example` messages, read one record at a time."""

import itertools
import pathlib
import struct
from collections.abc import Iterator

import numpy as np

from datasets.readers.files import require_file
from posepile.data.tfrecord import FOOTER_BYTES, HEADER_BYTES, decode_example, masked_crc32c

MAX_RECORD_BYTES = 2**28  # 256 MB; one record is in memory at a time


def read_examples(path: pathlib.Path, hint: str = "") -> Iterator[dict[str, np.ndarray | list[bytes]] | ValueError]:
    """The messages of a file: names of features -> arrays of int64 or float32, or lists of bytes.

    Yields: them; a ValueError naming file and offset in place of a record whose content is damaged.
    Raises: FileNotFoundError followed by `hint`; ValueError naming file and offset where a record's length is damaged or the
        file is empty or ends too early: where the next record begins is not known then.
    """
    path = require_file(path, hint)
    if not (size := path.stat().st_size):  # which no writer leaves behind
        raise ValueError(f"{path} is empty. Fetch the file anew.")
    with path.open("rb") as file:
        for index in itertools.count():
            where = f"{path}: record {index} at byte {file.tell()}"
            header = file.read(HEADER_BYTES)
            if not header:
                return
            length, length_crc = struct.unpack("<QI", header) if len(header) == HEADER_BYTES else (size, -1)
            if file.tell() + length + FOOTER_BYTES > size or masked_crc32c(header[:8]) != length_crc:
                raise ValueError(f"{where}: the file ends inside of it, or its length is damaged. Fetch the file anew.")
            if length > MAX_RECORD_BYTES:
                raise ValueError(f"{where} has {length} bytes; expected {MAX_RECORD_BYTES} or fewer")
            payload, footer = file.read(length), file.read(FOOTER_BYTES)
            if struct.pack("<I", masked_crc32c(payload)) != footer:
                yield ValueError(f"{where}: its content does not fit its checksum. Fetch the file anew.")
                continue
            try:
                features = decode_example(payload, where)
            except ValueError as error:
                features = error
            yield features
