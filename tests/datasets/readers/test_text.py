"""Text readers against hand-written files."""

import numpy as np
import pytest

from datasets.readers.text import read_numbers, read_text


def test_numbers_line_by_line(tmp_path):
    path = tmp_path / "extrinsic.txt"
    path.write_bytes(b"\xef\xbb\xbfNumcam 2\r\n1  2.5\t-3e1 \r\n\r\n4, 5;nan\t\r\n")
    rows = read_numbers(path, skip_lines=1)
    assert [len(row) for row in rows] == [3, 3]
    np.testing.assert_array_equal(rows, [[1, 2.5, -30], [4, 5, np.nan]])
    assert read_text(path).startswith("Numcam 2\n1")
    with pytest.raises(ValueError, match=r"extrinsic\.txt: line 1: could not convert string to float: 'Numcam'"):
        read_numbers(path)
    path.write_text("1 2\n3 four\n")
    with pytest.raises(ValueError, match=r"extrinsic\.txt: line 2: .*'four'"):
        read_numbers(path, skip_lines=1)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"extrinsic\.txt cannot be read as a text file"):
        read_numbers(path)
    with pytest.raises(FileNotFoundError, match=r"none\.txt is missing\. Get it there\."):
        read_numbers(tmp_path / "none.txt", "Get it there.")
