"""What a run has to survive, and what ends it: a lost submitter, a lost node of the head, a node autoscaler, a run that hangs.

Owns the rules of retries, deadlines and evictions over a stream.
"""

from collections.abc import Iterator

from rendered import CONTROLLER, LEARNER, SUBMITTER, Object, Stream, cluster_of, of_kind, pods

LONGEST_DAYS = 30
STAYS = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
LOST = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
GIVE_UP_S = 60
"""After which the head of a lost node is given up: with the 40 s until a node counts as lost, long before the operator gives up the run (300 s)."""
SEES_A_DEAD_HEAD_S = 600
PROBE = 'exec ray job status --address "http://$RAY_DASHBOARD_ADDRESS" "$RAY_JOB_SUBMISSION_ID"'


def retries(stream: Stream) -> Iterator[str]:
    """Each attempt resumes the run; a submitter that is lost costs none."""
    for job in of_kind(stream, "RayJob"):
        spec = job["spec"]
        if not spec.get("backoffLimit"):
            yield "a run is retried: backoffLimit"
        if not spec.get("submitterConfig", {}).get("backoffLimit"):
            yield "a submitter that is lost is replaced, and goes on following its job: submitterConfig.backoffLimit"
        if not (spec.get("preRunningDeadlineSeconds") and spec.get("shutdownAfterJobFinishes")):
            yield "a run that waits for ever or is over is paid for: preRunningDeadlineSeconds, shutdownAfterJobFinishes"
        if spec.get("activeDeadlineSeconds") != LONGEST_DAYS * 86400:
            yield f"activeDeadlineSeconds ends a run for good: {LONGEST_DAYS} days, as the documents say"


def probes(stream: Stream) -> Iterator[str]:
    """A submitter whose head has vanished hears nothing for ever: it asks for its job, and is replaced where nobody answers."""
    for pod in (pod for pod in pods(stream) if pod.role == SUBMITTER):
        for name in ("startupProbe", "livenessProbe"):
            probe = pod.container.get(name, {})
            if probe.get("exec", {}).get("command") != ["bash", "-c", PROBE]:
                yield f"{pod.name}: {name} asks Ray for the job"
            if not 30 <= probe.get("timeoutSeconds", 1) <= probe.get("periodSeconds", 10):
                yield f"{pod.name}: {name} gives Ray's command line time to start, and ends before the next"
        if _seconds(pod.container.get("livenessProbe", {})) > SEES_A_DEAD_HEAD_S:
            yield f"{pod.name}: livenessProbe notices a dead head within {SEES_A_DEAD_HEAD_S} s"
        if _seconds(pod.container.get("startupProbe", {})) < 1800:
            yield f"{pod.name}: startupProbe waits half an hour for a head that is placed anew"


def _seconds(probe: Object) -> int:
    return int(probe.get("periodSeconds", 10)) * int(probe.get("failureThreshold", 3))


def evictions(stream: Stream) -> Iterator[str]:
    """Nobody moves a pod whose end costs an attempt; but the head of a lost node is given up soon."""
    cluster = cluster_of(stream)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    templates = {group["labels"].get("rlvr.io/role"): group["template"] for group in groups if "labels" in group}
    for job in of_kind(stream, "RayJob"):
        templates[SUBMITTER] = job["spec"].get("submitterPodTemplate", {})
    for role in (SUBMITTER, CONTROLLER, LEARNER):
        given = templates.get(role, {}).get("metadata", {}).get("annotations", {})
        if role in templates and not STAYS.items() <= given.items():
            yield f"{role}: a node autoscaler may move it: {', '.join(f'{key}={value}' for key, value in STAYS.items())}"
    tolerated = cluster["headGroupSpec"]["template"]["spec"].get("tolerations", [])
    for taint in LOST:
        wanted = {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": GIVE_UP_S}
        if wanted not in tolerated:
            yield f"head: tolerates {taint} for {GIVE_UP_S} s, so that it is placed anew"


def dashboard(stream: Stream) -> Iterator[str]:
    """Operator and submitter ask from other pods."""
    if cluster_of(stream)["headGroupSpec"].get("rayStartParams", {}).get("dashboard-host") != "0.0.0.0":
        yield "head: dashboard-host is 0.0.0.0, else no job is ever submitted"


RULES = (retries, probes, evictions, dashboard)
