import errno
import fcntl
import os
import subprocess
import sys

import pytest

from datasets.folder_lock import PrepareError, check_mark, hold_folder, read_mark

HOLD = """
import pathlib, sys
from datasets.folder_lock import hold_folder
with hold_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(name="without_locks")
def make_locks_unsupported(monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_folder_held_by_another_process_is_refused_naming_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(PrepareError, match=f"another preparation is at work in .*, process {holder.pid}"), \
                hold_folder(tmp_path):
            pass
        holder.kill()  # SIGKILL: the lock goes, its mark stays
    assert f"process {holder.pid}" in read_mark(tmp_path)
    with hold_folder(tmp_path) as mark:
        assert f"process {os.getpid()}, " in mark and read_mark(tmp_path) == mark


def test_mark_holds_until_the_end_and_not_longer(tmp_path):
    with hold_folder(tmp_path / "new") as mark:
        check_mark(tmp_path / "new", mark)
    with pytest.raises(PrepareError, match="not held by this preparation any more"):
        check_mark(tmp_path / "new", mark)
    with pytest.raises(PrepareError, match="not held"):
        check_mark(tmp_path / "never", mark)


def test_without_locks_the_later_preparation_takes_over(tmp_path, without_locks, caplog):
    with hold_folder(tmp_path) as first, hold_folder(tmp_path) as second:
        with pytest.raises(PrepareError, match="another one has taken it over"):
            check_mark(tmp_path, first)
        check_mark(tmp_path, second)
    assert "has no locks" in caplog.text
    with hold_folder(tmp_path) as first:
        with hold_folder(tmp_path) as second:
            pass
        (tmp_path / ".prepare" / "lock").write_text(second)  # as if the second one were still at work
    check_mark(tmp_path, second)  # the end of the first one does not end it


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PrepareError, match=r"file/tiny cannot be written to \(Not a directory.* another data root"), \
            hold_folder(tmp_path / "file" / "tiny"):
        pass
