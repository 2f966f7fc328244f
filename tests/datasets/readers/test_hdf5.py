"""HDF5 readers against files laid out as MATLAB 7.3 writes them: axes the other way round, cells as references."""

import random

import h5py
import numpy as np
import pytest

from datasets.readers.hdf5 import mat_string, matlab_array, open_hdf5, read_array, read_cell


def put(group, name, value):
    """One MATLAB value: text, a list of lists (a cell, row by row) or an array, with the attributes that MATLAB sets."""
    if isinstance(value, list):
        references = group.file.require_group("#refs#")
        rows = [[put(references, f"{name}_{i}_{j}", item).ref for j, item in enumerate(row)] for i, row in enumerate(value)]
        dataset = group.create_dataset(name, (len(rows[0]), len(rows)), h5py.ref_dtype)
        for i, row in enumerate(rows):
            for j, reference in enumerate(row):
                dataset[j, i] = reference
        matlab_class = "cell"
    elif isinstance(value, str):
        dataset = group.create_dataset(name, data=np.frombuffer(value.encode("utf-16-le"), np.uint16)[:, None])
        matlab_class = "char"
    elif value.size == 0:
        dataset = group.create_dataset(name, data=np.array(value.shape, np.uint64))
        dataset.attrs["MATLAB_empty"] = np.uint8(1)
        matlab_class = "double"
    else:
        is_logical = value.dtype == bool
        dataset = group.create_dataset(name, data=value.astype(np.uint8).T if is_logical else value.T)
        matlab_class = "logical" if is_logical else "double"
    dataset.attrs["MATLAB_class"] = np.bytes_(matlab_class)
    return dataset


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "annot_data.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        put(file, "annot3", np.arange(24.0).reshape(3, 2, 4))  # size(annot3) = [3 2 4]
        put(file, "mask", np.array([[True, False, True]]))
        put(file, "nothing", np.empty((0, 3)))
        put(file, "name", "Grüße 1")
        put(file, "cell", [["a", np.array([[1.0, 2.0]]), np.empty((0, 0))], ["d", [["e", "f"]], np.array([[True]])]])
        file.create_group("group")
    with path.open("r+b") as file:  # MATLAB's own header stands before the HDF5 file
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


def test_arrays_in_matlab_order(path):
    with open_hdf5(path) as file:
        annot3 = matlab_array(file["annot3"])
        assert annot3.shape == (3, 2, 4) and annot3[2, 1, 3] == 23 and annot3[0, 1, 0] == 4
        assert read_array(file["annot3"]).shape == (4, 2, 3) and read_array(file["annot3"])[3, 1, 2] == 23
        mask = matlab_array(file["mask"])
        assert mask.dtype == bool and mask.tolist() == [[True, False, True]]
        assert matlab_array(file["nothing"]).shape == (0, 3)
        assert mat_string(file["name"]) == "Grüße 1"
        with pytest.raises(ValueError, match=r"annot_data\.mat: /mask is of MATLAB's class 'logical', expected char"):
            mat_string(file["mask"])


def test_cells(path):
    with open_hdf5(path) as file:
        a, d, numbers, inner, empty, true = read_cell(file, file["cell"])  # column by column
        assert (a, d, inner, true.tolist()) == ("a", "d", ["e", "f"], [[True]])
        assert numbers.tolist() == [[1, 2]] and empty.shape == (0, 0)
        references = read_array(file["cell"])  # [3, 2]
        assert read_cell(file, references[0]) == ["a", "d"] and read_cell(file, references[:1, 1]) == ["d"]
        assert read_cell(file, file["nothing"]) == []
        with pytest.raises(ValueError, match=r"annot_data\.mat: /mask is of type uint8, expected a cell"):
            read_cell(file, file["mask"])


def test_what_is_missing_is_named(path, tmp_path):
    reason = r"annot_data\.mat cannot be read as expected: KeyError: .*annot4"
    with pytest.raises(ValueError, match=reason), open_hdf5(path) as file:
        file["annot4"]
    with pytest.raises(ValueError, match=r"annot_data\.mat: /group is a group, expected"), open_hdf5(path) as file:
        matlab_array(file["group"])
    with pytest.raises(FileNotFoundError, match=r"b\.mat is missing\. Get it\."), open_hdf5(tmp_path / "b.mat", "Get it."):
        pass
    with pytest.raises(KeyError, match="of the caller"), open_hdf5(path):
        {}["of the caller"]


def test_files_that_claim_too_much_or_lead_elsewhere(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(8)) * 100)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("huge", (10**12,), "f8", chunks=(1000,))  # nothing of it is in the file
        file.create_dataset("outside", (100,), "f8", external=[(str(secret), 0, 800)])
        layout = h5py.VirtualLayout((100,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "b.h5"), "x", (100,))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("loop", (1, 1), h5py.ref_dtype)
        file["loop"][0, 0] = file["loop"].ref
        file["loop"].attrs["MATLAB_class"] = np.bytes_("cell")
    with open_hdf5(tmp_path / "a.h5") as file:
        with pytest.raises(ValueError, match=r"a\.h5: /huge claims the shape \(1000000000000,\)"):
            matlab_array(file["huge"])
        for name in ("outside", "virtual"):
            with pytest.raises(ValueError, match=rf"a\.h5: /{name} has its data in other files"):
                read_array(file[name])
        with pytest.raises(ValueError, match=r"a\.h5: /loop .* at most 8 within each other"):
            read_cell(file, file["loop"])


def test_broken_files_are_named(path):
    content = path.read_bytes()
    generator = random.Random(0)
    for i in range(40):
        changed = bytearray(content)
        if i % 2:
            changed = changed[:generator.randrange(len(content))]
        else:
            changed[generator.randrange(512, 3000)] = generator.randrange(256)
        path.write_bytes(changed)
        try:
            with open_hdf5(path) as file:
                matlab_array(file["annot3"])
                mat_string(file["name"])
                read_cell(file, file["cell"])
        except ValueError as error:
            assert str(path) in str(error)
