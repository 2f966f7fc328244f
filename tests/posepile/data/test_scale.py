"""Memory and the time to start do not grow with the number of examples.

`python -m tests.posepile.data.test_scale FOLDER` opens a prepared data set, reads from it, and prints its figures as JSON.
"""

import json
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from posepile.data import records, sampling
from posepile.data.atomic_files import write_json
from posepile.data.records import PreparedDataset
from tests.posepile.data.prepared import dotted_example, write_prepared

NUM_RECORDS = 1000  # that there really are
NUM_DRAWN = 20_000
NUM_READ = 300


def resident_mb():
    """Highest so far, of this process alone."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) / 1024


def read_from(folder):
    """Opens a data set, and draws and reads training examples from all over it."""
    before_mb, began = resident_mb(), time.perf_counter()
    dataset = PreparedDataset(folder)
    dataset.check_files()
    num_examples = dataset.num_examples("train")
    dataset.read("train", num_examples - 1)
    start_seconds = time.perf_counter() - began
    positions = sampling.example_positions(1, dataset.name, num_examples, np.arange(NUM_DRAWN))
    frames = [dataset.read("train", position).provenance["frame"] for position in positions[:NUM_READ]]
    dataset.entries("train", positions)
    return {"start_seconds": start_seconds, "growth_mb": resident_mb() - before_mb, "resident_mb": resident_mb(),
            "positions": positions[:NUM_READ].tolist(), "frames": frames, "highest": int(positions.max())}


def repeat_index(dataset, num_examples):
    """Lets an index point to the same records again and again, up to so many."""
    rows = np.array(dataset.index("train"))
    with open(records.index_path(dataset.folder, "train"), "wb") as file:
        header = {"descr": "<i8", "fortran_order": False, "shape": (num_examples, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(num_examples // len(rows)):
            file.write(rows.tobytes())
    dataset.manifest["splits"]["train"]["num_examples"] = num_examples
    write_json(dataset.folder / records.MANIFEST_NAME, dataset.manifest)


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="measures memory as Linux shows it")
def test_memory_does_not_grow_with_the_number_of_examples(tmp_path):
    rng = np.random.default_rng(0)
    example = dotted_example(rng, "h36m_17", "3d")
    figures = {}
    for num_examples in (10_000, 10_000_000):
        numbered = (records.Example(**{**vars(example), "provenance": {"frame": i}}) for i in range(NUM_RECORDS))
        dataset = write_prepared(tmp_path, f"of_{num_examples}", "h36m_17", list(numbered), "3d", num_shards=4)
        repeat_index(dataset, num_examples)
        result = subprocess.run([sys.executable, "-m", __name__, str(dataset.folder)], capture_output=True, text=True,
                                check=False, timeout=120)
        records.index_path(dataset.folder, "train").unlink()  # 240 MB
        assert result.returncode == 0, result.stderr
        figures[num_examples] = json.loads(result.stdout)
    for num_examples, figure in figures.items():
        assert figure["frames"] == [position % NUM_RECORDS for position in figure["positions"]]
        assert figure["highest"] > 0.999 * num_examples
        assert figure["resident_mb"] < 500
    assert abs(figures[10_000_000]["growth_mb"] - figures[10_000]["growth_mb"]) < 10  # the index is 240 MB larger


if __name__ == "__main__":
    print(json.dumps(read_from(pathlib.Path(sys.argv[1]))))
