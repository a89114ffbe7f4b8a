"""metrics.jsonl keeps exact numbers through kills and resumes; TensorBoard gets the same."""

import errno
import json
import math
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from miro_jax.report.metric_lines import read_metrics
from miro_jax.train import metrics
from miro_jax.train.metrics import MetricsWriter


def write(workdir, steps, resume_step=0):
    with MetricsWriter(workdir, resume_step) as writer:
        for step in steps:
            writer.scalars(step, {"loss": step / 3})


def lines(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def test_floats_come_back_exactly(tmp_path):
    values = {
        "third": 1 / 3,
        "float32": np.float32(0.1),
        "device": jnp.float32(1e-30),
        "bfloat16": jnp.bfloat16(1.5),
        "count": np.int64(2**53 + 1),
        "one_element": np.ones((1, 1)),
        "flag": True,
    }
    with MetricsWriter(tmp_path) as writer:
        writer.scalars(7, values)
    (found,) = read_metrics(tmp_path)
    assert found == {"step": 7} | {
        "third": 1 / 3,
        "float32": float(np.float32(0.1)),
        "device": float(np.float32(1e-30)),
        "bfloat16": 1.5,
        "count": 2**53 + 1,
        "one_element": 1.0,
        "flag": 1,
    }


def test_nan_and_infinity_are_kept(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.scalars(1, {"nan": math.nan, "inf": -math.inf})
    (found,) = read_metrics(tmp_path)
    assert math.isnan(found["nan"]) and found["inf"] == -math.inf


def test_a_line_is_readable_before_the_writer_is_closed(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.scalars(1, {"loss": 2.0})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
    writer.close()
    writer.close()


def test_resume_drops_later_lines_and_keeps_the_others_untouched(tmp_path):
    write(tmp_path, range(1, 8))
    before = lines(tmp_path)
    write(tmp_path, [], resume_step=4)
    assert lines(tmp_path) == before[:4]
    write(tmp_path, [5, 6], resume_step=4)
    assert lines(tmp_path) == before[:6]


def test_resume_drops_a_line_cut_by_a_kill(tmp_path):
    write(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 2, "los')
    assert [m["step"] for m in read_metrics(tmp_path)] == [1, 2]
    write(tmp_path, [3], resume_step=2)
    assert [json.loads(line)["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert not (tmp_path / "metrics.jsonl.tmp").exists()


@pytest.mark.parametrize(
    "damage",
    [
        b"junk",
        b"[1]",
        b'{"loss": 1.0}',
        b'{"step": null}',
        b'{"step": true}',
        b"[" * 100_000,
        b"\xff\xfe{",
    ],
)
def test_a_damaged_line_is_named(tmp_path, damage):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 must be"):
        read_metrics(tmp_path)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 must be"):
        MetricsWriter(tmp_path)


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="must be a regular file; it is a named pipe"):
        read_metrics(tmp_path)


def test_lines_of_one_step_are_read_as_one(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.scalars(2, {"loss": 1.0, "norm": 3.0})
        writer.scalars(1, {"loss": 5.0})
        writer.scalars(2, {"loss": 2.0, "eval": 4.0})
    assert read_metrics(tmp_path) == [
        {"step": 1, "loss": 5.0},
        {"step": 2, "loss": 2.0, "norm": 3.0, "eval": 4.0},
    ]


@pytest.mark.parametrize("value", [np.ones(2), np.zeros((0,)), "3", None, 1j])
def test_what_is_no_single_number_is_refused(tmp_path, value):
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="metric 'loss' must be one number"):
            writer.scalars(1, {"loss": value})
        with pytest.raises(ValueError, match="argument of its own"):
            writer.scalars(1, {"step": 1})
    assert lines(tmp_path) == []


def test_missing_file_names_its_writer(tmp_path):
    with pytest.raises(FileNotFoundError, match="a training run writes it"):
        read_metrics(tmp_path)


def events(workdir):
    """Read TensorBoard's records: 8 bytes of length, 4 of checksum, the event, 4 of checksum."""
    found = []
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[12 + length + 4 :]
    return found


def test_tensorboard_gets_numbers_pictures_and_the_resume(tmp_path):
    with MetricsWriter(tmp_path, resume_step=4) as writer:
        writer.scalars(5, {"loss": 0.25})
        writer.images(5, "one", np.zeros((8, 6, 3), np.uint8))
        writer.images(5, "many", np.zeros((2, 8, 6, 3), np.uint8))
    found = events(tmp_path)
    values = {v.tag: (e.step, v) for e in found for v in e.summary.value}
    assert values["loss"][0] == 5 and values["loss"][1].simple_value == 0.25
    assert (values["one"][1].image.height, values["one"][1].image.width) == (8, 6)
    assert "many" in values
    assert 5 in [e.step for e in found if e.session_log.status == event_pb2.SessionLog.START]


def test_wrong_pictures_are_refused(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for bad in (np.zeros((8, 8, 3)), np.zeros((8, 8, 1), np.uint8), np.zeros((8,), np.uint8)):
            with pytest.raises(ValueError, match="must be uint8"):
                writer.images(1, "bad", bad)


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricsWriter(tmp_path / "run") as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.images(1, "one", np.zeros((8, 8, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


WRITE = """
import sys
import numpy as np
from miro_jax.train import metrics
from miro_jax.train.metrics import MetricsWriter

with MetricsWriter(sys.argv[1]) as writer:
    writer.scalars(1, {"loss": 2.0})
    writer.images(1, "one", np.zeros((8, 8, 3), np.uint8))
print({"torch", "boto3", "google.cloud.storage"} & set(sys.modules) or "none")
"""


@pytest.mark.slow
def test_writing_metrics_imports_no_torch_and_no_clients_of_stores(tmp_path):
    """tensorboardX imports them where it can; here a module stands for PyTorch."""
    (tmp_path / "torch.py").write_text("class Tensor: ...\n")
    done = subprocess.run(
        [sys.executable, "-c", WRITE, tmp_path / "run"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "none\n"
    tags = {v.tag for e in events(tmp_path / "run") for v in e.summary.value}
    assert {"loss", "one"} <= tags


class Full:
    """A file on a disk that takes three more bytes."""

    room = 3

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken, self.room = min(len(data), self.room), max(self.room - len(data), 0)
        return taken

    def close(self):
        pass


@pytest.mark.parametrize("is_full", ["at once", "later"])
def test_tensorboard_on_a_full_disk_is_one_warning_and_nothing_else_stops(
    tmp_path, monkeypatch, caplog, is_full
):
    threads = threading.active_count()
    with monkeypatch.context() as patch:
        if is_full == "at once":
            patch.setattr(metrics.socket, "gethostname", lambda: "no/such/folder")
        writer = MetricsWriter(tmp_path)
    if is_full == "later":
        writer._events._file.close()
        writer._events._file = Full()
    with writer:
        for step in range(1, 51):  # more than the queue of tensorboardX takes
            writer.scalars(step, {"loss": step / 3})
            writer.images(step, "one", np.zeros((8, 8, 3), np.uint8))
        assert threading.active_count() == threads
    assert [m["step"] for m in read_metrics(tmp_path)] == [*range(1, 51)]
    (warning,) = [r.getMessage() for r in caplog.records if "TensorBoard" in r.getMessage()]
    assert "metrics.jsonl goes on: No s" in warning


def test_a_line_that_cannot_be_written_names_its_file(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer._lines.close()
        writer._lines = Full()
        with pytest.raises(OSError, match="No space left on device.*metrics.jsonl") as caught:
            writer.scalars(1, {"loss": 1.0})
    assert caught.value.errno == errno.ENOSPC


def test_a_link_in_place_of_a_temporary_file_is_not_followed(tmp_path):
    write(tmp_path, range(1, 4))
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "metrics.jsonl.tmp").symlink_to(other)
    write(tmp_path, [], resume_step=2)
    assert other.read_text() == "mine" and len(lines(tmp_path)) == 2
