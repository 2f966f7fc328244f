"""Damaged MATLAB files are refused before scipy reads them."""

import random
import struct

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from datasets.raw_files import read_mat
from datasets.readers.mat_elements import check_elements

VALUES = {"numbers": np.arange(12.0).reshape(3, 4), "complex": np.array([1 + 2j, 3]), "text": "walking",
          "empty": np.zeros((0, 3)), "sparse": scipy.sparse.csc_array(np.eye(4)), "struct": {"a": {"b": 1.0}, "c": "d"},
          "cells": np.array([np.eye(3), "x", np.array([{"d": 1}, {"d": 2}])], object)}


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_whole_files_pass(tmp_path, name, is_compressed):
    scipy.io.savemat(tmp_path / "a.mat", {name: VALUES[name]}, do_compression=is_compressed)
    check_elements(tmp_path / "a.mat")
    read_mat(tmp_path / "a.mat", name)


def test_other_versions_are_left_to_the_reader(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.eye(2)}, format="4")
    check_elements(tmp_path / "a.mat")
    (tmp_path / "short.mat").write_bytes(b"MATLAB")
    check_elements(tmp_path / "short.mat")


def damaged(tmp_path, name, position, value):
    scipy.io.savemat(tmp_path / "a.mat", {name: VALUES[name]}, do_compression=False)
    content = bytearray((tmp_path / "a.mat").read_bytes())
    content[position:position + len(value)] = value
    (tmp_path / "a.mat").write_bytes(content)
    return tmp_path / "a.mat"


# A file has its first matrix at byte 128, its flags at 136, its dimensions at 152, and so on.
@pytest.mark.parametrize(("name", "position", "value", "message"), [
    ("numbers", 128, b"\x7f", "byte 128: an element of type 127"),
    ("numbers", 136, b"\x7f", "byte 136: an element of type 127"),
    ("numbers", 132, struct.pack("<I", 2**31), "byte 128: an element of type 14 and 2147483648 bytes"),
    ("numbers", 160, struct.pack("<i", 10**9), "a matrix of 4000000000 values"),
    ("numbers", 160, struct.pack("<i", -3), "a matrix of -12 values"),
    ("numbers", 145, b"\x08", "with 4 parts; expected 5"),  # complex, without imaginary part
    ("numbers", 144, b"\x01", "a matrix of class 1 and 12 values, with 4 parts; expected 15"),  # cells, without any
    ("numbers", 144, b"\x11", "a matrix of class 17"),  # MATLAB's own objects
    ("cells", 144, b"\x06", "with 6 parts; expected 4"),
])
def test_damage_is_named_by_its_byte(tmp_path, name, position, value, message):
    path = damaged(tmp_path, name, position, value)
    with pytest.raises(ValueError, match=message):
        check_elements(path)
    with pytest.raises(ValueError, match=r"a\.mat cannot be read as a MATLAB 5 file: byte"):
        read_mat(path, name)


def test_cells_in_cells_have_an_end(tmp_path):
    cell = np.eye(2)
    for _ in range(60):
        outer = np.empty((1, 1), object)
        outer[0, 0] = cell
        cell = outer
    scipy.io.savemat(tmp_path / "a.mat", {"deep": cell})
    with pytest.raises(ValueError, match="cells in cells"):
        check_elements(tmp_path / "a.mat")


@pytest.mark.parametrize("name", VALUES)
def test_any_damage_is_refused_or_harmless(tmp_path, name):
    scipy.io.savemat(tmp_path / "a.mat", {name: VALUES[name]}, do_compression=False)
    content, rng = (tmp_path / "a.mat").read_bytes(), random.Random(name)
    for _ in range(60):
        broken = bytearray(content)
        for _ in range(rng.choice([1, 2, 6])):
            broken[rng.randrange(124, len(content))] = rng.choice([0, 1, 9, 14, 127, 255])
        (tmp_path / "b.mat").write_bytes(broken)
        try:
            read_mat(tmp_path / "b.mat", name)
        except ValueError as error:
            assert "b.mat" in str(error)
