import hashlib
import pathlib

import keras
import numpy as np
import pytest

from posepile.models import pretrained
from posepile.models.backbones import backbone_info, build_backbone
from tests.posepile.models import applications
from tests.posepile.models.applications import noise_images, randomize


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_weights_from_file(tmp_path, suffix):
    model = randomize(build_backbone("tiny", 64))
    path = tmp_path / f"tiny{suffix}"
    model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    loaded = build_backbone("tiny", 128, group_sizes=None, weights=path, seed=3)
    for weight, wanted in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, wanted)


@pytest.mark.parametrize("name", applications.SMALLER)
def test_weights_of_keras_applications_fit(tmp_path, monkeypatch, name):
    original = randomize(applications.stock(name))
    path = tmp_path / "weights.h5"  # the format that keras.applications publishes
    original.save(path)
    applications.change(monkeypatch, name, config_changes={}, inserted_layers={})  # leaves strides and paddings alone
    expected = keras.ops.convert_to_numpy(original(applications.stock_input(name, noise_images(2, 64))))
    outputs = build_backbone(name, 64, weights=path)(noise_images(2, 64))
    tolerance = 1e-5 * np.abs(expected).max()
    assert expected.shape[:3] == (2, 2, 2) and np.ptp(expected, axis=(0, 1, 2)).max() > 100 * tolerance
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize(("name", "suffix"), [("resnet50", ".h5"), ("mobilenetv3-small", ".weights.h5")])
def test_weights_of_keras_applications_fit_with_strides_moved(tmp_path, name, suffix):
    original = randomize(applications.stock(name))
    path = tmp_path / f"stock{suffix}"
    original.save_weights(path) if suffix == ".weights.h5" else original.save(path)
    loaded = build_backbone(name, 96, weights=path)
    for weight, wanted in zip(loaded.get_weights(), original.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, wanted)


@pytest.mark.parametrize("name", applications.CONSTRUCTORS)
def test_imagenet_files_are_those_that_keras_applications_fetches(name, monkeypatch):
    class Fetched(Exception):
        pass

    def get_file(fname, origin, file_hash, cache_subdir):
        raise Fetched(fname, origin, file_hash, cache_subdir)

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    with pytest.raises(Fetched) as fetched:
        applications.without_weights(lambda: applications.CONSTRUCTORS[name](
            include_top=False, weights="imagenet", input_shape=(224, 224, 3)))
    info = backbone_info(name)
    assert fetched.value.args == (pathlib.PurePath(info.imagenet_file).name,
                                  pretrained._APPLICATIONS_URL + info.imagenet_file, info.imagenet_md5, "models")


def test_imagenet_weights_are_fetched_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pretrained, "_APPLICATIONS_URL", f"{tmp_path.as_uri()}/")
    model = randomize(build_backbone("tiny", 64))
    published = tmp_path / "published" / "tiny.weights.h5"
    published.parent.mkdir()
    model.save_weights(published)
    content = published.read_bytes()
    applications.change(monkeypatch, "tiny", imagenet_file="published/tiny.weights.h5",
                        imagenet_md5=hashlib.md5(content).hexdigest())
    cached = tmp_path / "home" / "models" / "tiny.weights.h5"

    published.write_bytes(content[:-1])
    with pytest.raises(ConnectionError, match=r"Could not download .*MD5 .* put it at .*home/models/tiny\.weights\.h5"):
        build_backbone("tiny", 64, weights="imagenet")
    assert list(cached.parent.iterdir()) == []

    published.write_bytes(content)
    build_backbone("tiny", 64, weights="imagenet")
    published.unlink()
    again = build_backbone("tiny", 64, weights="imagenet")  # from the cache
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])

    cached.unlink()
    with pytest.raises(ConnectionError, match=r"Could not download .*tiny\.weights\.h5 .*weights='none'"):
        build_backbone("tiny", 64, weights="imagenet")


def test_weights_that_do_not_fit_or_do_not_exist(tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"other\.weights\.h5' do not fit the backbone 'tiny'"):
        build_backbone("tiny", 64, weights=tmp_path / "other.weights.h5")
    (tmp_path / "broken.weights.h5").write_bytes(b"not HDF5")
    with pytest.raises(ValueError, match=r"broken\.weights\.h5' do not fit"):
        build_backbone("tiny", 64, weights=tmp_path / "broken.weights.h5")
    with pytest.raises(FileNotFoundError, match=r"no file of backbone weights '/nowhere/x\.keras'"):
        build_backbone("tiny", 64, weights="/nowhere/x.keras")
    with pytest.raises(ValueError, match=r"'tiny' has no ImageNet weights.*efficientnetv2-b0"):
        build_backbone("tiny", 64, weights="imagenet")
