import json
import types

import keras
import numpy as np
import pytest

from benchmarks import step_figures, train_step, training_variants
from benchmarks.step_figures import Network, Workload
from posepile.geometry.skeleton import Skeleton
from posepile.models.pose_model import PoseModel

SMALLEST = Network("tiny", 32, 16)
TINY = Workload(step_ratio=(SMALLEST,), joints_ratio=SMALLEST, others=Network("tiny", 32, 64), rounds=1, builds=1)
FIGURES = ["step_ratio", "ghost_ratio", "parts_ratio", "graph_build_ratio", "joints_ratio", "accumulation_ratio"]


@pytest.fixture(autouse=True)
def on_a_cpu_with_settings_as_they_are(monkeypatch):
    monkeypatch.setattr(training_variants, "device_name", lambda: None)
    monkeypatch.setattr(training_variants, "has_graphs", lambda: True)
    monkeypatch.setattr(training_variants, "configure", lambda seed, precision: None)  # it would hold for other tests, too


@pytest.fixture
def recorded_variants(monkeypatch):
    """Instead of training, steps of a length of their own on a clock of their own; what was asked for."""
    asked, now = [], [0.0]
    seconds = {"full": 3.0, "stock": 2.0, "few": 2.5, "micro": 3.3, "plain": 1.0, 16: 1.1, (48, 16): 1.2}
    compiled = set()

    def step(kind, *network):
        def run():
            now[0] += seconds[kind] + (0 if kind in compiled else 10 * seconds[kind])
            compiled.add(kind)
        asked.append((kind, *network))
        return run

    def full_step(backbone, crop_side, batch_size, num_joints, micro_batches=1):
        kind = "micro" if micro_batches == 4 else "few" if num_joints == 17 else "full"
        return step(kind, backbone, crop_side, batch_size)

    monkeypatch.setattr(training_variants, "full_step", full_step)
    monkeypatch.setattr(training_variants, "stock_step", lambda *network: step("stock", *network[:3]))
    monkeypatch.setattr(training_variants, "backbone_step", lambda backbone, crop_side, batch_size, sizes: (
        step(sizes, backbone, crop_side, batch_size), lambda: compiled.discard(sizes)))
    monkeypatch.setattr(step_figures, "time", types.SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0]))
    return asked


def test_the_ratios_are_of_the_steps_that_their_names_say(recorded_variants):
    result = step_figures.measure_ratios(Workload())
    assert list(result)[:6] == FIGURES
    assert result["step_ratio"] == {"efficientnetv2-b0": 1.5, "efficientnetv2-s": 1.5}
    assert [result[name] for name in FIGURES[1:]] == [1.1, 1.2, 1.1, 1.2, 1.1]
    assert set(recorded_variants) == {
        ("full", "efficientnetv2-b0", 128, 32), ("stock", "efficientnetv2-b0", 128, 32),
        ("full", "efficientnetv2-s", 256, 16), ("stock", "efficientnetv2-s", 256, 16), ("few", "efficientnetv2-s", 256, 16),
        *((kind, "efficientnetv2-b0", 128, 64) for kind in ("plain", 16, (48, 16), "full", "micro"))}


def test_the_options_choose_the_network(recorded_variants, capsys):
    assert train_step.main(["--json", "--backbone=resnet50", "--crop-side=64", "--batch-size=32", "--steps=1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step_ratio"] == {"resnet50": 1.5} and result["spread"]["joints_ratio"] == [1.2, 1.2]
    assert {network[1:] for network in recorded_variants} == {("resnet50", 64, 32), ("resnet50", 64, 64)}


def test_a_network_without_a_counterpart_is_refused_in_words(capsys):
    with pytest.raises(SystemExit):
        train_step.main(["--backbone=tiny", "--crop-side=32", "--batch-size=16"])
    assert "no stock network to compare 'tiny' with" in capsys.readouterr().err


def test_operations_of_a_network_by_hand():
    model = PoseModel("tiny", 32, Skeleton("one", "one", ("joint",), (0,), ()))
    at_stride_8 = 9 * (64 * 128 + 4 * 128 * 128 + 128 * 192) + 192 * 9  # kernels and the head of one joint
    assert training_variants.count_flops(model) == 2 * (64 * 9 * 48 * 64 + 16 * at_stride_8)


def test_operations_of_efficientnet_as_published():
    """Table 4 of EfficientNetV2 (ICML 2021) gives S 8.8 billion multiplications at 384 px, classifier included."""
    model = PoseModel("efficientnetv2-s", 384, Skeleton("one", "one", ("joint",), (0,), ()))
    assert training_variants.count_flops(model) / 2e9 == pytest.approx(8.8, rel=0.06)


@pytest.mark.parametrize(("device", "precision", "expected"), [
    ("NVIDIA H100 80GB HBM3", "mixed_bfloat16", 0.5), ("NVIDIA H200", "mixed_float16", 0.5),
    ("NVIDIA H100 PCIe", "mixed_bfloat16", 0.654), ("NVIDIA A100-SXM4-80GB", "mixed_bfloat16", 1.586),
    ("NVIDIA H200", "float32", None), ("TPU v5e", "mixed_bfloat16", None)])
def test_share_of_peak(device, precision, expected):
    assert step_figures.share_of_peak(494.7e12, device, precision) == expected


def test_throughput_is_that_of_whole_blocks(monkeypatch):
    """Steps of 0.5 s that return at once; waiting takes as long as all that has not been waited for."""
    now, pending = [0.0], [0.0]

    class Training:
        objective = type("Objective", (), {"pose_model": None})

        def run(self, batch):
            pending[0] += 0.5

    def wait(results):
        now[0] += pending[0]
        pending[0] = 0.0

    monkeypatch.setattr(training_variants, "make_training", lambda *network: Training())
    monkeypatch.setattr(training_variants, "count_flops", lambda model: 10**12)
    monkeypatch.setattr(training_variants, "wait", wait)
    monkeypatch.setattr(step_figures, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    result = step_figures.measure_throughput(Workload(throughput=Network("any", 8, 128)), "NVIDIA H200", "mixed_bfloat16")
    assert result["crops_per_second"] == 256.0 and result["device"] == "NVIDIA H200"
    assert result["share_of_peak"] == round(256 * 3e12 / 989.4e12, 3)


def test_batches_have_the_shares_of_the_paper_and_people_in_sight():
    batch = training_variants.make_batch(128, 64, 17)
    assert batch["image"].shape == (128, 64, 64, 3) and batch["image"].dtype == np.uint8
    assert batch["joints3d"].shape == (96, 17, 3) and batch["joints2d"].shape == (32, 19, 2)
    projected = np.einsum("bij,bnj->bni", batch["intrinsics"][:96], batch["joints3d"])
    assert np.mean(np.abs(projected[..., :2] / projected[..., 2:] - 31.5) < 32) > 0.95
    assert keras.ops.all(batch["joints3d"][..., 2] > 300)
