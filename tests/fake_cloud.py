"""A cloud that is a file: what gcloud, kubectl and Slurm's programs say of machines that are not.

`install` puts this file, as each of those programs, into a folder for PATH. A scenario is a list of
lives, one for each time that machines are created; a life is a list of beats, and each look at the
state moves to the next one and stays at the last:

    waiting  creating  ready  preempted  gone  silent (no answer)
    ready:200    and the command, where it runs, has saved step 200
    ready!75     and the command has ended with status 75 on every host

A life may begin with what `create` does: full (no capacity), late (fails, and yet the machines are
there), slow (takes long). Each call is a process of its own, and there are hundreds: it imports
little that is not built in.
"""

import fcntl
import marshal
import os
import sys
import time

PROGRAMS = ("gcloud", "kubectl", "sbatch", "squeue", "sacct", "scancel")
BEGINNINGS = ("full", "late", "slow")
HOSTS = 4
WORDS = {
    "queued": {"waiting": "WAITING_FOR_RESOURCES", "creating": "PROVISIONING", "ready": "ACTIVE",
               "preempted": "SUSPENDED"},
    "mig": {"waiting": "\tCREATING", "creating": "STAGING\tCREATING", "ready": "RUNNING\tNONE",
            "preempted": "STOPPING\tRECREATING"},
    "gke": {"waiting": "PROVISIONING", "creating": "PROVISIONING", "ready": "RUNNING",
            "preempted": "ERROR"},
    "slurm": {"waiting": "PENDING", "creating": "CONFIGURING", "ready": "RUNNING"},
}  # fmt: skip


def install(folder, state, workdir, *lives, delete_fails=0, setup_fails=0):
    """Write the programs into `folder` and a scenario into `state`."""
    folder.mkdir()
    text = f"#!{sys.executable} -IS\nimport sys\nsys.path[:0] = [{os.path.dirname(__file__)!r}]\n"
    text += f"import fake_cloud\nfake_cloud.main({str(state)!r})\n"
    for name in PROGRAMS:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    scenario = {
        "lives": list(map(list, lives)),
        "life": -1,
        "age": 0,
        "there": False,
        "run": False,
        "calls": [],
    }
    fails = {"delete": delete_fails, "setup": setup_fails}
    state.write_bytes(marshal.dumps(scenario | {"fails": fails, "workdir": str(workdir)}))


def change(path, work):
    """Give the state to `work`, whose result is returned; no other process has it meanwhile.

    A call may be killed at any time, as the watcher does with its own: the state stays whole.
    """
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(path, "rb") as file:
            state = marshal.load(file)
        result = work(state)
        with open(f"{path}.new", "wb") as file:
            marshal.dump(state, file)
        os.replace(f"{path}.new", path)
    return result


def create(state):
    """Begin the next life; returns the exit status."""
    state["life"] += 1
    life = state["lives"][min(state["life"], len(state["lives"]) - 1)]
    begins = life[0] if life[0] in BEGINNINGS else ""
    state |= {"beats": life[bool(begins) :], "age": -1, "run": False, "there": begins != "full"}
    if begins == "full":
        print("ERROR: RESOURCE_EXHAUSTED: There is no more capacity in the zone", file=sys.stderr)
    if begins == "late":
        print("ERROR: the operation did not end in time", file=sys.stderr)
    return int(begins in ("full", "late")), 30 * (begins == "slow")


def beat(state, moves=False):
    """What there is now, and the exit status of the command; a look moves on."""
    if not state["there"]:
        return "gone", ""
    state["age"] = min(state["age"] + moves, len(state["beats"]) - 1)
    now = state["beats"][max(state["age"], 0)]
    now, _, code = now.partition("!")
    word, _, step = now.partition(":")
    if step and state["run"]:
        folder = f"{state['workdir']}/checkpoints/{step}"
        os.makedirs(folder, exist_ok=True)
        open(f"{folder}/commit_success.txt", "w").close()
    if word == "gone":
        state["there"] = False
    if word == "silent":
        print("ERROR: (gcloud) The service is currently unavailable.", file=sys.stderr)
    return word, code


def delete(state):
    """Delete what there is, or fail as often as the scenario says."""
    if state["there"] and state["fails"]["delete"]:
        state["fails"]["delete"] -= 1
        print("ERROR: the resource is in use", file=sys.stderr)
        return 1
    there, state["there"], state["run"] = state["there"], False, False
    return 0 if there else 1


