"""The PrometheusRule of Kubernetes, made from the rule file that a Prometheus of one's own reads: `python deploy/base/prometheusrule.py`.

Owns prometheusrule.yaml beside it: the same lines, comments included, under the object's header. Reads deploy/monitoring/firesteel.rules.yml.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent
RULES = HERE.parent / "monitoring" / "firesteel.rules.yml"
MANIFEST = HERE / "prometheusrule.yaml"
HEADER = """\
# Made by deploy/base/prometheusrule.py from deploy/monitoring/firesteel.rules.yml: change the rules there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: rlvr
  labels:
    release: kube-prometheus-stack
spec:
"""


def manifest(rules: str) -> str:
    """The object's YAML for the text of a rule file."""
    return HEADER + "".join(f"  {line}" if line.strip() else line for line in rules.splitlines(keepends=True))


if __name__ == "__main__":
    MANIFEST.write_text(manifest(RULES.read_text(encoding="utf-8")), encoding="utf-8")
