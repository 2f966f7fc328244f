"""`train.py --dry-run`: the plan of a training as JSON, with or without prepared data."""

import json
import math

import pytest

import train
from tests import end_to_end

SETS = ("demo", "small", "medium", "full")
# Joints of the four formats of the demo, 24 + 17 + 17 + 19; of muco_3dhp, h36m and surreal; all of WACV 2023.
NUM_JOINTS = {"demo": 77, "small": 28 + 25 + 24, "full": 555}


@pytest.fixture
def plan(tmp_path):
    """A function of flags that gives the parsed dry run."""

    def make(*arguments):
        with end_to_end.command_line(f"--data-root={tmp_path / 'data'}", f"--workdir={tmp_path / 'run'}", *arguments):
            return json.loads(json.dumps(train.dry_run(train.make_plan())))

    return make


def phases_of(result):
    return {phase["name"]: phase for phase in result["phases"]}


def test_stdout_is_one_json_object_and_nothing_is_written(tmp_path):
    result = end_to_end.run_program("train.py", "--dry-run", cwd=tmp_path)

    assert result.returncode == 0
    assert json.loads(result.stdout)["dataset_set"] == "demo"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SETS)
def test_sets_without_data(plan, name):
    result = plan(f"--dataset-set={name}")

    counts = {kind: sum(d["examples_per_batch"] for d in result["datasets"] if d["kind"] == kind) for kind in ("3d", "2d")}
    assert result["batch_size"] == counts["3d"] + counts["2d"]
    if name != "demo":
        assert counts == {"3d": 96, "2d": 32}
    if name in NUM_JOINTS:
        assert result["num_joints"] == NUM_JOINTS[name]
    for dataset in result["datasets"]:
        assert dataset.keys() == {"name", "kind", "skeleton", "examples_per_batch", "prepared"}
        assert dataset["prepared"] is False
        assert dataset["skeleton"]
    assert {d["name"] for d in result["datasets"]} <= set(result["missing"])


def test_prepared_data_sets_are_marked(plan, tiny_data_root, tiny_set):
    result = plan(f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}")

    assert [d["prepared"] for d in result["datasets"]] == [True] * 5
    assert result["missing"] == []


def test_learning_rates_at_the_corners(plan):
    result = plan("--steps=1000", "--finetune-steps=100", "--learning-rate=0.003", "--bn-inference-steps=100")

    initial, finetune = phases_of(result)["initial"], phases_of(result)["finetune"]
    assert (initial["steps"], initial["bn_inference_steps"]) == (1000, 100)
    assert (finetune["steps"], finetune["bn_inference_steps"]) == (100, 12)  # an eighth of a short phase
    third = math.log(3)
    # Down by 3 over the first 920 steps, by 10 at once, by 3 over the last 80.
    expected = [[0, 0.003], [919, 0.003 * math.exp(-third * 919 / 920)], [920, 0.0001],
                [999, 0.0001 * math.exp(-third * 79 / 80)]]
    assert initial["learning_rates"].keys() == {"head", "backbone"}
    for part in ("head", "backbone"):
        assert [step for step, _ in initial["learning_rates"][part]] == [0, 919, 920, 999]
        assert_rates(initial["learning_rates"][part], expected)
    # The head starts anew and drops at half time; the backbone goes through the last piece of the initial schedule.
    assert_rates(finetune["learning_rates"]["head"],
                 [[0, 0.003], [49, 0.003 * math.exp(-third * 49 / 50)], [50, 0.0001],
                  [99, 0.0001 * math.exp(-third * 49 / 50)]])
    assert_rates(finetune["learning_rates"]["backbone"],
                 [[step, 0.0001 * math.exp(-third * step / 100)] for step in (0, 49, 50, 99)])


def assert_rates(corners, expected):
    assert [step for step, _ in corners] == [step for step, _ in expected]
    assert [rate for _, rate in corners] == pytest.approx([rate for _, rate in expected], rel=1e-12)


def test_published_schedule_of_the_full_set(plan):
    phases = phases_of(plan("--dataset-set=full"))

    assert {name: (phase["steps"], phase["bn_inference_steps"]) for name, phase in phases.items()} == {
        "initial": (400_000, 1000), "finetune": (40_000, 1000)}
    assert [step for step, _ in phases["initial"]["learning_rates"]["head"]] == [0, 367_999, 368_000, 399_999]
    assert phases["initial"]["learning_rates"]["backbone"][0][1] == 2.12e-4


def test_only_the_chosen_phases(plan):
    assert list(phases_of(plan("--phases=autoencoder,finetune"))) == ["finetune"]
    assert list(phases_of(plan("--phases=initial"))) == ["initial"]


def test_own_data_sets_that_are_not_prepared_yet(plan, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('''
        batch_size = 16
        [datasets_3d]
        my_rig = 8
        my-gloves = 4
        [datasets_2d]
        coco = 4
        [own_datasets.my_rig]
        kind = "3d"
        skeleton = "h36m_17"
        [own_datasets.my-gloves]
        kind = "3d"
        [own_datasets.my-gloves.skeleton]
        name = "stick"
        joints = ["pelvis", "left_hand", "right_hand"]
        root = "pelvis"
        mirror_pairs = [["left_hand", "right_hand"]]
        edges = ["left_hand-pelvis-right_hand"]
        [hyperparameters]
        backbone = "tiny"
        crop_side = 64
        initial_steps = 20
    ''')

    result = plan(f"--dataset-set={path}")

    assert [(d["name"], d["kind"], d["skeleton"], d["examples_per_batch"]) for d in result["datasets"]] == [
        ("my_rig", "3d", "h36m_17", 8), ("my_gloves", "3d", "stick", 4), ("coco", "2d", "coco_17", 4)]
    assert result["num_joints"] == 17 + 3
    assert phases_of(result)["initial"]["steps"] == 20
    assert result["config"]["backbone_weights"] == "none"  # for tiny there is nothing else


def test_flags_override_the_hyperparameters_of_a_set(plan, tiny_set):
    assert phases_of(plan(f"--dataset-set={tiny_set}"))["initial"]["steps"] == end_to_end.INITIAL_STEPS
    assert phases_of(plan(f"--dataset-set={tiny_set}", "--steps=7"))["initial"]["steps"] == 7


def test_augmentation_of_single_data_sets_is_shown_resolved(plan):
    config = plan("--dataset-set=medium")["config"]

    assert config["augmentation"]["background_probability"] == 0.7
    realistic = {**config["augmentation"], "background_probability": 0.2}
    assert config["dataset_augmentation"] == dict.fromkeys(["hspace", "sailvos", "agora"], realistic)


def test_folders_of_pictures_and_bad_records(plan, tmp_path):
    config = plan()["config"]
    assert (config["occluder_dir"], config["background_dir"], config["skip_bad"]) == ("", "", False)
    config = plan(f"--occluder-dir={tmp_path}", f"--background-dir={tmp_path}", "--skip-bad")["config"]
    assert (config["occluder_dir"], config["background_dir"], config["skip_bad"]) == (str(tmp_path), str(tmp_path), True)
