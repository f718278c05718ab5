"""Where the things that a run file names are: files, folders, or models of a hub.

Owns the difference between a folder and a hub id, and the evaluation sets' files. `resolve_paths` makes every path absolute, so that a resolved
configuration means the same in any folder; whether the files exist is asked only when a run needs them (`check_files`).
"""

import os
import re
from pathlib import Path

import msgspec

from rlvr.config import Config, EvaluationSet
from rlvr.errors import ConfigError

BUILT_IN_TEMPLATES = ("raw", "chat", "qwen25-math-cot")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def is_hub_id(model: str) -> bool:
    """True for the form of a hub id, `NAME` or `OWNER/NAME`; everything else is a folder. Which of the two a NAME is that a folder has too is settled
    where the run file is read."""
    return bool(_HUB_ID.fullmatch(model))


def is_folder_name(model: str) -> bool:
    """True where a resolved model.policy or model.reference is a folder, false where it is a hub id."""
    return os.path.isabs(model)


def resolve_paths(config: Config, folder: Path) -> Config:
    """The same configuration with absolute paths, taken relative to the run file's `folder`, and one entry for each evaluation set."""
    replace = msgspec.structs.replace
    reference = config.model.reference
    return replace(
        config,
        run=replace(config.run, store=config.run.store if "://" in config.run.store else _file(config.run.store, folder)),
        model=replace(
            config.model,
            policy=_model(config.model.policy, folder),
            reference=reference if reference == "initial" else _model(reference, folder),
        ),
        prompts=replace(config.prompts, file=_file(config.prompts.file, folder), template=_template(config.prompts.template, folder)),
        evaluation=replace(
            config.evaluation,
            template=_template(config.evaluation.template, folder),
            sets=tuple(one for given in config.evaluation.sets for one in _single_sets(given, folder)),
        ),
    )


def check_files(config: Config) -> None:
    """Raise ConfigError for the first file or model folder that the run needs and that is not there."""
    for sentence in missing_files(config).values():
        raise ConfigError(sentence)


def missing_files(config: Config) -> dict[str, str]:
    """Path → sentence of every file or model folder that the run needs and that is not there."""
    missing: dict[str, str] = {}
    for key, model in (("model.policy", config.model.policy), ("model.reference", config.model.reference)):
        if is_folder_name(model) and not (Path(model) / "config.json").is_file():
            state = "has no config.json" if Path(model).is_dir() else "does not exist"
            missing.setdefault(model, f"{key}: the model folder {model} {state}")
    for key, template in (("prompts.template", config.prompts.template), ("evaluation.template", config.evaluation.template)):
        if template and template not in BUILT_IN_TEMPLATES and not Path(template).is_file():
            missing.setdefault(template, f"{key}: there is no template file {template}; built in are {', '.join(BUILT_IN_TEMPLATES)}")
    if config.prompts.file and not Path(config.prompts.file).is_file():
        missing.setdefault(config.prompts.file, f"prompts.file: there is no file {config.prompts.file}")
    for one in config.evaluation.sets:
        if not Path(one.file).is_file():
            missing.setdefault(one.file, f"evaluation.sets: the problems of {one.names[0]} are to be in {one.file}, which does not exist")
    return missing


def _absolute(path: str, folder: Path) -> str:
    return os.path.normpath(folder.absolute() / Path(path).expanduser())


def _file(path: str, folder: Path) -> str:
    return _absolute(path, folder) if path else ""


def _template(template: str, folder: Path) -> str:
    return template if template in BUILT_IN_TEMPLATES else _file(template, folder)


def _model(model: str, folder: Path) -> str:
    return model if is_hub_id(model) and not (folder / model).is_dir() else _absolute(model, folder)


def _single_sets(given: EvaluationSet, folder: Path) -> tuple[EvaluationSet, ...]:
    """One entry a set, each with one name and its file. Raises ConfigError where there is neither name nor file, or one file for several names."""
    if not given.file:
        if not given.names:
            raise ConfigError("evaluation.sets: a set needs names, or a file")
        return tuple(msgspec.structs.replace(given, names=(name,), file=_absolute(f"{name}.jsonl", folder)) for name in given.names)
    if len(given.names) > 1:
        raise ConfigError(f"evaluation.sets: the file {given.file} is one set, but {len(given.names)} names are given: {', '.join(given.names)}")
    name = given.names or (Path(given.file).stem,)
    return (msgspec.structs.replace(given, names=name, file=_absolute(given.file, folder)),)
