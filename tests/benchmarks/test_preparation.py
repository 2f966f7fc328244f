import json

import numpy as np
import pytest

from benchmarks import preparation
from benchmarks.preparation import Workload
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset

TINY = Workload(image_side=200, num_pictures=2, num_photographs=(2, 3))


def test_prints_the_figures_in_their_order_as_one_json_line(capfd):
    assert preparation.main(["--json"], TINY) == 0
    result = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    first = ["crops_per_second", "wall_crops_per_second", "milliseconds_per_crop", "peak_memory_mb", "crops"]
    assert list(result)[:6] == ["benchmark", *first] and list(result["larger"]) == first
    assert (result["crops"], result["larger"]["crops"]) == (2, 3)
    for figures in (result, result["larger"]):
        stages = figures["milliseconds_per_crop"]
        assert list(stages) == ["decoding", "resampling", "encoding", "the rest"] and min(stages.values()) > 0
        assert sum(stages.values()) == pytest.approx(1000 / figures["crops_per_second"], rel=0.05)
    assert result["memory_growth_mb"] == pytest.approx(result["larger"]["peak_memory_mb"] - result["peak_memory_mb"], abs=0.11)


def test_photographs_are_those_that_the_docstring_tells_of(tmp_path):
    (tmp_path / "raw").mkdir()
    for path in preparation._write_pictures(tmp_path / "pictures", Workload(num_pictures=4)):
        path.rename(tmp_path / "raw" / f"{int(path.stem):06d}.jpg")
    sizes = [path.stat().st_size for path in (tmp_path / "raw").iterdir()]
    assert 150_000 < np.mean(sizes) < 190_000
    examples = list(preparation.load_unit(tmp_path / "raw", preparation.list_units(tmp_path / "raw", "train")[0]))
    assert all(300 <= example.bbox[3] <= 900 for example in examples)
    assert [example.camera.distortion is not None for example in examples] == [False, True, False, True]
    prepare(preparation.ADAPTER, tmp_path / "raw", tmp_path / "data", workers=1, progress=False, strict=True)
    dataset = PreparedDataset(tmp_path / "data" / "photographs")
    for position, raw in enumerate(examples):
        assert dataset.read("train", position).bbox[3] == pytest.approx(min(384, 1.2 * raw.bbox[3]), rel=0.05)
