"""Real photographs through the whole way: the public data sets' own files -> prepared data -> training -> scores."""

import json
import subprocess
import sys

import pytest

from datasets.prepare import prepare
from datasets.registry import load_adapter
from tests.datasets.adapters import custom_conversion

_SET = """
batch_size = 32
[datasets_3d]
real_h36m = 12
real_3dhp = 12
[datasets_2d]
coco = 4
mpii = 2
posetrack = 2
[evaluation]
datasets = ["real_h36m", "real_3dhp"]
[hyperparameters]
backbone = "tiny"
backbone_weights = "none"
crop_side = 64
initial_steps = 160
finetune_steps = 40
base_learning_rate = 2e-3
weak_perspective_steps = 20
num_latents = 14
[hyperparameters.augmentation]
shift = 0.02
zoom = [0.97, 1.03]
roll_degrees = 2.0
hue_degrees = 5.0
"""


@pytest.fixture(scope="module")
def data_root(real_samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    custom_conversion.write_h36m_custom(real_samples, folder / "h36m")
    custom_conversion.write_mpi_inf_3dhp_custom(real_samples, folder / "3dhp")
    for name in ("h36m", "3dhp"):
        prepare(load_adapter("custom"), folder / name, folder / "data", name=f"real_{name}", workers=1, progress=False)
    raw_dirs = custom_conversion.link_2d_samples_for_training(real_samples, folder / "raw")
    for name, raw_dir in raw_dirs.items():
        prepare(load_adapter(name), raw_dir, folder / "data", workers=1, progress=False)
    return folder / "data"


def test_training_on_real_samples_learns_them(data_root, tmp_path):
    (tmp_path / "real.toml").write_text(_SET)
    subprocess.run([sys.executable, "train.py", f"--dataset-set={tmp_path / 'real.toml'}", f"--data-root={data_root}",
                    f"--workdir={tmp_path / 'run'}"], check=True, capture_output=True)
    scores = {name: json.loads((tmp_path / "run/evaluation" / f"{name}.json").read_text())
              for name in ("mean_pose", "initial", "finetuned")}
    for dataset in ("real_h36m", "real_3dhp"):
        baseline = scores["mean_pose"][dataset]["pooled"]["mpjpe"]
        for model in ("initial", "finetuned"):
            assert scores[model][dataset]["pooled"]["mpjpe"] < 0.6 * baseline
