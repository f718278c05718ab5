"""Laws of deploy/scale.sh: one group's numbers change and nothing else, by a patch that the API server would refuse where the groups have moved.

`kubectl patch --local` applies each patch for real; `file_kubectl` stands where the API server would be, and keeps the objects as files.
"""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import file_kubectl
import pytest
from rendered import BASE, DEPLOY, Object, cluster_of, kubectl, of_kind, stream_of

SCRIPT = DEPLOY / "scale.sh"
CLUSTER = "rlvr-x7k2p"


class Server:
    """The objects of one namespace, and the kubectl that reaches them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.kubectl = folder / "kubectl"
        program = Path(file_kubectl.__file__)
        self.kubectl.write_text(f'#!/bin/sh\nFOLDER={folder} REAL_KUBECTL={kubectl()} exec {sys.executable} {program} "$@"\n')
        self.kubectl.chmod(0o755)

    def put(self, one: Object) -> None:
        self._file(one["kind"], one["metadata"]["name"]).write_text(json.dumps(one))

    def get(self, kind: str, name: str) -> Object:
        found: Object = json.loads(self._file(kind, name).read_text())
        return found

    @property
    def asked(self) -> list[str]:
        file = self._folder / "asked"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def patches(self) -> list[str]:
        return [line for line in self.asked if " patch " in line]

    def _file(self, kind: str, name: str) -> Path:
        return self._folder / f"firesteel-{kind.lower()}-{name}.json"


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A job that runs, and its cluster, in which the autoscaler has asked for three generators."""
    server = Server(tmp_path)
    [job] = of_kind(stream_of(BASE), "RayJob")
    cluster = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": CLUSTER, "namespace": "firesteel"},
        "spec": copy.deepcopy(cluster_of([job])),
    }
    cluster["spec"]["workerGroupSpecs"][0]["replicas"] = 3
    server.put({**job, "status": {"rayClusterName": CLUSTER}})
    server.put(cluster)
    for number, name in enumerate(["generators-old", "generators-young", "generators-middle"]):
        born = f"2026-11-21T10:0{(0, 2, 1)[number]}:00Z"
        labels = {"ray.io/cluster": CLUSTER, "ray.io/group": "generators"}
        server.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels, "creationTimestamp": born}})
    return server


def scale(server: Server, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", str(SCRIPT), *words], env={**os.environ, "KUBECTL": str(server.kubectl)}, capture_output=True, text=True, check=False
    )


def group(cluster: Object, name: str) -> Object:
    [found] = [one for one in cluster["workerGroupSpecs"] if one["groupName"] == name]
    return dict(found)


def without_numbers(cluster: Object, name: str) -> Any:
    """The same cluster, but for the numbers of one group."""
    plain = copy.deepcopy(cluster)
    for one in plain["workerGroupSpecs"]:
        if one["groupName"] == name:
            for key in ("minReplicas", "maxReplicas", "replicas", "scaleStrategy"):
                one.pop(key, None)
    return plain


@pytest.mark.parametrize("name", ["generators", "verifiers"])
def test_one_group_changes_and_nothing_else(server: Server, name: str) -> None:
    before = server.get("RayCluster", CLUSTER)["spec"]
    done = scale(server, name, "4")
    assert (done.returncode, done.stdout) == (0, f"raycluster/{CLUSTER}: group {name} has 4 to 4 pods\n")
    after = server.get("RayCluster", CLUSTER)["spec"]
    assert (group(after, name)["minReplicas"], group(after, name)["maxReplicas"]) == (4, 4)
    assert without_numbers(after, name) == without_numbers(before, name)


def test_under_the_autoscaler_replicas_are_left_to_it(server: Server) -> None:
    scale(server, "generators", "5")
    assert group(server.get("RayCluster", CLUSTER)["spec"], "generators")["replicas"] == 3


def test_without_the_autoscaler_replicas_are_set(server: Server) -> None:
    cluster = server.get("RayCluster", CLUSTER)
    del cluster["spec"]["enableInTreeAutoscaling"]
    server.put(cluster)
    assert scale(server, "generators", "2", "5").returncode == 2
    assert scale(server, "generators", "5").returncode == 0
    assert group(server.get("RayCluster", CLUSTER)["spec"], "generators")["replicas"] == 5


