import subprocess
import sys

import numpy as np
import pytest

from ace.__main__ import main
from ace.autoencoder import AffineAutoencoder
from ace.fitting import fit_autoencoder

FORMATS = "h36m_17,coco_19"


@pytest.fixture
def poses_file(tmp_path, skeleton, poses):
    np.savez(tmp_path / "poses.npz", joints3d=np.float32(poses), joint_names=np.array(skeleton.joint_names))
    return tmp_path / "poses.npz"


def test_fit_then_report(tmp_path, poses_file, skeleton, poses, capsys):
    output, picture = tmp_path / "autoencoder.npz", tmp_path / "weights.png"
    main(["fit", f"--poses={poses_file}", f"--skeletons={FORMATS}", "--latents=12", "--steps=60", "--seed=4",
          f"--output={output}"])
    autoencoder = AffineAutoencoder.load(output)
    expected = fit_autoencoder(np.float32(poses), skeleton, 12, steps=60, seed=4, progress=False)
    np.testing.assert_array_equal(autoencoder.encoder, expected.encoder)
    fitted = capsys.readouterr().out
    main(["report", f"--autoencoder={output}", f"--poses={poses_file}", f"--picture={picture}"])
    reported = capsys.readouterr().out
    assert fitted.split("written:")[0] == reported.split("written:")[0]
    assert "12 (5 left, 5 right, 2 centre)" in reported and picture.read_bytes().startswith(b"\x89PNG")
    main(["report", f"--autoencoder={output}", "--prune=0.05"])
    assert f"{autoencoder.prune(0.05).sparsity:.1%}" in capsys.readouterr().out


def test_masks_in_the_file_are_used(tmp_path, poses, capsys):
    masks = np.ones(poses.shape[:2], bool)
    masks[::2, 5] = False
    np.savez(tmp_path / "poses.npz", joints3d=np.where(masks[..., None], poses, -9e9), joints3d_mask=masks)
    main(["fit", f"--poses={tmp_path / 'poses.npz'}", f"--skeletons={FORMATS}", "--steps=40",
          f"--output={tmp_path / 'a.npz'}"])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("all joints")).split()
    assert float(row[2]) < 200  # mm: no garbage in it


@pytest.mark.parametrize(("skeletons", "message"), [
    ("h36m_18", "unknown skeleton 'h36m_18'; known ones: smpl_24"),
    ("coco_19,h36m_17", "joint_names in .* are not those of coco_19.h36m_17: pelvis_h36m instead of neck_coco"),
    ("h36m_17", r"joints3d in .*poses\.npz has shape \[600, 36, 3\]; expected \[n, 17, 3\]"),
])
def test_wrong_formats_are_explained(tmp_path, poses_file, skeletons, message):
    with pytest.raises(SystemExit, match=message):
        main(["fit", f"--poses={poses_file}", f"--skeletons={skeletons}", f"--output={tmp_path / 'a.npz'}"])
    assert not (tmp_path / "a.npz").exists()


def test_wrong_files_are_explained(tmp_path, poses_file):
    output = tmp_path / "a.npz"
    fit = ["fit", f"--skeletons={FORMATS}", f"--output={output}"]
    with pytest.raises(SystemExit, match=r"No such file.*missing\.npz"):
        main([*fit, f"--poses={tmp_path / 'missing.npz'}"])
    np.savez(tmp_path / "other.npz", joints=np.zeros(3))
    with pytest.raises(SystemExit, match=r"cannot read poses .*other\.npz: it has no array joints3d, only: joints"):
        main([*fit, f"--poses={tmp_path / 'other.npz'}"])
    output.write_bytes(b"precious")
    with pytest.raises(SystemExit, match="exists; name another --output or give --overwrite"):
        main([*fit, f"--poses={poses_file}"])
    assert output.read_bytes() == b"precious"
    with pytest.raises(SystemExit, match=r"a\.npz is not an autoencoder file"):
        main(["report", f"--autoencoder={output}"])


def test_runs_without_tensorflow_and_keras():
    code = ("import sys; sys.modules.update(tensorflow=None, keras=None); import ace; from ace.__main__ import main; "
            "main(['--help'])")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and "python -m ace fit" in result.stdout, result.stderr
