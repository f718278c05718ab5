"""Laws of the documents: what they tell a reader to type works as far as it can be known here, and what they name exists."""

import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import document_values
import pytest
import yaml
from document_commands import KUBECTL, KUBECTL_ALWAYS, World, faults
from document_shell import Command, ShellError, commands, refusal_of_bash
from document_text import Document
from rendered import BASE, LOADER, OVERLAYS, ROOT, Stream

from rlvr.config import Config
from verifier.sandbox import seccomp
from verifier.sandbox.protocol import REPLY_BYTES

DEPLOY_GUIDE, SECURITY = ROOT / "docs" / "deploy.md", ROOT / "docs" / "security.md"
DOCUMENTS = [DEPLOY_GUIDE, SECURITY, ROOT / "docs" / "operations.md", ROOT / "README.md"]
PROGRAMS = ("firesteel ", "kubectl ", "make ", "deploy/scale.sh ", ".venv/bin/firesteel ")
EVERYWHERE = {"monitoring"}
"""Namespaces that a document may name without making them."""


def named(path: Path) -> str:
    return path.name


@functools.cache
def base() -> Stream:
    """The objects as they are written, which have the names that commands use; nothing has to be built for that."""
    files = sorted(file for file in BASE.glob("*.yaml") if file.name != "kustomization.yaml")
    return [one for file in files for one in yaml.load_all(file.read_text(encoding="utf-8"), Loader=LOADER) if one]


