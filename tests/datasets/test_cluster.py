import dataclasses
import functools
import hashlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
import uuid

import pytest

from datasets import cluster
from datasets.folder_lock import PrepareError, hold_folder
from datasets.prepare import _digest_of_names, _find_worker_problem, _versions, prepare
from tests.datasets import tiny_adapter
from tests.datasets.test_prepare import all_bytes, prepare_tiny
from tests.datasets.tiny_adapter import ADAPTER, write_raw

distributed = pytest.importorskip("distributed", reason="preparation on a cluster needs the extra [cluster]")

PATIENCE_SECONDS = 30


@pytest.fixture(name="local_cluster", scope="module")
def start_cluster():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
                                  dashboard_address="127.0.0.1:0", silence_logs=50) as local_cluster:
        yield local_cluster


@pytest.fixture(name="scheduler")
def address(local_cluster):
    local_cluster.wait_for_workers(2, timeout=PATIENCE_SECONDS)
    return local_cluster.scheduler_address


@pytest.fixture(name="raw_dir")
def make_raw_dir(tmp_path):
    return write_raw(tmp_path / "raw", train=[3, 1, 4, 2], test=[2])


def load_deadly_unit(raw_dir, unit):
    """Kills its process: at train1 and, if the file `deadly` says so, only once."""
    deadly = raw_dir / "deadly"
    if unit["name"] == "train1" and deadly.exists():
        if deadly.read_text() == "once":
            deadly.unlink()
        os._exit(1)
    yield from tiny_adapter.load_unit(raw_dir, unit)


def find_problem_of(worker_address, dask_worker):
    return "is odd" if dask_worker.address == worker_address else None


def report_thrice(job, report):
    for _ in range(3):
        report(1, job)
    return -job


def report_until_seen(path, report):
    """Returns: the number of reports."""
    for number in itertools.count():
        if path.exists() or number == 100 * PATIENCE_SECONDS:
            return number
        report(0, 1)
        time.sleep(0.01)


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_cluster_makes_the_same_bytes(scheduler, raw_dir, tmp_path, monkeypatch):
    prepare_tiny(raw_dir, tmp_path / "local")
    monkeypatch.chdir(tmp_path)  # the workers are elsewhere
    manifest = prepare(ADAPTER, "raw", "data", scheduler=scheduler, progress=False, person_side=64)
    assert manifest["splits"]["train"]["num_examples"] == 10
    assert all_bytes(tmp_path / "data") == all_bytes(tmp_path / "local")


def test_progress_counts_every_job_once(scheduler):
    shown = []
    with cluster.connect(scheduler) as client:
        results = dict(cluster.run_jobs(report_thrice, [1, 10, 100], client, lambda *counts: shown.append(counts)))
    assert results == {1: -1, 10: -10, 100: -100}
    assert shown[-1] == (9, 333) and shown == sorted(shown)


def test_progress_arrives_before_a_job_ends(scheduler, tmp_path):
    path, shown = tmp_path / "seen", []

    def show(units, examples):
        shown.append(examples)
        if examples:
            path.touch()

    with cluster.connect(scheduler) as client:
        [(_, num_reports)] = cluster.run_jobs(report_until_seen, [path], client, show)
    assert num_reports < 100 * PATIENCE_SECONDS and shown[-1] == num_reports


def test_error_in_a_job_reads_as_it_does_locally(scheduler, tmp_path):
    raw_dir = write_raw(tmp_path / "raw", train=[2, {"name": "broken", "examples": 3, "bad": {"1": "box"}}])
    messages = []
    for options in ({"workers": 1}, {"workers": None, "scheduler": scheduler}):
        with pytest.raises(ValueError, match=r'tiny, train, unit .*"broken".* example 1 .*bbox is') as raised:
            prepare_tiny(raw_dir, tmp_path / str(len(messages)), strict=True, **options)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_cancelled_run_is_finished_locally(scheduler, local_cluster, raw_dir, tmp_path):
    (raw_dir / "slow").touch()
    folder = tmp_path / "data" / "tiny"

    def press_ctrl_c():
        wait_until(lambda: list(folder.glob("*.tfrecord")))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=press_ctrl_c).start()
    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        prepare_tiny(raw_dir, tmp_path / "data", workers=None, scheduler=scheduler)
    assert not (folder / "manifest.json").exists()
    wait_until(lambda: not local_cluster.scheduler.tasks)
    (raw_dir / "slow").unlink()
    prepare_tiny(raw_dir, tmp_path / "data")
    prepare_tiny(raw_dir, tmp_path / "undisturbed")
    wait_until(lambda: not list(folder.rglob("*.part")))  # of jobs that just ended themselves
    assert all_bytes(tmp_path / "data") == all_bytes(tmp_path / "undisturbed")


