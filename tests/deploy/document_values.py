"""Whether what a document names exists: keys of the run file, files, links, metrics, labels, and the YAML that it shows.

Owns how a code span is told to be one of these. A span that looks like none of them is prose.
"""

import functools
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import object_schemas
import restricted_rules
import yaml
from document_commands import World
from document_text import Document, Piece
from rendered import BASE, DEPLOY, LOADER, ROOT, build, of_kind

from rlvr.config_file import parse_config
from rlvr.config_schema import key_types, tables
from rlvr.errors import ConfigError
from rlvr.metrics import CATALOGUE

FOLDERS = ("actors", "benchmarks", "deploy", "docs", "learner", "recipes", "requirements", "rlvr", "tests", "verifier")
FILES = ("toml", "json", "jsonl", "yaml", "py", "md", "sh", "txt")
_KEY = re.compile(r"[a-z_]+\.[a-z_]+")
_SETTING = re.compile(r"[a-z_]+\.[a-z_]+ = .+")
_PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w.*/-]*")
_METRIC = re.compile(r"rlvr_[a-z_]+")
_LABEL = re.compile(r"rlvr\.io/[a-z-]+")
_SUFFIXES = ("", "_bucket", "_sum", "_count")


def span_faults(span: Piece, world: World) -> Iterator[str]:
    """Sentences about one code span of the prose."""
    text = span.text
    if _SETTING.fullmatch(text):
        yield from toml_faults("", [text.replace(" = ", "=", 1)])
    elif _KEY.fullmatch(text) and text.partition(".")[0] in tables() and text.rpartition(".")[2] not in FILES:
        if text not in key_types():
            yield f"the run file has no key {text}"
    elif _PATH.fullmatch(text):
        if not (world.has(text) or any(ROOT.glob(text.rstrip("/")))):
            yield f"there is no {text}"
    elif _METRIC.fullmatch(text):
        if not any(text == spec.name + suffix for spec in CATALOGUE for suffix in _SUFFIXES):
            yield f"there is no metric {text}"
    elif _LABEL.fullmatch(text) and text not in _labels():
        yield f"no pod has a label {text}"


def link_faults(document: Document) -> Iterator[str]:
    """Links within the project: the file is there, and has the heading."""
    for link in document.links:
        path, _, anchor = link.text.partition("#")
        if "://" in path:
            continue
        target = (document.path.parent / path).resolve() if path else document.path
        if path and not target.exists():
            yield f"line {link.line}: there is no {path}"
        elif anchor and anchor not in (Document.read(target) if path else document).anchors:
            yield f"line {link.line}: {path or 'this page'} has no heading for #{anchor}"


def toml_faults(text: str, overrides: Sequence[str] = ()) -> Iterator[str]:
    """A whole run file, or some of its tables: what is left out has its default."""
    try:
        parse_config(text, overrides, folder=ROOT)
    except ConfigError as error:
        yield str(error)


def yaml_faults(fence: Piece, world: World) -> Iterator[str]:
    """A fence of YAML is a file: part of an overlay, which is built as a whole, or objects of Kubernetes."""
    if not fence.file_name:
        yield "a fence of YAML says in its first line which file it is: # NAME.yaml"
        return
    if "/overlays/" in fence.file_name:
        return
    for one in yaml.load_all(fence.text, Loader=LOADER):
        yield from object_schemas.core_faults(one)
        world.made.add((one["kind"].lower(), one["metadata"]["name"]))
        claims = {claim["metadata"]["name"] for claim in of_kind(world.stream, "PersistentVolumeClaim")}
        spec = one.get("spec", {})
        for volume in spec.get("volumes", []):
            name = volume.get("persistentVolumeClaim", {}).get("claimName")
            if name and name not in claims:
                yield f"there is no claim {name}"
        for container in spec.get("containers", []):
            yield from restricted_rules.of_container(container, spec.get("securityContext", {}))


def overlay_faults(files: dict[str, str], scratch: Path) -> Iterator[str]:
    """The overlays that a document shows, built over a copy of base. Skips where kubectl is absent."""
    copy = scratch / "deploy"
    for file in BASE.iterdir():
        if file.is_file():
            _write(copy / "base" / file.name, file.read_text(encoding="utf-8"))
    shutil.copytree(DEPLOY / "components", copy / "components")
    for name, text in files.items():
        if name.startswith("deploy/overlays/"):
            _write(scratch / name, text)
    for folder in sorted({(scratch / name).parent for name in files if name.startswith("deploy/overlays/")}):
        done = build(folder)
        if done.returncode:
            yield f"{folder.relative_to(scratch)}: {done.stderr.strip()}"
            continue
        objects = [one for one in yaml.load_all(done.stdout, Loader=LOADER) if one]
        yield from (f"{one['kind']}: {fault}" for one in objects for fault in object_schemas.metadata_faults(one))
        if _images(done.stdout) & {"firesteel-gpu", "firesteel-cpu"}:
            yield f"{folder.relative_to(scratch)}: an image keeps the name that no registry has"


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _images(manifests: str) -> set[str]:
    return {image.partition(":")[0] for image in re.findall(r"^\s*(?:- )?image: (\S+)$", manifests, re.MULTILINE)}


@functools.cache
def _labels() -> frozenset[str]:
    texts = [file.read_text(encoding="utf-8") for file in DEPLOY.rglob("*.yaml")]
    return frozenset(label for text in texts for label in _LABEL.findall(text))