def test_the_youngest_leave_in_good_order_before_the_maximum_is_lowered(server: Server) -> None:
    """The autoscaler stops what is above maxReplicas without a drain: the operator, which sends SIGTERM, has to be first."""
    done = scale(server, "generators", "1")
    assert (done.returncode, done.stdout.strip()) == (
        0,
        f"raycluster/{CLUSTER}: group generators has 1 to 1 pods; leaving: generators-middle generators-young",
    )
    first, second = [json.loads(line.split(" -p ")[1]) for line in server.patches]
    changes = {change["path"].rpartition("/")[2]: change["value"] for change in first}
    assert changes == {
        "groupName": "generators",
        "minReplicas": 1,
        "replicas": 1,
        "scaleStrategy": {"workersToDelete": ["generators-middle", "generators-young"]},
    }
    assert {change["path"].rpartition("/")[2] for change in second} == {"groupName", "minReplicas", "maxReplicas"}
    ended = [name for name in ("old", "middle", "young") if "deletionTimestamp" in server.get("Pod", f"generators-{name}")["metadata"]]
    assert ended == ["middle", "young"]


def test_a_pod_that_leaves_already_is_not_counted(server: Server) -> None:
    pod = server.get("Pod", "generators-young")
    pod["metadata"]["deletionTimestamp"] = "2026-11-21T11:00:00Z"
    server.put(pod)
    assert "leaving: generators-middle\n" in scale(server, "generators", "1").stdout


def test_a_pod_that_is_gone_a_moment_later_is_not_counted(server: Server, tmp_path: Path) -> None:
    """Counted, it would cost a pod that lives."""
    (tmp_path / "pods-go-fast").touch()
    pod = server.get("Pod", "generators-young")
    pod["metadata"]["deletionTimestamp"] = "2026-11-21T11:00:00Z"
    server.put(pod)
    done = scale(server, "generators", "2")
    assert (done.returncode, done.stdout) == (0, f"raycluster/{CLUSTER}: group generators has 2 to 2 pods\n")
    assert all("deletionTimestamp" not in server.get("Pod", f"generators-{name}")["metadata"] for name in ("old", "middle"))


def test_pods_are_asked_for_once(server: Server) -> None:
    scale(server, "generators", "1")
    assert len([line for line in server.asked if " get pods " in line]) == 1
    assert [line for line in server.asked if " get pod/" in line and "--ignore-not-found" not in line] == []