def test_job_of_a_dead_worker_is_run_again_until_they_die_repeatedly(scheduler, local_cluster, raw_dir, tmp_path, monkeypatch):
    adapter = dataclasses.replace(ADAPTER, load_unit=load_deadly_unit)
    (raw_dir / "deadly").write_text("once")
    prepare_tiny(raw_dir, tmp_path / "data", adapter, workers=None, scheduler=scheduler)
    prepare_tiny(raw_dir, tmp_path / "undisturbed")
    assert all_bytes(tmp_path / "data") == all_bytes(tmp_path / "undisturbed")
    (raw_dir / "deadly").write_text("always")
    monkeypatch.setattr(local_cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(PrepareError, match=r"workers that ran a job died \(1 times.* the same command continues"):
        prepare_tiny(raw_dir, tmp_path / "other", adapter, workers=None, scheduler=scheduler)


def test_worker_that_cannot_import_the_adapter_is_named(scheduler, raw_dir, tmp_path, monkeypatch):
    name = f"adapter_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text("from tests.datasets.tiny_adapter import *\ndef skeleton(raw_dir): return SKELETON")
    monkeypatch.syspath_prepend(tmp_path)
    adapter = dataclasses.replace(ADAPTER, skeleton=__import__(name).skeleton)
    with pytest.raises(PrepareError, match=rf"worker tcp://127.0.0.1:\d+: fails the check: .*{name}.*same software"):
        prepare_tiny(raw_dir, tmp_path / "data", adapter, workers=None, scheduler=scheduler)


def test_worker_with_a_problem_is_named(scheduler, local_cluster):
    odd = sorted(local_cluster.scheduler.workers)[1]
    with cluster.connect(scheduler) as client, pytest.raises(PrepareError, match=f"^worker {odd}: is odd$"):
        cluster.check_workers(client, find_problem_of, odd)


def test_problems_of_a_worker(raw_dir, tmp_path):
    versions, raw_names = _versions(), _digest_of_names(raw_dir)

    def problem(raw_dir=raw_dir, raw_names=raw_names, folder=tmp_path / "tiny", versions=versions):
        return _find_worker_problem(ADAPTER, raw_dir, raw_names, folder, mark, versions)

    with hold_folder(tmp_path / "tiny") as mark:
        assert problem() is None and problem(raw_dir=None, raw_names=None) is None
        assert "does not see the folder" in problem(folder=tmp_path / "elsewhere")
        assert f"same files in {tmp_path}; --raw-dir must be" in problem(raw_dir=tmp_path)
        assert "does not see the same files" in problem(raw_dir=tmp_path / "nowhere")
        assert f"has OpenCV {versions['OpenCV']} instead of 4.1;" in problem(versions={**versions, "OpenCV": "4.1"})
        (tmp_path / "finder.onnx").write_bytes(b"a network")
        of_detector = functools.partial(_find_worker_problem, ADAPTER, raw_dir, raw_names, tmp_path / "tiny", mark, versions)
        assert of_detector(tmp_path / "finder.onnx", hashlib.sha256(b"a network").hexdigest()) is None
        for name, content in (("finder.onnx", b"another"), ("none.onnx", b"a network")):
            assert "--detector must be" in of_detector(tmp_path / name, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("wrong", ["127.0.0.1:1", "no-port", "none://127.0.0.1:1"])
def test_unreachable_scheduler_is_one_line(raw_dir, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    with pytest.raises(PrepareError, match=f"^no dask scheduler answers at {wrong} .*HOST:PORT") as raised:
        prepare_tiny(raw_dir, tmp_path / "data", workers=None, scheduler=wrong)
    assert "\n" not in str(raised.value) and not (tmp_path / "data").exists()


def test_silent_server_is_no_scheduler(raw_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(PrepareError, match="but stays silent"):
        prepare_tiny(raw_dir, tmp_path / "data", workers=None, scheduler=f"127.0.0.1:{server.getsockname()[1]}")


def test_cluster_without_workers(raw_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "FIRST_WORKER_SECONDS", 0.1)
    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1", silence_logs=50) as empty, \
            pytest.raises(PrepareError, match="has no workers; start some"):
        prepare_tiny(raw_dir, tmp_path / "data", workers=None, scheduler=empty.scheduler_address)


def test_missing_package_names_the_extra(raw_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(PrepareError, match=r"distributed; install it with .*\[cluster\]"):
        prepare_tiny(raw_dir, tmp_path / "data", workers=None, scheduler="127.0.0.1:8786")
