import contextlib
import json
import time

import pytest

from posepile.data.atomic_files import atomic_file
from posepile.training import run_directory
from posepile.training.run_directory import RunDirectory, peak_memory_mb

SETTINGS = {"seed": 1, "augmentation": {"zoom": (0.75, 1.25)}, "datasets": {"a": 3}}


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "name")
    run.open(SETTINGS)
    return run


def test_same_settings_go_on(run):
    (run.path / "initial.keras").write_text("weights")
    RunDirectory(run.path).open(SETTINGS)
    RunDirectory(run.path).open(SETTINGS, overwrite=True)  # overwrites runs with other settings only
    assert (run.path / "initial.keras").read_text() == "weights"
    content = json.loads((run.path / "config.json").read_text())
    assert content["settings"]["augmentation"] == {"zoom": [0.75, 1.25]}
    assert {"python", "keras", "numpy"} <= content["versions"].keys()


def test_other_settings_are_refused_and_named(run):
    with pytest.raises(ValueError, match="other settings") as caught:
        run.open({"seed": 2, "augmentation": {"zoom": [0.75, 1.25]}, "steps": 9})
    message = str(caught.value)
    assert "seed: 1 in the run, 2 now" in message
    assert "steps: '(not set)' in the run, 9 now" in message
    assert "datasets: {'a': 3} in the run, '(not set)' now" in message
    assert "zoom" not in message
    assert "--overwrite" in message


def test_overwrite_starts_the_run_anew(run):
    run.run_part("initial", lambda: (run.path / "initial.keras").write_text("weights"))
    run.open({"seed": 2}, overwrite=True)
    assert [path.name for path in run.path.iterdir()] == ["config.json"]
    assert not run.is_done("initial")
    run.open({"seed": 2})


@pytest.mark.parametrize("content", [
    None, "{}", "[]", "not JSON", '{"settings": 3}', '{"settings": [], "versions": {}}', '{"settings": {"theme": "dark"}}'])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_never_touched(tmp_path, content, overwrite):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_text("irreplaceable")
    if content is not None:  # other programs, too, call a file config.json
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="Use another --workdir"):
        RunDirectory(tmp_path).open(SETTINGS, overwrite=overwrite)
    assert (tmp_path / "photos" / "1.jpg").read_text() == "irreplaceable"


def test_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("text")
    with pytest.raises(ValueError, match="--workdir"):
        RunDirectory(path).open(SETTINGS, overwrite=True)
    assert path.read_text() == "text"


def test_an_empty_folder_is_taken(tmp_path):
    RunDirectory(tmp_path).open(SETTINGS)
    assert (tmp_path / "config.json").is_file()


def test_parts_are_done_once(run):
    calls = []
    for _ in range(2):
        run.run_part("initial", lambda: calls.append("initial"))
        run.run_part("finetune", lambda: calls.append("finetune"))
    RunDirectory(run.path).run_part("initial", lambda: calls.append("again"))
    assert calls == ["initial", "finetune"]
    assert run.progress()["done"] == ["initial", "finetune"]
    assert run.progress()["peak_memory_mb"] >= 20
    assert run.progress()["peak_memory_mb"] <= peak_memory_mb()


def test_time_adds_up_over_interruptions(run):
    def interrupted():
        time.sleep(0.15)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run.run_part("initial", interrupted)
    assert not run.is_done("initial")
    run.run_part("initial", lambda: time.sleep(0.15))
    assert run.is_done("initial")
    assert 0.3 <= run.progress()["seconds"]["initial"] <= 1.5


def test_the_others_wait_for_what_the_chief_does(tmp_path, monkeypatch, capsys):
    """They take part in what is done together, and write nothing."""
    done = []
    chief, other = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run", is_chief=False)
    with pytest.raises(ValueError, match="not the folder that the chief has opened"):
        other.open(SETTINGS)
    chief.open(SETTINGS)
    other.open(SETTINGS)
    with pytest.raises(ValueError, match="not the folder that the chief has opened"):
        other.open({"seed": 2})
    with contextlib.ExitStack() as chief_works:
        chief_works.enter_context(chief.locked())
        acts = iter([lambda: chief.run_part("alone", lambda: done.append("chief")),
                     lambda: None,
                     lambda: chief.run_part("together", lambda: done.append("chief"), together=True),
                     chief_works.close])
        monkeypatch.setattr(run_directory.time, "sleep", lambda seconds: next(acts)())  # the chief works while the other waits
        with other.locked():
            other.run_part("alone", lambda: done.append("other"))
            other.run_part("together", lambda: done.append("other"), together=True)
            assert done == ["chief", "other", "chief"]
            other.run_part("together", lambda: done.append("other"), together=True)
            assert len(done) == 3
    assert next(acts, None) is None  # at the end, too, the other has waited for the chief
    assert {path.name for path in chief.path.iterdir()} == {"config.json", "progress.json", ".lock"}
    assert "waiting for the chief to do the part together" in capsys.readouterr().err


def test_the_others_stop_if_the_chief_does(tmp_path, monkeypatch):
    chief, other = RunDirectory(tmp_path), RunDirectory(tmp_path, is_chief=False)
    chief.open(SETTINGS)
    with contextlib.ExitStack() as chief_works:
        chief_works.enter_context(chief.locked())
        monkeypatch.setattr(run_directory.time, "sleep", lambda seconds: chief_works.close())
        with pytest.raises(ValueError, match="stopped and did not do the part autoencoder"), other.locked():
            other.run_part("autoencoder", lambda: None)


def test_what_a_killed_writer_left_is_cleared(run):
    with atomic_file(run.path / "checkpoints" / "initial-00000004.npz") as file:
        file.write(b"whole")
    leftovers = [run.path / ".metrics.jsonl.x1.part", run.path / "checkpoints" / ".initial-00000008.npz.x2.part",
                 run.path / ".initial.part.keras", run.path / "evaluation" / ".initial.json.x3.part"]
    (run.path / "evaluation").mkdir()
    for path in leftovers:
        path.write_bytes(b"half")
    with run.locked():
        assert [path for path in leftovers if path.exists()] == []
        with atomic_file(run.path / "metrics.jsonl") as file:  # of the process at work: another one does not get that far
            file.write(b"half")
            with pytest.raises(ValueError, match="another process"), RunDirectory(run.path).locked():
                pass
    assert (run.path / "metrics.jsonl").read_bytes() == b"half"
    assert (run.path / "checkpoints" / "initial-00000004.npz").read_bytes() == b"whole"


def test_full_disk_does_not_hide_what_went_wrong_first(run, monkeypatch):
    def fail():
        raise OSError("the checkpoint of step 8 could not be written")

    def no_space(*_):
        raise OSError("no space left for progress.json")

    monkeypatch.setattr(run_directory, "write_json", no_space)
    with pytest.raises(OSError, match="step 8"):
        run.run_part("initial", fail)
    with pytest.raises(OSError, match=r"progress\.json"):  # a part that is done is not taken for done, and says so
        run.run_part("initial", lambda: None)
    assert not run.is_done("initial")
