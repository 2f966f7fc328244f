import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from datasets.__main__ import main
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from tests.datasets.tiny_adapter import ADAPTER, FINISHED_ADAPTER, write_raw

REPOSITORY = pathlib.Path(__file__).parents[2]
BLOCK_TENSORFLOW = """
import importlib.abc, runpy, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras", "jax", "torch"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
sys.argv[0] = "datasets"
runpy.run_module("datasets", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(name="data_root")
def prepare_tiny(tmp_path):
    raw_dir = write_raw(tmp_path / "raw", train=[3, 4], test=[1])
    prepare(ADAPTER, raw_dir, tmp_path / "data", workers=1, progress=False, person_side=100, licence="free to use")
    return tmp_path / "data"


@pytest.fixture(name="custom_raw_dir")
def write_custom(tmp_path):
    """Own data in the documented format: one photograph, labelled in 2D."""
    folder = tmp_path / "own"
    folder.mkdir()
    cv2.imwrite(str(folder / "photo.png"), np.full((120, 160, 3), 128, np.uint8))
    joints2d = [[80, 20 + 5 * i] for i in range(17)]
    (folder / "annotations.json").write_text(json.dumps({
        "skeleton": "coco_17",
        "images": [{"file": "photo.png", "people": [{"bbox": [60, 10, 40, 100], "joints2d": joints2d}]}]}))
    return folder


def run_without_tensorflow(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, "-c", BLOCK_TENSORFLOW, *map(str, arguments)], cwd=cwd, env=environment,
                          capture_output=True, text=True, timeout=120, check=False)


def test_inspect_draws_and_describes_without_tensorflow(data_root, tmp_path):
    result = run_without_tensorflow("inspect", "tiny", f"--data-root={data_root}", "--num=5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for text in ("train: 7 examples of 2 units in 2 shards", "test: 1 examples", "tiny_5: 5 joints, 4 bones",
                 "left_hand", "licence: free to use", "5 examples of train drawn in tiny-train.png"):
        assert text in result.stdout
    mean = PreparedDataset(data_root / "tiny").manifest["bone_lengths_mm"]["head-pelvis"]["mean"]
    assert f"head-pelvis      {mean:8.1f}" in result.stdout
    sheet = cv2.imread(str(tmp_path / "tiny-train.png"))
    assert sheet.shape[1] > 3 * 320 and sheet.shape[0] > 2 * 200


def test_prepare_in_worker_processes_without_tensorflow(custom_raw_dir, tmp_path):
    result = run_without_tensorflow("prepare", "custom", f"--raw-dir={custom_raw_dir}", "--name=mine", "--workers=2",
                                    "--data-root=data", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "mine: 1 train in data/mine" in result.stdout
    again = run_without_tensorflow("prepare", "custom", f"--raw-dir={custom_raw_dir}", "--name=mine", cwd=tmp_path)
    assert again.returncode == 0 and "already complete" in again.stderr
    assert PreparedDataset(tmp_path / "data" / "mine").kind == "2d"


def test_choice_of_examples_follows_the_seed(data_root, tmp_path):
    sheets = []
    for seed in (1, 1, 2):
        main(["inspect", "tiny", f"--data-root={data_root}", "--num=3", f"--seed={seed}",
              f"--output={tmp_path / 's.png'}"])
        sheets.append((tmp_path / "s.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


def test_list_shows_known_and_own_data_sets(data_root, capsys):
    assert main(["list", "--json", f"--data-root={data_root}"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries["coco"]["adapter"] and not entries["coco"]["prepared"] and entries["coco"]["skeleton"] == "coco_17"
    assert entries["tiny"]["prepared"] and not entries["tiny"]["adapter"]
    assert entries["tiny"]["num_examples"] == {"train": 7, "test": 1} and entries["tiny"]["skeleton"] == "tiny_5"
    assert main(["list", f"--data-root={data_root}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(entries) + 1
    assert lines[-1].split() == ["tiny", "3d", "tiny_5", "no", "7", "train,", "1", "test"]


@pytest.mark.parametrize("arguments, message", [
    (["prepare", "cocoo", "--raw-dir=."], "no adapter for data set 'cocoo'; there are: "),
    (["prepare", "coco"], "coco needs --raw-dir"),
    (["prepare", "coco", "--raw-dir=nowhere"], "there is no folder nowhere"),
    (["prepare", "coco", "--raw-dir=."], "person_keypoints_"),
    (["prepare", "synthetic_test", "--splits=testing"], "unknown splits testing"),
    (["prepare", "synthetic_test", "coco", "--raw-dir=.", "--name=x"], "--name renames one data set"),
    (["verify", "tiny", "--splits=tset"], "unknown splits tset"),
    (["verify", "tiny", "--workers=0"], "workers is 0"),
    (["inspect", "tiny"], "python -m datasets prepare tiny"),
    (["inspect", "tiny", "--num=0"], "--num is 0"),
])
def test_user_errors_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and "\n" not in error


def test_skipped_examples_are_listed(custom_raw_dir, tmp_path, monkeypatch, capsys):
    path = custom_raw_dir / "annotations.json"
    content = json.loads(path.read_text())
    content["images"].append({**content["images"][0], "file": "lost.png"})
    path.write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    arguments = ["prepare", "custom", f"--raw-dir={custom_raw_dir}", "--workers=1"]
    assert main(arguments) == 1
    assert "lost.png" in capsys.readouterr().err
    assert main([*arguments, "--skip-bad"]) == 0
    output = capsys.readouterr().out
    assert "1 train, 1 skipped" in output and "lost.png" in output


def test_verify_tells_by_text_json_and_exit_code(data_root, tmp_path, capsys):
    assert main(["verify", "tiny", f"--data-root={data_root}", "--workers=1"]) == 0
    assert "  checksums       3 shards, 8 records: all match" in capsys.readouterr().out
    assert main(["verify", "tiny", "nowhere", f"--data-root={data_root}", "--workers=1", "--json", "--splits=train",
                 "--sample=2"]) == 1
    tiny, nowhere = map(json.loads, capsys.readouterr().out.splitlines())
    assert tiny["is_right"] and tiny["counts"]["train"]["checked"] == 2
    assert not nowhere["is_right"] and "python -m datasets prepare nowhere" in nowhere["findings"][0]["message"]
    assert set(nowhere["findings"][0]) == {"kind", "severity", "where", "message"}


def test_verify_with_skip_bad_without_tensorflow(tmp_path):
    raw_dir = write_raw(tmp_path / "raw", train=[2])
    prepare(FINISHED_ADAPTER, raw_dir, tmp_path / "data", workers=1, progress=False)  # of images that are none
    result = run_without_tensorflow("verify", "tiny_2d", "--data-root=data", cwd=tmp_path)
    assert result.returncode == 1 and "verdict: WRONG, 2 bad records" in result.stdout, result.stderr
    result = run_without_tensorflow("verify", "tiny_2d", "--data-root=data", "--skip-bad", cwd=tmp_path)
    assert result.returncode == 0 and "verdict: all right, 2 bad records (to be skipped)" in result.stdout
