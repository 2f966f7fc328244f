import dataclasses
import math

import pytest

from posepile.data.augmentation import AugmentationConfig
from posepile.training import config
from posepile.training.config import TrainConfig, make_config


def test_defaults_are_the_published_settings():
    defaults = make_config({}, {})
    assert defaults == TrainConfig()
    assert defaults.backbone == "efficientnetv2-s"
    assert defaults.crop_side == 256
    assert (defaults.initial_steps, defaults.finetune_steps) == (400_000, 40_000)
    assert defaults.bn_inference_steps == 1000
    assert defaults.absolute_loss_start == 5000
    assert defaults.weak_perspective_steps == 500
    assert defaults.base_learning_rate == 2.12e-4
    # 3e-3 / sqrt(400000) / 2.12e-4 = 3e-3 / 632.4555 / 2.12e-4
    assert defaults.weight_decay == pytest.approx(0.0223746, rel=1e-5)
    assert defaults.consistency == "regularize"
    assert defaults.autoencoder_l1 == 0.6
    assert defaults.ghost_batch_size == "16"
    assert (defaults.augmentation.zoom, defaults.augmentation.roll_degrees) == ((0.75, 1.25), 20.0)
    assert (defaults.occluder_dir, defaults.background_dir, defaults.skip_bad) == ("", "", False)


def test_the_user_overrides_the_set_which_overrides_the_defaults():
    result = make_config({"crop_side": 128, "seed": 4, "base_learning_rate": 1, "backbone": "tiny", "ghost_batch_size": 8,
                          "num_latents": 24, "pseudo_label_datasets": ["a", "b"], "skip_bad": True, "occluder_dir": "mine"},
                         {"seed": 5, "crop_side": None, "backbone_weights": "none", "occluder_dir": "",
                          "dataset_augmentation": {"a": AugmentationConfig(shift=0.2)}})
    assert (result.crop_side, result.seed, result.num_latents) == (128, 5, 24)
    assert isinstance(result.base_learning_rate, float)
    assert result.ghost_batch_size == "8"
    assert result.pseudo_label_datasets == ("a", "b")
    assert result.skip_bad is True
    assert result.occluder_dir == ""  # "--occluder-dir=" goes back to drawn pictures
    assert result.dataset_augmentation["a"].shift == 0.2
    assert make_config({"skip_bad": True}, {"skip_bad": False}).skip_bad is False


