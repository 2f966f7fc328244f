import struct

import numpy as np
import pytest

from datasets.readers.npy import read_npy


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.array([["a", "bc"]]), np.asfortranarray(np.eye(3)[:2]),
                                   np.array(7, ">i4")], ids=str)
def test_arrays_come_back(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    read = read_npy(tmp_path / "a.npy")
    assert read.dtype == array.dtype and not read.flags.writeable
    np.testing.assert_array_equal(read, array)


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "a.npy"
    with pytest.raises(FileNotFoundError, match=r"a\.npy is missing\. Get it there\."):
        read_npy(path, "Get it there.")
    np.save(path, np.zeros((100, 3)))
    whole = path.read_bytes()
    np.savez(tmp_path / "b.npz", np.zeros(3))
    for content in (b"", b"broken", whole[:60], whole[:-1], (tmp_path / "b.npz").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npy cannot be read as a \.npy file"):
            read_npy(path)


def test_a_header_that_claims_more_than_there_is(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3), }\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(240))
    with pytest.raises(ValueError, match=r"a\.npy cannot be read as a \.npy file"):
        read_npy(tmp_path / "a.npy")


def test_objects_are_refused_before_they_are_made(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    np.save(tmp_path / "a.npy", np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read as a \.npy file: .*object"):
        read_npy(tmp_path / "a.npy")
    assert not (tmp_path / "sprung").exists()