def test_the_maximum_stays_where_the_operator_does_not_answer(server: Server, tmp_path: Path) -> None:
    (tmp_path / "operator-is-down").touch()
    impatient = tmp_path / "scale.sh"
    impatient.write_text(SCRIPT.read_text().replace("LEAVE_S=60", "LEAVE_S=0"))
    environment = {**os.environ, "KUBECTL": str(server.kubectl)}
    done = subprocess.run(["bash", str(impatient), "generators", "1"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the operator has not ended pod/generators-middle" in done.stderr
    assert group(server.get("RayCluster", CLUSTER)["spec"], "generators")["maxReplicas"] == 8


def test_two_numbers_are_a_range(server: Server) -> None:
    assert scale(server, "generators", "2", "6").returncode == 0
    after = group(server.get("RayCluster", CLUSTER)["spec"], "generators")
    assert (after["minReplicas"], after["maxReplicas"]) == (2, 6)


def test_the_patch_tests_the_name_at_the_place_that_it_changes(server: Server) -> None:
    cluster = server.get("RayCluster", CLUSTER)
    done = scale(server, "--dry-run", "verifiers", "3")
    patch = json.loads(done.stdout.split("-p ")[1].strip().strip("'"))
    assert patch[0] == {"op": "test", "path": "/spec/workerGroupSpecs/1/groupName", "value": "verifiers"}
    assert {change["path"].rpartition("/")[0] for change in patch} == {"/spec/workerGroupSpecs/1"}
    assert server.patches == []
    assert server.get("RayCluster", CLUSTER) == cluster


def test_a_group_that_has_moved_meanwhile_is_not_mistaken(server: Server) -> None:
    """The groups change their order between the look and the patch: the server refuses it whole."""
    patch = scale(server, "--dry-run", "verifiers", "3").stdout.split("-p ")[1].strip().strip("'")
    cluster = server.get("RayCluster", CLUSTER)
    cluster["spec"]["workerGroupSpecs"].reverse()
    cluster["spec"]["workerGroupSpecs"].pop(0)  # now the generators are where the verifiers were
    server.put(cluster)
    done = subprocess.run(
        [str(server.kubectl), "-n", "firesteel", "patch", f"raycluster/{CLUSTER}", "--type=json", "-p", patch],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert server.get("RayCluster", CLUSTER) == cluster


def test_a_merge_patch_would_have_lost_the_templates(server: Server) -> None:
    """Why the script exists: what looks simpler replaces the list of groups."""
    merge = {"spec": {"workerGroupSpecs": [{"groupName": "generators", "minReplicas": 4}]}}
    subprocess.run(
        [str(server.kubectl), "-n", "firesteel", "patch", f"raycluster/{CLUSTER}", "--type=merge", "-p", json.dumps(merge)],
        check=True,
        capture_output=True,
    )
    assert server.get("RayCluster", CLUSTER)["spec"]["workerGroupSpecs"] == merge["spec"]["workerGroupSpecs"]


def test_the_next_attempt_is_changed_only_when_asked(server: Server) -> None:
    before = server.get("RayJob", "rlvr")
    scale(server, "generators", "5")
    assert server.get("RayJob", "rlvr") == before
    done = scale(server, "--keep", "generators", "6")
    assert done.stdout == f"raycluster/{CLUSTER} and rayjob/rlvr: group generators has 6 to 6 pods\n"
    after = server.get("RayJob", "rlvr")["spec"]["rayClusterSpec"]
    assert group(after, "generators")["minReplicas"] == 6
    assert without_numbers(after, "generators") == without_numbers(before["spec"]["rayClusterSpec"], "generators")


def test_a_raycluster_is_scaled_by_its_own_name(server: Server) -> None:
    assert scale(server, "-t", f"raycluster/{CLUSTER}", "generators", "2").returncode == 0
    assert all("rayjob" not in line for line in server.asked)


def test_a_group_that_is_not_there_is_refused_with_those_that_are(server: Server) -> None:
    done = scale(server, "generator", "4")
    assert done.returncode == 2
    assert done.stderr == f"scale.sh: raycluster/{CLUSTER} has no group 'generator'; it has generators verifiers learner\n"
    assert server.patches == []


def test_the_learner_is_refused(server: Server) -> None:
    done = scale(server, "learner", "2")
    assert done.returncode == 2
    assert "learner.ranks" in done.stderr
    assert server.patches == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("generators", "-1"), "a number of pods is a whole number from 0 to 256, got '-1'"),
        (("generators", "257"), "a number of pods is a whole number from 0 to 256, got '257'"),
        (("generators", "2.5"), "a number of pods is a whole number from 0 to 256, got '2.5'"),
        (("generators", "08"), "a number of pods is a whole number from 0 to 256, got '08'"),
        (("generators", "6", "2"), "MIN is at most MAX, got 6 and 2"),
        (("--force", "generators", "6"), "there is no option --force; --help lists them"),
        (("-t", "rayservice/rlvr", "generators", "6"), "the target is rayjob/NAME or raycluster/NAME, got 'rayservice/rlvr'"),
        (("--keep", "-t", f"raycluster/{CLUSTER}", "generators", "6"), "--keep is for a RayJob; a RayCluster keeps what it is given"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(server: Server, words: tuple[str, ...], sentence: str) -> None:
    done = scale(server, *words)
    assert (done.returncode, done.stderr) == (2, f"scale.sh: {sentence}\n")
    assert server.patches == []


def test_too_few_words_show_how_it_is_used(server: Server) -> None:
    done = scale(server, "generators")
    assert done.returncode == 2
    assert "GROUP MIN MAX" in done.stderr
    assert scale(server, "--help").returncode == 0


def test_a_job_without_a_cluster_is_refused(server: Server) -> None:
    job = server.get("RayJob", "rlvr")
    del job["status"]
    server.put(job)
    done = scale(server, "generators", "4")
    assert done.returncode == 2
    assert "rayjob/rlvr has no cluster yet" in done.stderr


def test_what_the_server_refuses_is_a_failure(server: Server) -> None:
    done = scale(server, "-n", "elsewhere", "generators", "4")
    assert done.returncode == 1
    assert "rayjob/rlvr cannot be read in the namespace elsewhere" in done.stderr


def test_the_script_is_executable_and_bash_reads_it() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert subprocess.run([shutil.which("bash") or "bash", "-n", str(SCRIPT)], check=False).returncode == 0
