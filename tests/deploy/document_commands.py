"""Whether a command of a document would do what it says: its options exist, and so does whatever it names.

Owns a table of the options that documents may use, program by program; what the table does not have is a fault, so that a misspelt option
cannot hide. The product's own command line is asked itself. Called with the commands of one document in their order: a later one may name what an
earlier one made.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from document_shell import SUBSTITUTED, Command
from rendered import ROOT, Stream, pods

from actors.cli import app
from rlvr.config_file import load_config, parse_config
from rlvr.errors import ConfigError

KUBECTL = {  # an option ends with = where a value follows it
    "apply": ("-k=", "-f=", "--dry-run="),
    "cordon": (),
    "create": ("--from-file=", "--from-literal="),
    "delete": ("-k=", "-f="),
    "describe": (),
    "exec": ("-c=", "-it"),
    "get": ("-o=", "--selector=", "--field-selector="),
    "kustomize": (),
    "label": (),
    "logs": ("--selector=", "--follow", "-c="),
    "port-forward": (),
    "wait": ("--for=", "--timeout="),
}
KUBECTL_ALWAYS = ("-n=",)
OTHERS = {
    "helm repo": (),
    "helm install": ("--version=", "--namespace=", "--create-namespace", "--set=", "--set-json="),
    "docker build": ("-f=", "--target=", "-t=", "--build-arg="),
    "docker push": (),
    "deploy/scale.sh": ("-n=", "-t=", "--keep", "--dry-run"),
    "deploy/monitoring/local/up.sh": (),
}
PLAIN = {"base64", "cat", "printenv", "source", "tail", "tar"}
"""Programs whose arguments nobody checks here."""
KINDS = {
    "rayjob": "RayJob",
    "raycluster": "RayCluster",
    "service": "Service",
    "secret": "Secret",
    "configmap": "ConfigMap",
    "pod": "Pod",
    "pods": "Pod",
    "pvc": "PersistentVolumeClaim",
    "crd": "CustomResourceDefinition",
}
_NAMES_OF_OTHERS = {"rayjobs.ray.io", "podmonitors.monitoring.coreos.com"}
USAGE_ERROR: Any = typer.BadParameter.__base__
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|…|\.\.\.")


@dataclass
class World:
    """What commands may name. files: contents of files that the document shows, by path; built: images; variables: of the shell."""

    stream: Stream
    groups: set[str]
    files: dict[str, str] = field(default_factory=dict)
    variables: set[str] = field(default_factory=set)
    namespaces: set[str] = field(default_factory=set)
    releases: set[str] = field(default_factory=set)
    repositories: set[str] = field(default_factory=set)
    built: set[str] = field(default_factory=set)
    made: set[tuple[str, str]] = field(default_factory=set)
    is_excerpt: bool = False
    """A code span of the prose: arguments may be missing, and words in capitals stand for something."""

    def has(self, path: str) -> bool:
        return path in self.files or (ROOT / path).exists() or any(name.startswith(f"{path.rstrip('/')}/") for name in self.files)


def faults(command: Command, world: World) -> Iterator[str]:
    """Sentences; none for a command that is right. Notes in `world` what the command makes."""
    yield from (f"${name} is not set before" for name in command.uses if name not in world.variables)
    world.variables.update(command.sets)
    if not command.words:
        return
    program, *arguments = command.words
    if world.is_excerpt:
        arguments = ["1" if _PLACEHOLDER.fullmatch(word) else word for word in arguments]
    if program.removeprefix(".venv/bin/") == "firesteel":
        yield from _firesteel(arguments, world)
    elif program == "kubectl":
        yield from _kubectl(arguments, world)
    elif program == "make":
        yield from _make(arguments)
    elif program == "read":  # of the shell: the last word is the variable
        world.variables.update(arguments[-1:])
    elif program == "helm":
        yield from _helm(arguments, world)
    elif program == "docker":
        yield from _docker(arguments, world)
    elif "/" in program:
        yield from _script(program, arguments, world)
    elif program not in PLAIN:
        yield f"{program}: no document uses this program so far; teach tests/deploy/document_commands.py what it may be given"


def parsed(known: Sequence[str], arguments: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Options with their values, the other words, and faults. Words after `--` are others."""
    takes = {option.rstrip("="): option.endswith("=") for option in known}
    options: dict[str, str] = {}
    words: list[str] = []
    wrong: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            return options, [*words, *left], wrong
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if not word.startswith("-"):
            words.append(word)
        elif name not in takes:
            wrong.append(f"unknown option {name}")
        elif takes[name] and not equals and not left:
            wrong.append(f"{name} needs a value")
        else:
            options[name] = value if equals else left.pop(0) if takes[name] else ""
    return options, words, wrong