@pytest.mark.parametrize(("hyperparameters", "message"), [
    ({"lerning_rate": 1.0}, r"unknown hyperparameters \['lerning_rate'\]; valid ones: backbone, .*base_learning_rate"),
    ({"backbone": "resnet9000"}, "unknown backbone 'resnet9000'; valid ones: .*efficientnetv2-s.*tiny"),
    ({"consistency": "strong"}, "unknown consistency 'strong'; valid ones: regularize, .*none"),
    ({"precision": "float64"}, "unknown precision 'float64'; valid ones: float32, mixed_float16, mixed_bfloat16"),
    ({"ghost_batch_size": "few"}, "ghost_batch_size .*'few'; valid ones: .*16, 3d/2d, none"),
    ({"ghost_batch_size": "0"}, "ghost_batch_size .*'0'"),
    ({"crop_side": "256"}, "crop_side must be an? int, got '256'"),
    ({"crop_side": 256.0}, "crop_side must be an? int"),
    ({"crop_side": True}, "crop_side must be an? int, got True"),
    ({"base_learning_rate": "1e-4"}, "base_learning_rate must be a float"),
    ({"base_learning_rate": 0.0}, "base_learning_rate must be positive"),
    ({"base_learning_rate": math.inf}, "base_learning_rate must be positive"),
    ({"base_learning_rate": math.nan}, "base_learning_rate must be positive"),
    ({"initial_steps": 0}, "initial_steps must be 1 or more, got 0"),
    ({"checkpoint_interval": -1}, "checkpoint_interval must be 1 or more"),
    ({"bn_inference_steps": -1}, "bn_inference_steps must not be negative"),
    ({"consistency": "latent,strong"}, "unknown consistency 'strong'; valid ones: regularize, latent, hybrid, none"),
    ({"consistency": "none,none"}, "names a way twice"),
    ({"loss_scale": "0.5"}, "unknown loss_scale '0.5'; valid ones: auto, dynamic, none, or a number"),
    ({"loss_scale": "nan"}, "unknown loss_scale"),
    ({"average_momentum": 1.0}, "average_momentum must be 0 .* or less than 1"),
    ({"clip_norm": math.nan}, "clip_norm must be 0 .* or positive"),
    ({"micro_batches": 0}, "micro_batches must be 1 or more"),
    ({"validation_interval": 0}, "validation_interval must be 1 or more"),
    ({"skip_bad": "yes"}, "skip_bad must be a bool, got 'yes'"),
    ({"skip_bad": 1}, "skip_bad must be a bool, got 1"),
    ({"background_dir": ["a"]}, "background_dir must be a str"),
    ({"augmentation": 3}, "augmentation must be an? AugmentationConfig"),
])
def test_wrong_settings(hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        make_config(hyperparameters, {})


def test_groups_of_ghost_batchnorm():
    def sizes(value, num_3d=96, num_2d=32):
        return dataclasses.replace(TrainConfig(), ghost_batch_size=value).group_sizes(num_3d, num_2d)

    assert sizes("16") == 16
    assert sizes("3d/2d") == (96, 32)
    assert sizes("3d/2d", 96, 0) == (96,)
    assert sizes("none") is None


def test_groups_on_several_devices_and_in_micro_batches():
    """96 + 32 on 2 devices in 2 micro-batches: each device takes 24 + 8 at once."""
    def sizes(value, micro_batches=1, **devices):
        return dataclasses.replace(TrainConfig(), ghost_batch_size=value, micro_batches=micro_batches).group_sizes(
            96, 32, **devices)

    assert sizes("16", 2, num_replicas=2) == 16
    assert sizes("3d/2d", 2, num_replicas=2) == (24, 8)
    assert sizes("3d/2d", 2, num_blocks=2) == (24, 8, 24, 8)  # one run of the model sees the rows of both devices
    assert sizes("none", 2, num_blocks=2) is None
    with pytest.raises(ValueError, match="ghost_batch_size 16 does not divide the 8 examples that a device takes at once"):
        sizes("16", 4, num_replicas=4)
    with pytest.raises(ValueError, match=r"96 examples with 3D .* 32 with 2D .* by 5 devices times 1 micro-batches"):
        sizes("none", num_replicas=5)


@pytest.mark.parametrize(("loss_scale", "precision", "expected"), [
    ("auto", "float32", None), ("auto", "mixed_bfloat16", None), ("auto", "mixed_float16", "dynamic"), ("128", "float32", 128),
    ("none", "mixed_float16", None), ("dynamic", "float32", "dynamic")])
def test_loss_scale(loss_scale, precision, expected):
    assert make_config({"loss_scale": loss_scale, "precision": precision}, {}).resolved_loss_scale() == expected


def test_several_ways_of_consistency():
    assert TrainConfig().consistency_modes == ("regularize",)
    assert make_config({"consistency": "hybrid, none"}, {}).consistency_modes == ("hybrid", "none")


def test_onsets_of_phases_too_short_for_the_published_ones():
    defaults = TrainConfig()
    for steps, expected in ((400_000, (1000, 5000, 5000, 500)), (40_000, (1000, 5000, 5000, 500)),
                            (8000, (1000, 1000, 1000, 500)), (80, (10, 10, 10, 10)), (4, (0, 0, 0, 0))):
        assert (defaults.bn_steps(steps), defaults.absolute_start(steps), defaults.teacher_start(steps),
                defaults.weak_steps(steps)) == expected


@pytest.mark.parametrize(("names", "trained", "expected"), [
    ((), ("aist", "bml_movi", "gpa", "h36m"), ("bml_movi", "h36m")),
    ((), ("aist", "h36m"), ("h36m",)),
    ((), ("studio", "street"), ("studio", "street")),
    (("gpa", "aist", "gpa"), ("aist", "h36m", "gpa"), ("aist", "gpa")),
])
def test_pseudo_labelled_datasets(names, trained, expected):
    assert config.pseudo_labelled_datasets(names, trained) == expected


def test_pseudo_labelled_datasets_have_to_be_trained_on():
    with pytest.raises(ValueError, match=r"names coco, gaa; valid ones .* with 3D labels: aist, gpa"):
        config.pseudo_labelled_datasets(["coco", "aist", "gaa"], ["aist", "gpa"])


def test_unknown_choices_are_spelled_out_completely():
    with pytest.raises(ValueError, match=", ".join(config.CONSISTENCY_MODES)):
        make_config({"consistency": "x"}, {})
