"""The limit of open files belongs to the process, so these tests look at processes of their own."""

import concurrent.futures
import gc
import json
import os
import pathlib
import resource
import subprocess
import sys
import threading

import pytest

from posepile.data.open_files import OpenFiles

NUM_FILES = 200
NUM_THREADS = 8


def count_descriptors():
    return len(os.listdir("/dev/fd"))


def read_all(folder, soft_limit, hard_limit):
    """Reads every file from several threads, with two objects. Returns: how many descriptors were open when."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard_limit))
    before = count_descriptors()
    both = [OpenFiles(), OpenFiles()]
    start = threading.Barrier(NUM_THREADS)

    def read(thread):
        for i in range(NUM_FILES):
            start.wait()  # all of them open the same file at the same time
            data = both[thread % 2].read(str(folder / f"{i}"), 100, 3)
            assert data == f"content of {i}".encode()[3:]

    with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(read, range(NUM_THREADS)))
    kept = count_descriptors() - before
    del both[0]
    gc.collect()
    kept_by_other = count_descriptors() - before
    both.clear()
    gc.collect()
    return {"kept": kept, "kept_by_other": kept_by_other, "kept_by_none": count_descriptors() - before,
            "soft_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}


def run(folder, *limits):
    for i in range(NUM_FILES):
        (folder / f"{i}").write_text(f"content of {i}")
    result = subprocess.run([sys.executable, "-m", __name__, str(folder), *map(str, limits)], capture_output=True, text=True,
                            check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="counts the entries of /dev/fd")
@pytest.mark.parametrize("soft_limit", [40, 64])
def test_half_of_the_limit_is_kept_open(tmp_path, soft_limit):
    counts = run(tmp_path, soft_limit, 64)
    assert counts["soft_limit"] == 64  # raised as far as it goes
    # Threads that look at the same time may keep one descriptor each too many.
    assert 32 <= counts["kept"] <= 32 + NUM_THREADS
    assert 0 < counts["kept_by_other"] < counts["kept"]
    assert counts["kept_by_none"] == 0


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="counts the entries of /dev/fd")
def test_threads_that_open_a_file_at_once_keep_one_descriptor(tmp_path):
    counts = run(tmp_path, 2000, 2000)
    assert counts == {"kept": 2 * NUM_FILES, "kept_by_other": NUM_FILES, "kept_by_none": 0, "soft_limit": 2000}


def test_reading_past_the_end_gives_less(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    files = OpenFiles()
    for _ in range(2):
        assert files.read(str(path), 10, 3) == b"45"
        assert files.read(str(path), 10, 30) == b""
    with pytest.raises(FileNotFoundError):
        files.read(str(tmp_path / "other"), 10, 0)


if __name__ == "__main__":
    print(json.dumps(read_all(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
