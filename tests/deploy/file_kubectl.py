"""A kubectl for objects that are files, as a program: what kubectl can do without a server it does itself, with `patch --local`.

Owns the rest: a list by labels, an object that is not there, and the operator that ends the pods which a patch names to it. FOLDER has the
objects as NAMESPACE-KIND-NAME.json; what was asked is noted in `asked` there. With a file `operator-is-down` in it the operator does nothing;
with `pods-go-fast` a pod that leaves is gone as soon as it was listed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

LISTED = r'jsonpath={range .items[*]}{.metadata.name}{" "}{.metadata.deletionTimestamp}{"\n"}{end}'
FOLDER = Path(os.environ.get("FOLDER", "."))


def main(words: list[str]) -> int | str:
    """NAMESPACE comes first: -n NAMESPACE get|patch WHAT ... Returns the exit status, or the error to print."""
    with (FOLDER / "asked").open("a") as asked:
        asked.write(" ".join(words) + "\n")
    _, namespace, verb, what, *rest = words
    if what == "pods":
        return pods_by_labels(namespace, rest)
    file = FOLDER / f"{namespace}-{what.replace('/', '-')}.json"
    if not file.exists():
        return 0 if "--ignore-not-found" in rest else f"Error from server (NotFound): {what} in {namespace}"
    local = [os.environ["REAL_KUBECTL"], "patch", "--local", "-f", str(file)]
    if verb == "get":
        return subprocess.run([*local, "--type=json", "-p", "[]", *(word for word in rest if word != "--ignore-not-found")], check=False).returncode
    done = subprocess.run([*local, *rest, "-o", "json"], stdout=subprocess.PIPE, check=False)
    if done.returncode == 0:
        file.write_bytes(done.stdout)
        operate(namespace, json.loads(done.stdout))
    return done.returncode


def pods_by_labels(namespace: str, rest: list[str]) -> int:
    labels = dict(pair.split("=") for pair in rest[rest.index("-l") + 1].split(","))
    assert rest[2:] == ["--sort-by=.metadata.creationTimestamp", "-o", LISTED]
    pods = [json.loads(file.read_text())["metadata"] for file in FOLDER.glob(f"{namespace}-pod-*.json")]
    chosen = [pod for pod in pods if labels.items() <= pod["labels"].items()]
    for pod in sorted(chosen, key=lambda pod: pod["creationTimestamp"]):
        sys.stdout.write(f"{pod['name']} {pod.get('deletionTimestamp', '')}\n")
        if (FOLDER / "pods-go-fast").exists() and "deletionTimestamp" in pod:
            (FOLDER / f"{namespace}-pod-{pod['name']}.json").unlink()
    return 0


def operate(namespace: str, cluster: dict[str, dict[str, list[dict[str, dict[str, list[str]]]]]]) -> None:
    """End the pods that the cluster names."""
    for group in cluster["spec"].get("workerGroupSpecs", []) if not (FOLDER / "operator-is-down").exists() else []:
        for name in group.get("scaleStrategy", {}).get("workersToDelete", []):
            file = FOLDER / f"{namespace}-pod-{name}.json"
            pod = json.loads(file.read_text())
            pod["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
            file.write_text(json.dumps(pod))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
