import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from ace.__main__ import main
from ace.autoencoder import AffineAutoencoder
from ace.fitting import fit_autoencoder
from ace.report_folder import REPORT_FILES
from tests.ace.test_report import body_autoencoder

FORMATS = "h36m_17,coco_19"


@pytest.fixture
def poses_file(tmp_path, skeleton, poses):
    np.savez(tmp_path / "poses.npz", joints3d=np.float32(poses), joint_names=np.array(skeleton.joint_names))
    return tmp_path / "poses.npz"


def test_fit_then_report(tmp_path, poses_file, skeleton, poses, capsys):
    output = tmp_path / "autoencoder.npz"
    main(["fit", f"--poses={poses_file}", f"--skeletons={FORMATS}", "--latents=12", "--sweeps=6", "--seed=4",
          f"--output={output}"])
    autoencoder = AffineAutoencoder.load(output)
    expected = fit_autoencoder(np.float32(poses), skeleton, 12, sweeps=6, seed=4, progress=False)
    np.testing.assert_array_equal(autoencoder.encoder, expected.encoder)
    fitted = capsys.readouterr().out
    main(["report", f"--autoencoder={output}", f"--poses={poses_file}"])
    reported = capsys.readouterr().out
    assert fitted.split("written:")[0] == reported
    assert "12 (5 left, 5 right, 2 centre)" in reported


