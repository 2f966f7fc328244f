"""The CDF reader against files put together record by record, and against NASA's own layout as cdflib writes it."""

import random
import struct
import zlib

import numpy as np
import pytest

from datasets.readers.cdf import read_cdf
from tests.datasets.readers.cdf_files import IBM_PC, SUN, make_cdf

POSE = np.random.default_rng(0).normal(0, 1000, (1, 7, 96)).astype(np.float32)  # as in Human3.6M: one record
SERIES = np.arange(30.0).reshape(5, 2, 3)  # five records


def write(folder, content):
    path = folder / "Walking 1.cdf"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("encoding", [IBM_PC, SUN])
@pytest.mark.parametrize("row_major", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
def test_variables_come_back(tmp_path, version, encoding, row_major, compressed):
    path = write(tmp_path, make_cdf({"Other": np.arange(4, dtype=np.int32), "Pose": POSE, "Series": SERIES}, version, encoding,
                                    row_major, compressed, block_records=2))
    for name, expected in (("Other", np.arange(4)), ("Pose", POSE), ("Series", SERIES)):
        found = read_cdf(path, name)
        np.testing.assert_array_equal(found, expected)
    assert read_cdf(path, "Pose").dtype == np.float32 and read_cdf(path, "Series").dtype == np.float64


def test_variables_with_the_axes_of_the_file(tmp_path):
    path = write(tmp_path, make_cdf({"Pose": POSE}, record_type=3))
    np.testing.assert_array_equal(read_cdf(path, "Pose"), POSE)


def test_axes_that_do_not_vary_are_not_stored(tmp_path):
    content = bytearray(make_cdf({"Series": SERIES[:, :1]}))  # [5, 1, 3]
    sizes = content.index(b"Series\0") + 256 + 4
    struct.pack_into(">4i", content, sizes, 9, 3, 0, -1)  # the first axis states 9, and does not vary
    np.testing.assert_array_equal(read_cdf(write(tmp_path, content), "Series"), SERIES[:, 0])


def test_a_file_compressed_as_a_whole(tmp_path):
    plain = make_cdf({"Pose": POSE})
    zipped = zlib.compress(plain[8:], wbits=31)
    record = struct.pack(">qiqqi", 32 + len(zipped), 10, 0, len(plain) - 8, 0) + zipped
    path = write(tmp_path, plain[:4] + bytes.fromhex("cccc0001") + record)
    np.testing.assert_array_equal(read_cdf(path, "Pose"), POSE)


@pytest.mark.parametrize("compress", [0, 6])
@pytest.mark.parametrize("settings", [{}, {"Compressed": 6}, {"Encoding": 2}, {"Majority": "column_major"}])
def test_files_of_cdflib(tmp_path, settings, compress):
    cdflib = pytest.importorskip("cdflib", reason="cdflib, which writes the files, is not installed")
    file = cdflib.cdfwrite.CDF(str(tmp_path / "a.cdf"), cdf_spec=dict(settings))
    file.write_var({"Variable": "Pose", "Data_Type": file.CDF_REAL4, "Num_Elements": 1, "Rec_Vary": True,
                    "Var_Type": "zVariable", "Dim_Sizes": [7, 96], "Compress": compress}, var_data=POSE)
    file.close()
    np.testing.assert_array_equal(read_cdf(tmp_path / "a.cdf", "Pose"), cdflib.CDF(tmp_path / "a.cdf").varget("Pose"))


def test_broken_files_are_explained(tmp_path):
    content = make_cdf({"Pose": POSE, "Series": SERIES}, block_records=1)
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=r"Walking 1\.cdf cannot be .* it has no variable Poses, only Pose, Series"):
        read_cdf(path, "Poses")
    with pytest.raises(FileNotFoundError, match=r"b\.cdf is missing\. Get it there\."):
        read_cdf(tmp_path / "b.cdf", "Pose", "Get it there.")
    with pytest.raises(ValueError, match=r"it begins with 7a697020"):
        read_cdf(write(tmp_path, b"zip " * 100), "Pose")
    variable = content.index(b"Pose\0") - 84  # version 3: 84 bytes of numbers before the name
    for at, number, reason in ((24, 2**31 - 1, r"2147483648 records of shape \(7, 96\)"), (20, 51, "data type 51"),
                               (48, 1, "sparse records 1"), (344, 2**31 - 1, r"shape \(2147483647, 96\)"),
                               (340, 2**31 - 1, "unpack_from")):
        changed = bytearray(content)
        struct.pack_into(">i", changed, variable + at, number)
        with pytest.raises(ValueError, match=rf"Walking 1\.cdf.*{reason}"):
            read_cdf(write(tmp_path, changed), "Pose")
    looped = bytearray(content)
    struct.pack_into(">q", looped, variable + 12, variable)  # the next variable is this one
    with pytest.raises(ValueError, match=r"comes twice"):
        read_cdf(write(tmp_path, looped), "Pose")


def test_mutated_files_are_read_or_named(tmp_path):
    generator = random.Random(0)
    for i in range(200):
        content = make_cdf({"Pose": POSE[:, :2], "Series": SERIES}, compressed=bool(i % 2), block_records=2)
        content = bytearray(content[:generator.randrange(1, 2 * len(content))])
        content[generator.randrange(len(content))] = generator.choice([0, 127, 255])
        try:
            read_cdf(write(tmp_path, content), "Series")
        except ValueError as error:
            assert "Walking 1.cdf cannot be read as a CDF file" in str(error)
