import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from datasets.__main__ import main
from datasets.dataset_set import load_dataset_set
from datasets.prepare import prepare
from datasets.raw_example import DetectionRule
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
    assert re.sub(" +", " ", lines[-1]) == "tiny - own tiny_5 5 -/-/- - 7 train, 1 test free to use -"


def test_list_tells_what_the_published_mix_takes_and_which_raw_files_are_there(tmp_path, capsys):
    write_raw(tmp_path / "raw" / "h36m", train=[1])
    (tmp_path / "raw" / "coco").mkdir()
    arguments = ["list", f"--data-root={tmp_path}", f"--raw-dir={tmp_path / 'raw'}"]
    assert main([*arguments, "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    h36m = entries["h36m"]
    assert h36m["examples_per_batch"] == {"small": 32, "medium": 9, "full": 4} and h36m["num_joints"] == 25
    assert h36m["category"] == "marker-based" and h36m["year"] == 2014 and h36m["paper"].startswith("Ionescu et al., Human3.6M")
    assert h36m["raw"] and not entries["coco"]["raw"] and not entries["mpii"]["raw"]
    assert entries["behave"]["num_joints"] == 24 + 25 and entries["custom"]["num_joints"] is None
    assert main(arguments) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("h36m "))
    for text in ("Ionescu et al., TPAMI 2014", "marker-based", "h36m_25", "32/9/4", " yes ", "http://vision.imar.ro/human3.6m"):
        assert text in line


def test_a_set_for_evaluation_trains_on_nothing_and_needs_no_batch():
    benchmarks = load_dataset_set("benchmarks")
    assert benchmarks.evaluation == ("h36m", "mpi_inf_3dhp", "3dpw", "mupots") and benchmarks.batch_size == 0


def _list_with_models(raw_dir, split, body_models):
    if not (body_models and (body_models / "model.npz").is_file()):
        raise FileNotFoundError("the neutral model is needed, model.npz; pass its folder as --body-models=DIR")
    return ADAPTER.list_units(raw_dir, split)


def _load_with_models(raw_dir, unit, body_models):
    assert (body_models / "model.npz").is_file()
    return ADAPTER.load_unit(raw_dir, unit)


def test_body_models_reach_the_adapters_that_use_them(tmp_path, monkeypatch, capsys):
    raw_dir = write_raw(tmp_path / "raw", train=[2])
    with_models = dataclasses.replace(ADAPTER, list_units=_list_with_models, load_unit=_load_with_models, uses_body_models=True)
    monkeypatch.setattr("datasets.__main__.load_adapter", lambda name: with_models)
    arguments = ["prepare", "tiny", f"--raw-dir={raw_dir}", f"--data-root={tmp_path / 'data'}", "--workers=2"]
    assert main(arguments) == 1 and "model.npz; pass its folder as --body-models" in capsys.readouterr().err
    assert main([*arguments, f"--body-models={tmp_path / 'x'}"]) == 1 and "there is no folder" in capsys.readouterr().err
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.npz").touch()
    assert main([*arguments, f"--body-models={tmp_path / 'models'}"]) == 0
    monkeypatch.setattr("datasets.__main__.load_adapter", lambda name: ADAPTER)
    assert main([*arguments, f"--body-models={tmp_path / 'models'}"]) == 1
    assert "tiny is labelled with joints" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", [
    (["prepare", "cocoo", "--raw-dir=."], "no adapter for data set 'cocoo'; there are: "),
    (["prepare", "coco"], "coco needs --raw-dir"),
    (["prepare", "coco", "--raw-dir=nowhere"], "there is no folder nowhere"),
    (["prepare", "coco", "--raw-dir=."], "person_keypoints_"),
    (["prepare", "synthetic_test", "--splits=testing"], "unknown splits testing"),
    (["prepare", "synthetic_test", "coco", "--raw-dir=.", "--name=x"], "--name renames one data set"),
    (["prepare", "mpii", "coco", "--raw-dir=.", "--masks=."], "--masks is for one data set"),
    (["prepare", "coco", "--raw-dir=.", "--detections=x.json"], "coco has boxes of its own"),
    (["prepare", "coco", "--raw-dir=.", "--detector=x.onnx"], "coco has boxes of its own"),
    (["prepare", "mupots", "--raw-dir=.", "--detector=x.onnx"], "there is no file x.onnx"),
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


def test_exit_code_and_summary_tell_of_what_was_skipped(custom_raw_dir, tmp_path, monkeypatch, capsys):
    path = custom_raw_dir / "annotations.json"
    content = json.loads(path.read_text())
    content["images"] += [{**content["images"][0], "file": name} for name in ("lost.png", "gone.png")]
    path.write_text(json.dumps(content))
    (custom_raw_dir / "photo.json").write_text(json.dumps({**content, "images": content["images"][:1]}))
    monkeypatch.chdir(tmp_path)
    arguments = ["prepare", "custom", f"--raw-dir={custom_raw_dir}", "--workers=1"]
    assert main([*arguments, "--strict"]) == 1
    assert "lost.png" in capsys.readouterr().err
    assert main(arguments) == 3
    lines = capsys.readouterr().out.splitlines()
    assert "2 train, 2 skipped" in lines[0] and len(lines) == 3  # one line for the unit, one of advice
    assert "annotations.json" in lines[1] and "lost.png" in lines[1] and "(and 1 more of this unit)" in lines[1]
    assert "--skip-bad" in lines[2]
    assert main([*arguments, "--skip-bad"]) == 0
    assert "2 train, 2 skipped" in capsys.readouterr().out
    for name in ("lost.png", "gone.png"):
        (custom_raw_dir / name).write_bytes((custom_raw_dir / "photo.png").read_bytes())
    assert main([*arguments, "--strict"]) == 0
    assert capsys.readouterr().out.splitlines() == ["custom: 4 train in data/custom"]


def test_missing_package_is_a_user_error_and_no_fault_of_a_unit(tmp_path, monkeypatch, capsys):
    def load_unit(raw_dir, unit):
        raise ImportError("reading C3D needs the package x; install it with pip install 'posepile-trainer[datasets]'")

    monkeypatch.setattr("datasets.__main__.load_adapter", lambda name: dataclasses.replace(ADAPTER, load_unit=load_unit))
    raw_dir = write_raw(tmp_path / "raw", train=[1])
    assert main(["prepare", "tiny", f"--raw-dir={raw_dir}", f"--data-root={tmp_path / 'data'}", "--workers=1"]) == 1
    assert "error: reading C3D needs the package x" in capsys.readouterr().err


def test_many_units_with_faults_are_summed_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.__main__.load_adapter", lambda name: ADAPTER)
    bad = [{"name": f"seq{i}", "examples": 2, "bad": {"0": "box"}} for i in range(23)]
    raw_dir = write_raw(tmp_path / "raw", train=bad)
    assert main(["prepare", "tiny", f"--raw-dir={raw_dir}", f"--data-root={tmp_path / 'data'}", "--workers=1"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  skipped tiny, train, unit") for line in lines) == 20
    assert f"something of 3 more units, listed in {tmp_path / 'data' / 'tiny' / 'manifest.json'}" in lines[-2]


def test_detections_and_masks_are_options(tmp_path, monkeypatch, capsys):
    adapter = dataclasses.replace(ADAPTER, detection_rule=DetectionRule(min_iou=0.5, unmatched="drop"))
    monkeypatch.setattr("datasets.__main__.load_adapter", lambda name: adapter)
    raw_dir = write_raw(tmp_path / "raw", train=[3])
    detections = [{"file_name": f"train0.jpg#{i}", "bbox": [50, 20, 60, 90], "score": 1} for i in range(2)]
    (tmp_path / "boxes.json").write_text(json.dumps(detections))
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "train0.jpg#1.png"), np.full((120, 160), 255, np.uint8))
    assert main(["prepare", "tiny", f"--raw-dir={raw_dir}", f"--data-root={tmp_path / 'data'}", "--workers=1",
                 f"--detections={tmp_path / 'boxes.json'}", f"--masks={tmp_path / 'masks'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "  detections: 2 of 3 images have some; 2 of 3 people got their boxes, 1 were left out for want of one",
        "  masks: 1 of 2 people without a mask got one"]


def test_detector_is_for_those_data_sets_that_have_no_boxes(tmp_path, monkeypatch):
    adapters = {"own": ADAPTER, "made": dataclasses.replace(ADAPTER, detection_rule=DetectionRule(min_iou=0.5))}
    monkeypatch.setattr("datasets.__main__.load_adapter", lambda name: dataclasses.replace(adapters[name], name=name))
    given = {}

    def prepare(adapter, *arguments, detector, **options):
        given[adapter.name] = detector
        return {"name": adapter.name, "splits": {}, "skipped": []}

    monkeypatch.setattr("datasets.__main__.prepare", prepare)
    for name in adapters:
        (tmp_path / name).mkdir()
    assert main(["prepare", *adapters, f"--raw-dir={tmp_path}", "--detector=x.onnx"]) == 0
    assert given == {"own": None, "made": pathlib.Path("x.onnx")}
    with pytest.raises(SystemExit):
        main(["prepare", "made", f"--raw-dir={tmp_path}", "--detector=x.onnx", "--detections=x.json"])


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