def on_hosts(state, command, hosts):
    """What `ssh` does: the last line of the command is a verb of host.sh."""
    verb = command.splitlines()[-1]
    state["calls"].append(verb)
    if verb == "setup" and state["fails"]["setup"]:
        state["fails"]["setup"] -= 1
        print("ssh: connect to host: Connection refused", file=sys.stderr)
        return 255
    if verb == "run":
        state["run"] = True
    _, code = beat(state)
    if verb == "exits" and state["run"]:
        print("SSH: Attempting to connect to worker 0...", *[code or "running"] * hosts, sep="\n")
    return 0


def gcloud(words, state):
    """Answer a call; returns the exit status and seconds to wait."""
    call = " ".join(word for word in words if not word.startswith("--"))
    flags = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    kind = "queued" if "tpus" in call else "gke" if "node-pools" in call else "mig"
    if "storage ls" in call:
        folder = f"{state['workdir']}/checkpoints"
        found = os.listdir(folder) if os.path.isdir(folder) else []
        for step in found:
            print(f"gs://bucket/run/checkpoints/{step}/commit_success.txt")
        if not found:
            print("ERROR: One or more URLs matched no objects.", file=sys.stderr)
        return int(not found), 0
    if " ssh " in call:
        return on_hosts(state, flags["command"], HOSTS if kind == "queued" else 1), 0
    if "templates" in call or "policies" in call:
        return 0, 0
    if " create" in call:
        state["calls"].append("create")
        return create(state)
    if " delete" in call:
        state["calls"].append("delete")
        return delete(state), 0
    if flags.get("filter", "name=miro") not in ("name=miro", "name~/miro$"):
        print(f"ERROR: others than miro may match {flags['filter']}", file=sys.stderr)
        return 1, 0
    return look(state, kind, call, flags["format"]), 0


def look(state, kind, call, form):
    """Print what there is, in the words of a kind; only the first call of a look moves on."""
    follows = "list-instances" in call or "tpu-vm" in call
    word, _ = beat(state, moves=not follows)
    if word == "silent":
        return 1
    if "basename" in form:
        print("\n".join(f"miro-{number}" for number in range(HOSTS)))
    elif "list-instances" in call:
        others = "ready" if word == "preempted" else word
        print("\n".join([WORDS["mig"][others]] * (HOSTS - 1) + [WORDS["mig"][word]]))
    elif "tpu-vm" in call:
        print({"ready": "READY", "creating": "CREATING"}.get(word, ""))
    elif word != "gone":
        print("miro" if kind == "mig" else WORDS[kind][word])
    return 0


def kubectl(words, state):
    """Answer a call about the JobSet."""
    call = " ".join(words)
    if words[0] == "apply":
        job = sys.stdin.read()
        state["jobs"] = [*state.get("jobs", []), job]
        verb = "setup" if "miro-jax doctor" in job else "run"
        state["run"] = state["run"] or verb == "run"
        state["calls"].append(verb)
    _, code = beat(state)
    if "get jobset" in call and state["run"]:
        print("miro", {"": "", "0": "Completed"}.get(code, "Failed"))
    if "get pods" in call:
        print(code)
    return 0


def slurm(name, words, state):
    """Answer a call of one of Slurm's programs: machines come and go with the job."""
    if name == "sbatch":
        state["calls"].append("run")
        create(state)
        state |= {"run": True, "ended": ""}
        print(state["life"])
    elif name == "scancel":
        delete(state)
    elif name == "squeue":
        word, code = beat(state, moves=True)
        if word == "silent":
            return 1
        if code or word == "preempted":
            ended = (
                "COMPLETED|0:0" if code == "0" else f"FAILED|{code}:0" if code else "TIMEOUT|0:15"
            )
            state |= {"there": False, "ended": ended}
        elif word != "gone":
            print(WORDS["slurm"][word])
    elif name == "sacct":
        print(state["ended"] or "RUNNING|0:0")
    return 0


def answer(state):
    """Be the program whose name this file has; returns the exit status and seconds to wait."""
    name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
    if name == "gcloud":
        return gcloud(words, state)
    return (kubectl(words, state) if name == "kubectl" else slurm(name, words, state)), 0


def main(path):
    """Answer, and exit."""
    status, wait = change(path, answer)
    sys.stdout.flush()
    time.sleep(wait)
    sys.exit(status)
