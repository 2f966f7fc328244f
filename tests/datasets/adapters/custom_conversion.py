"""The real samples, to test and train on: those in 3D as bring-your-own folders, those in 2D as training splits."""

import json
import pathlib

import numpy as np


def write_h36m_custom(samples_dir: pathlib.Path, folder: pathlib.Path) -> None:
    """Three images of Human3.6M: joints in metres in the camera's frame, distorting cameras given as camera-to-world.

    Their image size is left out: the sample's images all have 1002 rows, the calibration of one of them says 1000.
    """
    samples_dir = pathlib.Path(samples_dir) / "h36m"
    calibrations = json.loads((samples_dir / "cameras.json").read_text())
    labels = np.load(samples_dir / "h36m_body3d.npz")
    cameras, images = {}, []
    for image_name, joints2d, joints3d in zip(labels["imgname"], labels["part"], labels["S"], strict=True):
        sequence, frame = pathlib.PurePath(str(image_name)).stem.rsplit("_", 1)
        subject, camera_id = sequence.split("_")[0], sequence.split(".")[1]
        name = f"{subject}/{camera_id}"
        c = {key: np.ravel(value).tolist() for key, value in calibrations[name].items() if key in "Tfckp"}
        cameras[name] = {
            "intrinsics": [*c["f"], *c["c"]], "distortion": [c["k"][0], c["k"][1], *c["p"], c["k"][2]],
            "camera_to_world": {"rotation": calibrations[name]["R"], "translation": c["T"]}}
        person = {"joints3d_camera": joints3d[:, :3].tolist(), "joints2d": joints2d[:, :2].tolist(), "subject": subject}
        images.append({"file": _link(samples_dir / str(image_name), folder), "camera": name, "sequence": sequence,
                       "frame": int(frame), "people": [person]})
    _write(folder, {"skeleton": "h36m_17", "units": "m", "world_up": "z", "cameras": cameras, "images": images})


def write_mpi_inf_3dhp_custom(samples_dir: pathlib.Path, folder: pathlib.Path) -> None:
    """Three images of MPI-INF-3DHP: two for training in world coordinates, one for testing in its camera's frame."""
    samples_dir = pathlib.Path(samples_dir) / "mpi_inf_3dhp"
    cameras, images = {}, []
    for part in ("train", "test"):
        calibrations = json.loads((samples_dir / f"cameras_{part}.json").read_text())
        labels = np.load(samples_dir / f"3dhp_{part}.npz")
        for image_name, joints2d, joints3d in zip(labels["imgname"], labels["part"], labels["S"], strict=True):
            name, frame = pathlib.PurePath(str(image_name)).stem.rsplit("_", 1)
            calibration = calibrations[name]
            cameras[name] = {"intrinsics": [*np.ravel(calibration["f"]), *np.ravel(calibration["c"])],
                             "image_size": [2048, 2048]}  # their h says 204, a slip
            is_labelled = (joints3d[:, 3] > 0).tolist()  # 0 for the joints outside of the picture
            points = joints3d[:, :3]
            if part == "train":
                rotation, translation = np.array(calibration["R"]), np.ravel(calibration["T"])
                cameras[name]["world_to_camera"] = {"rotation": rotation.tolist(), "translation": translation.tolist()}
                points = (points - translation) @ rotation  # R^T (X - t)
            points, pixels = (
                [row if ok else None for row, ok in zip(rows.tolist(), is_labelled, strict=True)]
                for rows in (points, joints2d[:, :2]))
            person = {"joints3d_world" if part == "train" else "joints3d_camera": points, "joints2d": pixels,
                      "subject": name.split("_")[0]}
            images.append({"file": _link(samples_dir / str(image_name), folder), "camera": name, "sequence": name,
                           "frame": int(frame), "people": [person]})
    _write(folder, {"skeleton": "mpi_inf_3dhp_17", "units": "m", "cameras": cameras, "images": images})


def link_2d_samples_for_training(samples_dir: pathlib.Path, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The COCO, MPII and PoseTrack samples as if all of them, validation data too, were for training.

    Returns: data set -> its raw folder.
    """
    samples_dir, folder = pathlib.Path(samples_dir).resolve(), pathlib.Path(folder)
    links = {"coco/annotations/person_keypoints_train.json": "coco/annotations/person_keypoints_subset.json",
             "coco/val2017": "coco/val2017", "mpii": "mpii", "posetrack/images": "posetrack18/images",
             "posetrack/annotations/train": "posetrack18/annotations/val"}
    for link, target in links.items():
        (folder / link).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / link).exists():
            (folder / link).symlink_to(samples_dir / target)
    return {name: folder / name for name in ("coco", "mpii", "posetrack")}


def _link(source: pathlib.Path, folder: pathlib.Path) -> str:
    """Links an image into `folder`/images. Returns: its path relative to `folder`."""
    target = pathlib.Path(folder) / "images" / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(source.resolve())
    return target.relative_to(folder).as_posix()


def _write(folder: pathlib.Path, content: dict) -> None:
    (pathlib.Path(folder) / "annotations.json").write_text(json.dumps(content, indent=1))