def _firesteel(arguments: Sequence[str], world: World) -> Iterator[str]:
    name, *rest = arguments or [""]
    command = getattr(typer.main.get_command(app), "commands").get(name)  # noqa: B009 - typer brings a click of its own, whose types are private
    if command is None:
        yield f"firesteel has no command {name!r}"
        return
    try:
        given = command.make_context(name, rest).params
    except typer.Exit:  # --help
        return
    except USAGE_ERROR as error:
        if not (world.is_excerpt and type(error).__name__ == "MissingParameter"):
            yield f"firesteel {name}: {error.format_message()}"
        return
    yield from _overrides(given)


def _overrides(given: dict[str, object]) -> Iterator[str]:
    """Keys that --set names, of the run file that is given where the project has it, else of the defaults."""
    overrides = given.get("overrides") or ()
    assert isinstance(overrides, list | tuple)
    file = Path(str(given.get("file")).replace("/etc/firesteel/", "deploy/base/"))
    try:
        if (ROOT / file).is_file():
            load_config(ROOT / file, overrides)
        elif overrides:
            parse_config("", overrides, folder=ROOT)
    except ConfigError as error:
        yield f"firesteel: {error}"


def _kubectl(arguments: Sequence[str], world: World) -> Iterator[str]:
    verb = next((word for word in arguments if word in KUBECTL), None)
    if verb is None:
        yield f"kubectl: none of its commands is known: {' '.join(arguments)}"
        return
    rest = list(arguments)
    rest.remove(verb)
    options, words, wrong = parsed((*KUBECTL[verb], *KUBECTL_ALWAYS), rest)
    yield from (f"kubectl {verb}: {fault}" for fault in wrong)
    yield from (f"kubectl {verb}: {fault}" for fault in _options_of_kubectl(options, world))
    if world.is_excerpt and not words:
        return
    if verb in ("exec", "logs"):
        yield from (f"kubectl {verb}: {fault}" for name in words[:1] for fault in _resource("pod", name, world))
        yield from faults(Command(tuple(words[1:])), world)
    elif verb == "create":
        kind = "secret" if words[:2] == ["secret", "generic"] else words[0]
        world.made.add((kind, words[-1]))
        yield from (f"kubectl create: there is no {file}" for file in [options.get("--from-file", "")] if file and not world.has(file))
    elif verb == "kustomize":
        yield from (f"kubectl kustomize: there is no folder {folder}" for folder in words if not world.has(f"{folder}/kustomization.yaml"))
    elif verb == "port-forward":
        yield from _forwarded(words, world)
    elif verb != "cordon":  # nodes are the reader's
        yield from (f"kubectl {verb}: {fault}" for fault in _resources(words, world))


def _options_of_kubectl(options: dict[str, str], world: World) -> Iterator[str]:
    namespace, folder, file, selector, container = (options.get(name, "") for name in ("-n", "-k", "-f", "--selector", "-c"))
    known = {one["metadata"]["name"] for one in world.stream if one["kind"] == "Namespace"} | world.namespaces
    if namespace and namespace not in known:
        yield f"there is no namespace {namespace}"
    if folder and not world.has(f"{folder}/kustomization.yaml"):
        yield f"there is no folder {folder} with a kustomization.yaml"
    if file and not world.has(file):
        yield f"there is no file {file}"
    label = selector.partition("=")[::2]
    if selector and not any(pod.labels.get(label[0]) == label[1] for pod in pods(world.stream)):
        yield f"no pod has the label {selector}"
    if container and not any(container == one["name"] for pod in pods(world.stream) for one in pod.spec["containers"]):
        yield f"no pod has a container {container}"


