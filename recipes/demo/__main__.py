"""The demo: pretrain or load the base model, train it on one problem, print one table, check the margins.

Owns the order of things and the exit code. `make demo` is `python -m recipes.demo`; `make demo-controls` adds `--controls`, `make demo-seeds`
`--seeds 0,1,2,3,4`. Each arm is `firesteel run recipes/demo.toml` in a process of its own; what it came to is read from its run folder.

Exit codes: 0 every claim holds; 1 a claim is missed or a run failed, the table printed all the same; 2 the user's mistake; 130 interrupted.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.run.folder import RunFolder
from benchmarks import record
from benchmarks.record import Claim
from recipes.demo import report
from recipes.demo.child import call
from recipes.demo.controls import ARMS, ONE_SHOT, Arm
from recipes.demo.recipe import Recipe, base_folder
from recipes.demo.results import Result, as_details, control_claims, one_shot_claims, read_result, worst
from rlvr.errors import UserError

RUN_FILE = record.ROOT / "recipes" / "demo.toml"
INTERRUPTED = 130


class RunEnded(Exception):  # noqa: N818 - a run that ended early is no error of this program
    """A run ended with an exit code that leaves nothing to compare."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def move_aside(run_dir: Path) -> Path | None:
    """Rename an older run's folder after the time of its end; it is never overwritten. Returns its new name.

    Raises UserError where that run is still going: it would lose its folder.
    """
    if not run_dir.exists():
        return None
    summary = run_dir / "summary.json"
    address = RunFolder(run_dir).address()
    if address is not None and not summary.is_file() and is_alive(address.pid):
        raise UserError(
            f"{run_dir} belongs to a run that is still going, process {address.pid}; wait for its end, or give another folder with --run-dir"
        )
    ended = (summary if summary.is_file() else run_dir).stat().st_mtime
    name = f"{run_dir.name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(ended))}"
    number = 1
    aside = run_dir.with_name(name)
    while aside.exists():
        number += 1
        aside = run_dir.with_name(f"{name}-{number}")
    return run_dir.rename(aside)


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").is_dir()


def command_of(arm: Arm, seed: int, base: Path, run_dir: Path) -> list[str]:
    """The command line of one arm, as a user could type it."""
    settings = (f"model.policy={base}", f"run.seed={seed}", f"run.name=demo-{arm.name}", *arm.overrides)
    firesteel = Path(sys.executable).with_name("firesteel")
    return [str(firesteel), "run", str(RUN_FILE), "--run-dir", str(run_dir), *(word for setting in settings for word in ("--set", setting))]


def base_model(seed: int) -> Path:
    """The folder of the seed's base model, pretrained now unless it was before. Raises RunEnded where that was interrupted."""
    folder = base_folder(Recipe(seed=seed))
    if not folder.is_dir():
        code = call([sys.executable, "-m", "recipes.demo.base", "--seed", str(seed)])  # a process of its own: its memory is free when the run starts
        if code != 0:
            raise RunEnded(code if code == INTERRUPTED else 1)
    return folder


def run_arm(arm: Arm, *, seed: int, run_dir: Path, label: str, console: Console) -> Result:
    """Run one arm from its own seed's base model. Raises RunEnded where it was interrupted, refused, or left no summary."""
    base = base_model(seed)
    aside = move_aside(run_dir)
    if aside is not None:
        console.print(f"an older run lies in {aside} now", highlight=False)
    console.print(f"{label}: {arm.question}", highlight=False)
    code = call(command_of(arm, seed, base, run_dir))
    result = read_result(run_dir, label)
    if result is not None and code != 0:
        report.print_results(console, f"{label}, which ended with exit code {code}", [result])
    if code != 0 or result is None:
        raise RunEnded(code if code in (2, INTERRUPTED) else 1)
    return result


def run_demo(seed: int, run_dir: Path, console: Console) -> bool:
    """The one-shot arm. Returns whether every claim holds."""
    result = run_arm(ONE_SHOT, seed=seed, run_dir=run_dir, label=ONE_SHOT.name, console=console)
    return conclude(f"One problem, seed {seed}", [result], one_shot_claims(result), console)


def run_seeds(seeds: list[int], folder: Path, console: Console) -> bool:
    """The one-shot arm once a seed; writes benchmarks/results/demo_seeds.json and the table beside it."""
    results = [run_arm(ONE_SHOT, seed=seed, run_dir=folder / f"seed-{seed}", label=f"seed {seed}", console=console) for seed in seeds]
    claims = [claim for result in results for claim in one_shot_claims(result)]
    holds = conclude("One problem, seed after seed", results, claims, console)
    lowest = worst(results)
    console.print(f"worst: {lowest.label}, {lowest.after:.1f} after {lowest.before:.1f}", highlight=False)
    details: dict[str, Any] = {"worst": lowest.label, "runs": [as_details(result) for result in results]}
    write_benchmark("demo_seeds", claims, details, console)
    (record.RESULTS / "demo_seeds.md").write_text(report.markdown(results) + f"\nThe worst is {lowest.label}.\n", encoding="utf-8")
    return holds


def run_controls(seed: int, folder: Path, console: Console) -> bool:
    """Every arm once, with one seed; writes benchmarks/results/demo_controls.json."""
    results = {arm.name: run_arm(arm, seed=seed, run_dir=folder / arm.name, label=arm.name, console=console) for arm in ARMS}
    claims = control_claims(results)
    holds = conclude(f"One problem and its controls, seed {seed}", list(results.values()), claims, console)
    write_benchmark("demo_controls", claims, {"seed": seed, "runs": [as_details(result) for result in results.values()]}, console)
    return holds


def conclude(title: str, results: list[Result], claims: list[Claim], console: Console) -> bool:
    """Print the table and the claims; true where every run finished and every claim holds."""
    report.print_results(console, title, results)
    report.print_claims(console, claims)
    return all(result.is_finished for result in results) and all(claim.holds for claim in claims)


def write_benchmark(name: str, claims: list[Claim], details: dict[str, Any], console: Console) -> None:
    command = shlex.join(["python", "-m", "recipes.demo", *sys.argv[1:]])
    line = record.write(name, claims, command=command, details=details, folder=record.RESULTS)
    console.out(line, highlight=False)


def seed_of(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number, 0 or more, got {text!r}")
    return int(text)


def seeds_of(text: str) -> list[int]:
    return [seed_of(word) for word in text.split(",")]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m recipes.demo", description="One problem raises accuracy on held-out problems, on two CPU cores.")
    parser.add_argument("--seed", type=seed_of, default=0, help="of pretraining and training alike")
    parser.add_argument("--run-dir", type=Path, help="run folder, or the folder of several runs; an older one is moved aside")
    several = parser.add_mutually_exclusive_group()
    several.add_argument("--seeds", type=seeds_of, help="such as 0,1,2,3,4: the demo once with each")
    several.add_argument("--controls", action="store_true", help="also 16 problems, format only, wrong label, a problem without a carry")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    console = Console()
    runs = record.ROOT / "runs"
    try:
        if options.seeds:
            holds = run_seeds(options.seeds, options.run_dir or runs / "demo-seeds", console)
        elif options.controls:
            holds = run_controls(options.seed, options.run_dir or runs / "demo-controls", console)
        else:
            holds = run_demo(options.seed, options.run_dir or runs / "demo", console)
    except UserError as error:
        console.print(str(error), markup=False, highlight=False)
        return 2
    except RunEnded as ended:
        return ended.code
    except KeyboardInterrupt:
        console.print("interrupted")
        return INTERRUPTED
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
