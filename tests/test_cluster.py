"""Which processes make a run: variables of schedulers, metadata of a machine, a config."""

import http.server
import threading

import pytest

from miro_jax.cli import cluster
from miro_jax.cli.cluster import Cluster, Given, find, parse_nodes


def nothing(_name):
    return ""


def found(environment, given=cluster.ASK_SCHEDULER, metadata=nothing):
    return find(given, environment, metadata)


SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_NODELIST": "gpu[09-10]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
GKE = {"TPU_WORKER_HOSTNAMES": "job-0-0.sub,job-0-1.sub", "TPU_WORKER_ID": "1"}


def test_nothing_is_found_where_nothing_is_said():
    assert found({}) is None
    assert found({"SLURM_JOB_ID": "1", "TPU_WORKER_ID": "0"}) is None


def test_config_and_variables_of_jax():
    given = Given("host:81", 4, 3)
    assert found({}, given) == Cluster("host", 81, 4, 3)
    variables = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    assert found(variables) == Cluster("a", 1, 2, 1)
    assert found(variables, given) == Cluster("host", 81, 4, 3)
    variables["JAX_COORDINATOR_ADDRESS"] = "[fd00::1]:9"
    assert found(variables).address == "[fd00::1]:9" and found(variables).host == "fd00::1"
    variables["JAX_COORDINATOR_ADDRESS"] = "a"
    assert found(variables).port == cluster.PORT
    assert found(variables | {"JAX_COORDINATOR_PORT": "8476"}).port == 8476


def test_a_task_of_slurm():
    hosts = ("gpu09", "gpu10")
    port = 61440 + 4100 % 4096
    assert found(SLURM) == Cluster("gpu09", port, 2, 1, hosts, None, "SLURM_PROCID")
    assert found(SLURM | {"JAX_COORDINATOR_ADDRESS": "b:7"}).address == "b:7"


def test_tasks_of_slurm_that_share_a_host_take_a_device_each():
    several = SLURM | {"SLURM_NTASKS": "6", "SLURM_LOCALID": "2", "SLURM_PROCID": "5"}
    assert found(several).devices == (2,)
    assert found(several).hosts == ("gpu09",) * 3 + ("gpu10",) * 3
    uneven = several | {"SLURM_STEP_TASKS_PER_NODE": "4,2"}
    assert found(uneven).hosts == ("gpu09",) * 4 + ("gpu10",) * 2
    # With --gpus-per-task Slurm shows each task its own device alone.
    assert found(several | {"CUDA_VISIBLE_DEVICES": "2"}).devices is None
    assert found(several | {"CUDA_VISIBLE_DEVICES": "0,1,2"}).devices == (2,)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("gpu1", ["gpu1"]),
        ("a,b", ["a", "b"]),
        ("node[001-003,7],login", ["node001", "node002", "node003", "node7", "login"]),
        ("r[1-2]n,x[8,10-11]", ["r1n", "r2n", "x8", "x10", "x11"]),
    ],
)
def test_lists_of_nodes(text, hosts):
    assert parse_nodes(text) == hosts


@pytest.mark.parametrize("text", ["", "a[", "a[1-2", "a[b]"])
def test_what_is_no_list_of_nodes(text):
    with pytest.raises(ValueError, match="SLURM_STEP_NODELIST must name hosts"):
        parse_nodes(text)


def test_a_slice_and_several_slices_on_gke():
    hosts = ("job-0-0.sub", "job-0-1.sub")
    one = Cluster(hosts[0], cluster.PORT, 2, 1, hosts, None, "TPU_WORKER_HOSTNAMES")
    assert found(GKE) == one
    several = GKE | {
        "MEGASCALE_NUM_SLICES": "3",
        "MEGASCALE_SLICE_ID": "2",
        "MEGASCALE_COORDINATOR_ADDRESS": "job-0-0.sub:8080",
    }
    assert (found(several).count, found(several).index) == (6, 5)
    assert found(several).address == f"job-0-0.sub:{cluster.PORT}" and found(several).hosts == ()
    with pytest.raises(ValueError, match="Unset what an earlier job left of MEGASCALE_"):
        found(several | {"MEGASCALE_SLICE_ID": "3"})


def test_a_pod_of_a_job_set_takes_its_index_from_kubernetes():
    pod = {"JOB_COMPLETION_INDEX": "3", "JAX_COORDINATOR_ADDRESS": "set-job-0-0.set:8482"}
    for name in ("NUM_WORKERS", "JAX_NUM_PROCESSES"):
        its = found(pod | {name: "4"})
        assert (its.host, its.port, its.count, its.index) == ("set-job-0-0.set", 8482, 4, 3)
    with pytest.raises(ValueError, match=r"their number .*JAX_NUM_PROCESSES\); got none"):
        found(pod)


@pytest.mark.parametrize("old", [True, False])
def test_metadata_of_a_machine_of_queued_resources_and_of_a_managed_group(old):
    names = "a:0:10.0.0.1,b:1:10.0.0.2" if old else "10.0.0.1,10.0.0.2"
    attributes = {
        "agent-worker-number": "1",
        "worker-network-endpoints": names,
        "tpu-env": "ZONE: 'z'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
        "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.9'\n",
    }
    its = found({}, metadata=attributes.get)
    assert (its.address, its.count, its.index) == (f"10.0.0.9:{cluster.PORT}", 4, 3)
    attributes["tpu-env"] = ""
    its = found({}, metadata=attributes.get)
    assert (its.host, its.count, its.index) == ("10.0.0.1", 2, 1)
    assert its.hosts == ("10.0.0.1", "10.0.0.2")


def test_the_metadata_server_is_asked_where_there_are_tpus(monkeypatch):
    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            text = {"agent-worker-number": "0", "worker-network-endpoints": "h1,h2"}.get(name)
            asked.append(self.headers["Metadata-Flavor"])
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_):
            pass

    asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
        monkeypatch.setattr(cluster.glob, "glob", lambda pattern: [])
        assert find(environment=environment) is None and asked == []
        monkeypatch.setattr(cluster.glob, "glob", lambda pattern: ["/dev/accel0"])
        its = find(environment=environment)
        server.shutdown()
    assert (its.host, its.count, its.index) == ("h1", 2, 0) and set(asked) == {"Google"}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Given("a:1", 2, -1), "the index of this one"),
        (Given("a:1", 0, 0), "their number"),
        (Given("", 2, 0), "the address of process 0"),
        (Given("a:1", 2, 2), "must be in 0 .. 1; got 2"),
        (Given("a:70000", 2, 1), "must be in 1 .. 65535; got 70000"),
        (Given("a:b", 2, 1), "an address must be host or host:port; got 'a:b'"),
    ],
)
def test_what_is_missing_is_named(given, text):
    with pytest.raises(ValueError, match=text):
        found({}, given)


def test_a_variable_that_is_no_number_is_named():
    with pytest.raises(ValueError, match="SLURM_PROCID must be a number; got 'x'"):
        found(SLURM | {"SLURM_PROCID": "x"})