@functools.cache
def groups() -> frozenset[str]:
    """Of base and of every overlay, whose patches name theirs."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "deploy").rglob("*.yaml")]
    return frozenset(name for text in texts for name in re.findall(r"groupName(?:: |, value: )([\w-]+)", text))


def world_of(document: Document) -> World:
    files = {fence.file_name: fence.text for fence in document.of("yaml") if fence.file_name}
    return World(stream=base(), groups=set(groups()), files=files, namespaces=set(EVERYWHERE))


def shell_faults(document: Document, world: World) -> Iterator[str]:
    for fence in document.of("bash", "sh", "console"):
        if refusal := refusal_of_bash(fence.text):
            yield f"line {fence.line}: {refusal}"
            continue
        try:
            found = commands(fence.text)
        except ShellError as error:
            yield f"line {fence.line}: {error}"
            continue
        yield from (f"line {fence.line}: {fault}" for command in found for fault in faults(command, world))


def excerpt_faults(document: Document, world: World) -> Iterator[str]:
    world.is_excerpt = True
    for span in document.spans:
        if span.text.startswith(PROGRAMS):
            for command in commands(span.text):
                known = Command(command.words)  # variables of a span are the reader's
                yield from (f"line {span.line}: {fault}" for fault in faults(known, world))
        else:
            yield from (f"line {span.line}: {fault}" for fault in document_values.span_faults(span, world))


def all_faults(document: Document) -> list[str]:
    """Everything that is wrong with a document, but for overlays that have to be built."""
    world = world_of(document)
    found = [f"line {fence.line}: {fault}" for fence in document.of("yaml") for fault in document_values.yaml_faults(fence, world)]
    found += [f"line {fence.line}: {fault}" for fence in document.of("toml") for fault in document_values.toml_faults(fence.text)]
    found += shell_faults(document, world)
    found += excerpt_faults(document, world)
    return found + list(document_values.link_faults(document))


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_what_a_document_tells_to_type_is_right_and_what_it_names_exists(path: Path) -> None:
    assert all_faults(Document.read(path)) == []


def test_groups_are_those_that_the_manifests_have() -> None:
    assert groups() == {"generators", "generators-spot", "verifiers", "learner"}


def test_the_overlay_that_the_guide_shows_is_built(tmp_path: Path) -> None:
    files = world_of(Document.read(DEPLOY_GUIDE)).files
    assert {"deploy/overlays/mine/kustomization.yaml", "deploy/overlays/mine/prices.yaml"} <= files.keys()
    assert list(document_values.overlay_faults(files, tmp_path)) == []


def test_an_overlay_whose_patch_means_another_group_is_not_built(tmp_path: Path) -> None:
    files = world_of(Document.read(DEPLOY_GUIDE)).files
    swapped = {name: text.replace("value: generators", "value: learner") for name, text in files.items()}
    assert swapped != files
    assert list(document_values.overlay_faults(swapped, tmp_path)) != []


def test_the_operator_is_installed_as_retries_and_alerts_need_it() -> None:
    """Its chart watches no job, and its patience ends before the head of a lost node is replaced."""
    [fence] = [fence for fence in Document.read(DEPLOY_GUIDE).of("bash") if "kuberay-operator --version" in fence.text]
    installs = [" ".join(command.words) for command in commands(fence.text) if command.words[:2] == ("helm", "install")]
    assert [" ".join(line.split()[:3]) for line in installs] == ["helm install kube-prometheus-stack", "helm install kuberay-operator"]
    [patience] = re.findall(r'"RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS","value":"(\d+)"', installs[1])
    assert int(patience) >= 1800
    assert "metrics.serviceMonitor.enabled=true" in installs[1]
    [podmonitor] = [one for one in base() if one["kind"] == "PodMonitor"]
    assert f"metrics.serviceMonitor.additionalLabels.release={podmonitor['metadata']['labels']['release']}" in installs[1]


def test_the_guide_lists_every_component_and_no_other() -> None:
    listed = set(re.findall(r"^\| `deploy/components/([\w-]+)` \|", DEPLOY_GUIDE.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {folder.name for folder in (ROOT / "deploy" / "components").iterdir()}


def test_the_guide_lists_every_overlay_and_no_other() -> None:
    listed = set(re.findall(r"^\| `deploy/overlays/([\w-]+)` \|", DEPLOY_GUIDE.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {folder.name for folder in OVERLAYS} - {"mine"}


BAD = {
    "no shell": ("```bash\nif true; then\n```", "syntax error"),
    "unknown program": ("```bash\nkubctl get pods\n```", "kubctl"),
    "unknown variable": ('```bash\necho=1\ncat "$NOBODY_SET_IT"\n```', "NOBODY_SET_IT"),
    "unknown command of firesteel": ("```bash\nfiresteel trian my.toml\n```", "trian"),
    "unknown option of firesteel": ("```bash\nfiresteel run my.toml --resum auto\n```", "--resum"),
    "argument that is missing": ("```bash\nfiresteel stop\n```", "RUN_DIR"),
    "option of the wrong type": ("```bash\nfiresteel scale runs/a --verifiers many\n```", "--verifiers"),
    "override of an unknown key": ("```bash\nfiresteel run my.toml --set learner.rank=2\n```", "learner.rank"),
    "override of a file that is there": ("```bash\nfiresteel run recipes/demo.toml --set learner.ranks=0\n```", "learner.ranks"),
    "firesteel in a pod": ("```bash\nkubectl -n firesteel exec POD -c ray-head -- firesteel status --jsn a\n```", "--jsn"),
    "firesteel in the prose": ("say `firesteel stop --now RUN_DIR`", "--now"),
    "unknown command of kubectl": ("```bash\nkubectl aply -k deploy/base\n```", "aply"),
    "unknown option of kubectl": ("```bash\nkubectl apply -k deploy/base --dryrun=server\n```", "--dryrun"),
    "folder without kustomization": ("```bash\nkubectl apply -k deploy/docker\n```", "deploy/docker"),
    "missing manifest": ("```bash\nkubectl apply -f deploy/base/rayjobs.yaml\n```", "rayjobs.yaml"),
    "unknown namespace": ("```bash\nkubectl -n firestel get pods\n```", "firestel"),
    "unknown container": ("```bash\nkubectl -n firesteel exec POD -c head -- cat a\n```", "container head"),
    "unknown label": ("```bash\nkubectl -n firesteel get pods --selector rlvr.io/role=trainer\n```", "trainer"),
    "unknown object": ("```bash\nkubectl -n firesteel delete rayjob firesteel\n```", "rayjob firesteel"),
    "unknown port": ("```bash\nkubectl -n firesteel port-forward service/rlvr-controller 9090\n```", "9090"),
    "repository that was not added": ("```bash\nhelm install a kuberay/kuberay-operator\n```", "kuberay/kuberay-operator"),
    "unknown target of the image": ("```bash\ndocker build -f deploy/docker/Dockerfile --target tpu -t a .\n```", "tpu"),
    "image that was not built": ("```bash\ndocker push firesteel-gpu:1\n```", "firesteel-gpu:1"),
    "unknown target of make": ("```bash\nmake demonstration\n```", "demonstration"),
    "unknown variable of make": ("```bash\nmake setup DEVISE=gpu\n```", "DEVISE"),
    "script that is not there": ("```bash\ndeploy/rescale.sh generators 2\n```", "rescale.sh"),
    "script that nobody may run": ("```bash\ndeploy/docker/Dockerfile\n```", "executable"),
    "unknown group": ("```bash\ndeploy/scale.sh generator 2\n```", "generator"),
    "unknown option of a script": ("```bash\ndeploy/scale.sh --kep generators 2\n```", "--kep"),
    "unknown TOML key": ("```toml\n[metrics]\nbnid = '0.0.0.0'\n```", "metrics.bind"),
    "TOML of the wrong type": ("```toml\n[cost]\nbudget_usd = 'much'\n```", "cost.budget_usd"),
    "unknown key in the prose": ("set `generators.cuont`", "generators.cuont"),
    "bad setting in the prose": ('set `generators.scaling = "metric"`', "generators.scaling"),
    "missing file in the prose": ("see `deploy/base/rayjobs.yaml`", "rayjobs.yaml"),
    "missing page": ("see [this](deployment.md)", "deployment.md"),
    "missing heading": ("see [this](operations.md#learnerstaled)", "learnerstaled"),
    "unknown metric": ("see `rlvr_cost_dollars_total`", "rlvr_cost_dollars_total"),
    "unknown label in the prose": ("see `rlvr.io/price`", "rlvr.io/price"),
    "YAML that is nobody's file": ("```yaml\nreplicas: 3\n```", "first line"),
    "YAML with a typo": ("```yaml\n# a.yaml\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {contaners: []}\n```", "contaners"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_document_is_noticed_and_named(case: str) -> None:
    text, said = BAD[case]
    found = all_faults(Document(DEPLOY_GUIDE, text + "\n"))
    assert any(said in fault for fault in found), found


def test_the_table_of_kubectl_names_options_that_kubectl_has() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is absent")
    always = subprocess.run(["kubectl", "options"], capture_output=True, text=True, check=True).stdout
    for verb, options in KUBECTL.items():
        said = subprocess.run(["kubectl", verb, "--help"], capture_output=True, text=True, check=True).stdout + always
        known = set(re.findall(r"(?<!\w)--?[a-z][a-z-]*", said))
        if verb == "create":
            for kind in ("configmap", "secret"):
                words = ["kubectl", verb, kind, *(["generic"] if kind == "secret" else []), "--help"]
                known |= set(re.findall(r"--[a-z-]+", subprocess.run(words, capture_output=True, text=True, check=True).stdout))
        wanted = {option.rstrip("=") for option in (*options, *KUBECTL_ALWAYS)} - {"-it"}
        assert wanted <= known, verb


def test_numbers_and_defaults_of_the_threat_model_are_those_of_the_code() -> None:
    said = SECURITY.read_text(encoding="utf-8")
    assert f"all but {len(seccomp._CALLS)} system calls" in said
    assert f"{REPLY_BYTES} bytes of fixed fields" in said
    assert Config().metrics.bind == "127.0.0.1"
    assert Config().model.trust_remote_code is False
    assert len(said.splitlines()) <= 110
