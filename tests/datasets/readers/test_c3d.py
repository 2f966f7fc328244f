"""The C3D reader against files put together byte by byte, in all number formats of the format."""

import random
import struct

import numpy as np
import pytest

from datasets.readers.c3d import read_c3d
from tests.datasets.readers.c3d_files import DEC, INTEL, MIPS, make_c3d, to_dec

POINTS_MM = np.array([[[100.0, -200.0, 3.0], [1.5, 2.5, -3.5]],
                      [[101.0, -201.0, 4.0], [np.nan, np.nan, np.nan]],
                      [[102.0, -202.0, 5.0], [2.5, 3.5, -4.5]]])
LABELS = ("PELV", "HEAD")


def write(folder, content):
    path = folder / "p1_grab_3_vm.c3d"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("processor", [INTEL, DEC, MIPS])
@pytest.mark.parametrize("scale", [-1.0, 0.5])
@pytest.mark.parametrize("num_analog", [0, 3])
def test_all_number_formats(tmp_path, processor, scale, num_analog):
    motion = read_c3d(write(tmp_path, make_c3d(POINTS_MM, LABELS, processor, scale, num_analog=num_analog)))
    np.testing.assert_array_equal(motion.points, POINTS_MM)
    assert motion.points.dtype == np.float64 and motion.labels == ("PELV", "HEAD") and motion.rate == 100.0


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("cm", 10), ("m", 1000), ("M", 1000), (None, 1)])
def test_units_become_mm(tmp_path, unit, factor):
    motion = read_c3d(write(tmp_path, make_c3d(POINTS_MM, LABELS, unit=unit)))
    np.testing.assert_allclose(motion.points[0], POINTS_MM[0] * factor, rtol=1e-15)


def test_dec_numbers():
    assert to_dec(1.0) == bytes([0x80, 0x40, 0, 0]) and to_dec(-1.5) == bytes([0xC0, 0xC0, 0, 0])  # as in the VAX handbook


def test_labels_and_frame_numbers(tmp_path):
    assert read_c3d(write(tmp_path, make_c3d(POINTS_MM, labels=("PELV",)))).labels == ("PELV", "")
    assert read_c3d(write(tmp_path, make_c3d(POINTS_MM, labels=()))).labels == ("", "")
    assert len(read_c3d(write(tmp_path, make_c3d(POINTS_MM, LABELS, first=101, last=103))).points) == 3
    many = np.zeros((70_000, 1, 3))  # more frames than 16 bits count: the header stops short, the trial has 2 x 16 bits
    long_trial = (("ACTUAL_START_FIELD", 2, [2], struct.pack("<HH", 1, 0)),
                  ("ACTUAL_END_FIELD", 2, [2], struct.pack("<HH", 70_000 % 65536, 1)))
    path = write(tmp_path, make_c3d(many, ("a",), scale=1.0, last=65535, parameters=long_trial))
    assert len(read_c3d(path).points) == 70_000


WHOLE = make_c3d(POINTS_MM, LABELS)


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "does not begin"), (b"\x02\x51" + bytes(2000), "does not begin"), (WHOLE[:-1], "states 3 frames of 2 points"),
    (WHOLE[:600], "has 0 bytes for them"), (WHOLE[:590], "unpack_from requires")])
def test_cut_files_are_explained(tmp_path, content, reason):
    with pytest.raises(ValueError, match=rf"p1_grab_3_vm\.c3d cannot be read as a C3D file: .*{reason}"):
        read_c3d(write(tmp_path, content))


@pytest.mark.parametrize(("changes", "reason"), [
    ({"processor": 87}, "processor type 87"), ({"unit": "in"}, "unit 'in'"), ({"last": 60_000}, "states 60000 frames"),
    ({"scale": float("nan")}, "scale nan"), ({"num_analog": 1, "analog": 60_000}, "60000 analog values")])
def test_wrong_statements_are_explained(tmp_path, changes, reason):
    with pytest.raises(ValueError, match=rf"p1_grab_3_vm\.c3d cannot be read as a C3D file: .*{reason}"):
        read_c3d(write(tmp_path, make_c3d(POINTS_MM, LABELS, **changes)))


def test_mutated_files_are_read_or_named(tmp_path):
    generator = random.Random(0)
    for i in range(300):
        content = bytearray(make_c3d(POINTS_MM, LABELS, scale=-1.0 if i % 2 else 0.5)[:generator.randrange(1, 3000)])
        content[generator.randrange(len(content))] = generator.randrange(256)
        try:
            read_c3d(write(tmp_path, content))
        except ValueError as error:
            assert "p1_grab_3_vm.c3d" in str(error)
    with pytest.raises(FileNotFoundError, match=r"b\.c3d is missing\. Get it there\."):
        read_c3d(tmp_path / "b.c3d", "Get it there.")
