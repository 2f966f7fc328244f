import os

import pytest

from ace.files import refuse_existing, write_whole


def test_files_are_replaced_whole(tmp_path):
    path = tmp_path / "new" / "file"
    write_whole(path, b"first, and longer")
    write_whole(path, b"second")
    assert path.read_bytes() == b"second" and path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def no_space(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space left on device: .*file") as error:
        write_whole(path, b"new")
    assert error.value.errno == 28
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_existing_files_are_refused(tmp_path):
    there, missing = tmp_path / "there", tmp_path / "missing"
    there.write_bytes(b"")
    refuse_existing("--output", [missing], overwrite=False)
    refuse_existing("--output", [missing, there], overwrite=True)
    with pytest.raises(ValueError, match="there exists; name another --output or give --overwrite"):
        refuse_existing("--output", [missing, there], overwrite=False)