def test_masks_in_the_file_are_used(tmp_path, poses, capsys):
    masks = np.ones(poses.shape[:2], bool)
    masks[::2, 5] = False
    np.savez(tmp_path / "poses.npz", joints3d=np.where(masks[..., None], poses, -9e9), joints3d_mask=masks)
    main(["fit", f"--poses={tmp_path / 'poses.npz'}", f"--skeletons={FORMATS}", "--sweeps=4",
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


@pytest.fixture
def body_files(tmp_path):
    """An autoencoder, weights 1 and -0.2 among them, and a file of two poses for it."""
    body_autoencoder().save(tmp_path / "body.npz")
    poses = np.array([[[100.0, 0, 1000], [-100, 0, 1000], [0, -100, 1000]]] * 2)
    poses[1, 2] = np.nan
    np.savez(tmp_path / "body_poses.npz", joints3d=poses)
    return [f"--autoencoder={tmp_path / 'body.npz'}", f"--poses={tmp_path / 'body_poses.npz'}"]


def test_report_as_json_and_as_a_folder(tmp_path, body_files, capsys):
    main(["report", *body_files, "--prune=0.3", "--json", f"--output={tmp_path / 'new' / 'out'}"])
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert [pathlib.Path(line.split()[-1]).name for line in printed.err.splitlines()] == [
        "report.txt", "report.json", "weights.png", "objective.png", "latents.png", "error_per_joint.png"]
    assert json.loads((tmp_path / "new/out/report.json").read_text()) == figures
    assert {path.name for path in (tmp_path / "new/out").iterdir()} == set(REPORT_FILES)
    assert [joint["num_valid"] for joint in figures["errors"]["joints"]] == [2, 2, 1]
    pruned = figures["pruned"]  # 1.2 and 0.5 stay, -0.2 and 0.25 go
    assert pruned["threshold"] == 0.3 and pruned["encoder"]["share_exact_zero"] == 6 / 9
    # a hand, 100 mm off the middle, comes out half way to the neck, or where that is missing to the middle of the hands
    hand = next(joint for joint in pruned["errors"]["joints"] if joint["name"] == "left_hand")
    assert hand["error_3d"]["mean"] == pytest.approx((50 * 2 ** 0.5 + 50) / 2)
    main(["report", *body_files, "--prune=0.3"])
    text = capsys.readouterr().out
    assert (tmp_path / "new/out/report.txt").read_text() == text
    assert f"{pruned['errors']['all']['error_3d']['mean']:10.2f}" in text


def test_report_writes_the_pruned_autoencoder(tmp_path, body_files, capsys):
    output = tmp_path / "pruned.npz"
    main(["report", *body_files, "--prune=0.3", f"--pruned-output={output}"])
    np.testing.assert_array_equal(AffineAutoencoder.load(output).encoder, np.eye(3))
    assert capsys.readouterr().out.endswith(f"written: {output}\n")
    before = output.read_bytes()
    with pytest.raises(SystemExit, match=r"pruned\.npz exists; name another --pruned-output or give --overwrite"):
        main(["report", *body_files, "--prune=0.1", f"--pruned-output={output}"])
    assert output.read_bytes() == before
    main(["report", *body_files, "--prune=0.1", f"--pruned-output={output}", "--overwrite"])
    assert AffineAutoencoder.load(output).encoder[0, 1] == pytest.approx(-0.2)


def test_report_without_poses_replaces_a_report_with_poses(tmp_path, body_files):
    output = f"--output={tmp_path / 'out'}"
    main(["report", *body_files, output])
    with pytest.raises(SystemExit, match=r"report\.txt exists; name another --output or give --overwrite"):
        main(["report", *body_files, output])
    main(["report", body_files[0], output, "--overwrite"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.txt", "report.json", "weights.png", "objective.png"}


@pytest.mark.parametrize(("flags", "message"), [
    (["--prune=1.5"], r"--prune=1\.5 is not from 0 to 1;"),
    (["--prune=-1"], "--prune=-1 is not from 0 to 1;"),
    (["--prune=nan"], "--prune=nan is not from 0 to 1;"),
    (["--pruned-output=x.npz"], "--pruned-output needs --prune=THRESHOLD"),
    (["--output={folder}/body.npz"], r"body\.npz is a file; name a folder"),
    (["--poses={folder}/body.npz"], r"cannot read poses from .*body\.npz: it has no array joints3d"),
    (["--poses={folder}/none.npz"], r"No such file.*none\.npz"),
    (["--autoencoder={folder}/body_poses.npz"], r"body_poses\.npz is not an autoencoder file"),
])
def test_wrong_flags_of_report_are_explained(tmp_path, body_files, flags, message):
    files = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit, match=message):
        main(["report", *body_files, *(flag.format(folder=tmp_path) for flag in flags)])
    assert {path.name for path in tmp_path.iterdir()} == files


def test_poses_in_metres_are_explained(tmp_path, body_files):
    poses = np.load(tmp_path / "body_poses.npz")["joints3d"]
    np.savez(tmp_path / "body_poses.npz", joints3d=poses / 1000)
    with pytest.raises(SystemExit, match="metres"):
        main(["report", *body_files, f"--output={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_runs_without_tensorflow_and_keras():
    code = ("import sys; sys.modules.update(tensorflow=None, keras=None); import ace; from ace.__main__ import main; "
            "main(['--help'])")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and "python -m ace fit" in result.stdout, result.stderr


@pytest.fixture
def both_file(tmp_path, autoencoder, poses):
    """Two joints of a new format beside the known ones, labelled in 2D; a normalised camera."""
    autoencoder.save(tmp_path / "autoencoder.npz")
    joints = poses[:80, [autoencoder.skeleton.index(f"{side}_wrist_h36m") for side in ("left", "right")]]
    np.savez(tmp_path / "both.npz", joints3d=poses[:80], joint_names=np.array(autoencoder.joint_names),
             new_joints2d=joints[..., :2] / joints[..., 2:], intrinsics=np.repeat(np.eye(3)[None], 80, axis=0))
    (tmp_path / "gloves.toml").write_text('name = "gloves"\njoints = ["left", "right"]\nmirror_pairs = [["left", "right"]]\n')
    return tmp_path / "both.npz"


def test_add_skeleton(tmp_path, both_file, autoencoder, poses, capsys):
    output = tmp_path / "gloves.npz"
    command = ["add-skeleton", f"--autoencoder={tmp_path / 'autoencoder.npz'}", f"--poses={both_file}",
               f"--skeleton={tmp_path / 'gloves.toml'}", f"--output={output}"]
    main(command)
    report = capsys.readouterr().out
    assert report.startswith("gloves: 2 joints from 36") and f"written: {output}" in report
    with np.load(output) as file:
        wrists = file["weights"] @ poses[80:]
    expected = autoencoder.reconstruct(poses[80:])[:, [autoencoder.skeleton.index(f"{side}_wrist_h36m")
                                                       for side in ("left", "right")]]
    assert np.linalg.norm(wrists - expected, axis=-1).mean() < 30  # mm: as good as the autoencoder's own rows
    with pytest.raises(SystemExit, match=r"gloves\.npz exists; name another --output or give --overwrite"):
        main(command)
    main([*command, "--overwrite", "--l1=0.6", "--seed=2"])
    assert "l1 0.6" in capsys.readouterr().out


def test_bad_input_of_add_skeleton(tmp_path, both_file):
    command = ["add-skeleton", f"--autoencoder={tmp_path / 'autoencoder.npz'}", f"--output={tmp_path / 'gloves.npz'}"]
    for arguments, message in (
            ([f"--poses={both_file}"], r"both\.npz: it defines no skeleton; give --skeleton"),
            ([f"--poses={tmp_path / 'gone.npz'}"], r"No such file.*gone\.npz"),
            ([f"--poses={both_file}", f"--skeleton={tmp_path / 'gone.toml'}"], r"No such file.*gone\.toml"),
            ([f"--poses={both_file}", "--skeleton=h36m_17"], r"new_joints2d is float64 \[80, 2, 2\]"),
            ([f"--poses={both_file}", f"--skeleton={tmp_path / 'gloves.toml'}", "--l1=-1"], "l1 is -1")):
        with pytest.raises(SystemExit, match=message):
            main([*command, *arguments])
    assert not (tmp_path / "gloves.npz").exists()
