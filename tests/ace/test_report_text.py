import numpy as np

from ace.report import measure
from ace.report_text import describe, pruning_text
from tests.ace.test_report import body_autoencoder


def row(text, start):
    """The words behind `start` in the line that starts with it."""
    return next(line for line in text.splitlines() if line.startswith(start)).removeprefix(start).split()


def test_text_of_the_weights():
    text = describe(body_autoencoder())
    assert row(text, "latent points")[:2] == ["3", "(1"]
    assert row(text, "objective") == ["0.25000", "after", "20", "iterations,", "from", "0.50000", "after", "10"]
    assert row(text, "> 0.001 in magnitude") == ["77.8%", "55.6%"]
    assert row(text, "exactly zero") == ["22.2%", "44.4%"]
    assert row(text, "joints per latent, median") == ["2", "1"]
    assert row(text, "negative per row, worst") == ["0.200", "0.000", "(L1;", "left_hand)"]
    assert row(text, "R1") == ["right", "1", "right_hand", "1.20,", "left_hand", "-0.20"]
    assert "warning" not in text and "mm" not in text


def test_text_warns_of_dead_and_duplicate_latents():
    text = describe(body_autoencoder(encoder=[[0.5, 0.5, 0]] * 2 + [[0, 0, 1]], decoder=[[0, 0, 1]] * 3))
    assert "dead latent points, which no joint uses: L1, R1" in text
    assert "duplicate latent points: L1 and R1 (weights differ by 0 at most" in text


def test_text_lists_formats_and_their_worst_joints(autoencoder, poses):
    figures = measure(autoencoder, poses)["errors"]
    text = describe(autoencoder, poses)
    coco = figures["formats"][1]
    assert row(text, "coco_19  ") == [f"{coco[key][statistic]:.1f}" for key in ("error_3d", "error_image")
                                      for statistic in ("mean", "median", "percentile_95")]
    worst = max((joint for joint in figures["joints"] if "coco" in joint["name"]), key=lambda j: j["error_3d"]["mean"])
    assert f"coco_19           {worst['name']} {worst['error_3d']['mean']:.1f} / {worst['error_image']['mean']:.1f} " in text
    assert max(map(len, text.splitlines())) <= 140


def test_text_says_what_cannot_be_measured(autoencoder, poses):
    masks = np.arange(36)[None].repeat(len(poses), axis=0) < 17
    assert row(describe(autoencoder, poses, masks), "coco_19") == ["no", "valid", "joint"]
    text = describe(autoencoder, -poses)
    assert row(text, "all joints")[3:] == ["-"] * 3
    assert f"{poses[..., 0].size} joints that are, or are reconstructed, behind the camera" in text


def test_text_of_pruning_by_hand():
    autoencoder = body_autoencoder(encoder=np.eye(3), decoder=[[0.9, 0, 0.1], [0, 0.9, 0.1], [0, 0, 1]])
    poses = np.array([[[100.0, 0, 1000], [-100, 0, 1000], [0, 0, 1000]]])
    text = pruning_text(0.2, measure(autoencoder, poses), measure(autoencoder.prune(0.2), poses))
    # a hand is reconstructed 10 mm nearer to the neck, pruned exactly
    assert row(text, "3D error, mm: body") == row(text, "image plane error, mm: all joints") == ["6.67", "0.00", "-6.67"]
    assert row(text, "weights > 0.001 in magnitude, %") == ["44.4", "33.3", "-11.1"]  # 8 and 6 of 18
    assert row(text, "negative weight per row, encoder") == ["0.000", "0.000", "+0.000"]


def test_text_of_pruning_without_poses():
    figures = measure(body_autoencoder())
    assert "error" not in pruning_text(0.1, figures, figures)