def _resources(words: Sequence[str], world: World) -> Iterator[str]:
    """Words such as `pod NAME`, `pod/NAME`, `rayjob,pods`; labels that are set are no resources."""
    if not words:
        return
    first, *names = words
    if "/" in first:
        names, first = [first.partition("/")[2]], first.partition("/")[0]
    for kind in first.split(","):
        if kind not in KINDS:
            yield f"unknown kind {kind}"
    for name in names:
        if "=" not in name:
            yield from _resource(first, name, world)


def _resource(kind: str, name: str, world: World) -> Iterator[str]:
    """Where a variable, a capital word or Helm stands for the name, nobody can say."""
    if SUBSTITUTED in name or name.startswith("$") or name == "1" or _PLACEHOLDER.fullmatch(name) or name in _NAMES_OF_OTHERS:
        return
    if any(name.startswith(f"{release}-") for release in world.releases) or (kind, name) in world.made:
        return
    if not any(one["kind"] == KINDS.get(kind) and one["metadata"]["name"] == name for one in world.stream):
        yield f"there is no {kind} {name}"


def _forwarded(words: Sequence[str], world: World) -> Iterator[str]:
    target, *ports = words
    kind, _, name = target.partition("/")
    yield from _resource(kind, name, world)
    for service in world.stream:
        if service["kind"] == KINDS.get(kind) and service["metadata"]["name"] == name:
            served = {str(port["port"]) for port in service["spec"]["ports"]}
            yield from (f"{target} has no port {port}" for port in ports if port.rpartition(":")[2] not in served)


def _helm(arguments: Sequence[str], world: World) -> Iterator[str]:
    verb, *rest = arguments or [""]
    if f"helm {verb}" not in OTHERS:
        yield f"helm {verb}: not a command that documents use"
        return
    options, words, wrong = parsed(OTHERS[f"helm {verb}"], rest)
    yield from (f"helm {verb}: {fault}" for fault in wrong)
    if verb == "repo":
        world.repositories.add(words[1])
        return
    release, chart = words
    world.releases.add(release)
    world.namespaces.add(options.get("--namespace", "default"))
    if chart.partition("/")[0] not in world.repositories:
        yield f"helm install: the repository of {chart} was not added before"


def _docker(arguments: Sequence[str], world: World) -> Iterator[str]:
    verb, *rest = arguments or [""]
    if f"docker {verb}" not in OTHERS:
        yield f"docker {verb}: not a command that documents use"
        return
    options, words, wrong = parsed(OTHERS[f"docker {verb}"], rest)
    yield from (f"docker {verb}: {fault}" for fault in wrong)
    if verb == "push":
        yield from (f"docker push: {image} was not built before" for image in words if image not in world.built)
        return
    file = ROOT / options.get("-f", "Dockerfile")
    stages = re.findall(r"^FROM \S+ AS (\S+)$", file.read_text(), re.MULTILINE) if file.is_file() else []
    if options.get("--target") not in stages:
        yield f"docker build: {file.relative_to(ROOT)} has no target {options.get('--target')}"
    world.built.add(options.get("-t", ""))


def _script(program: str, arguments: Sequence[str], world: World) -> Iterator[str]:
    if not os.access(ROOT / program, os.X_OK):
        yield f"{program} is no executable file"
        return
    _, words, wrong = parsed(OTHERS.get(program, ()), arguments)
    yield from (f"{program}: {fault}" for fault in wrong)
    if program == "deploy/scale.sh" and words and not world.is_excerpt:
        group, *numbers = words
        if group not in world.groups:
            yield f"{program}: no manifest has a group {group}"
        if len(numbers) not in (1, 2) or not all(number.isdigit() for number in numbers):
            yield f"{program}: one number of pods, or two, after the group"


def _make(arguments: Sequence[str]) -> Iterator[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", text, re.MULTILINE))
    for word in arguments:
        name, equals, _ = word.partition("=")
        if equals and not re.search(rf"\$\(?{name}\b|^{name} \?=", text, re.MULTILINE):
            yield f"make: the Makefile knows no {name}"
        elif not equals and word not in targets:
            yield f"make: there is no target {word}"
