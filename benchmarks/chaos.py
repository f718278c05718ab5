"""Chaos: a real run whose processes are killed and stopped again and again, and an independent audit of what is left.

`python -m benchmarks.chaos --minutes M --seed S [--run RUN.toml] [--kills N]` starts a run (default: the demo), counts minutes from its first trained
step, strikes by a seeded schedule, stops the run by SIGTERM, has its journal, checkpoints and kept rollouts audited (`benchmarks.audit`), looks for
what is left on the machine, and writes benchmarks/results/chaos.json. The run lasts at least the minutes, and until the last strike is healed.
Exit codes: 0 every claim holds; 1 one does not; 2 the run never began.
"""

import argparse
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.audit import Report, audit
from benchmarks.chaos_parts import hazards
from benchmarks.chaos_parts.campaign import Blow, Campaign, Ended, Hung
from benchmarks.chaos_parts.leftovers import Leftovers, find_leftovers
from benchmarks.chaos_parts.processes import Kin, shared_memory
from benchmarks.chaos_parts.schedule import Kind, Role, make_schedule
from benchmarks.chaos_parts.sight import Sight
from benchmarks.chaos_parts.subject import RUN_NAME, SETTINGS, Subject
from benchmarks.record import RESULTS, ROOT, Claim, write
from recipes.demo.__main__ import base_model

DEMO = ROOT / "recipes" / "demo.toml"
BY_SIGTERM = 143
SILENCE_S = 8.0
STRUCK = tuple(role for role in Role if role is not Role.DISK)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a campaign's run lives on this machine."""

    run_dir: Path
    store: Path
    temporary: Path
    disk: Path | None
    no_disk: str
    """Why no small file system could be mounted; empty where it is there."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a campaign came to."""

    campaign: Any
    exit_code: int | None
    steps: int
    has_last_checkpoint: bool
    report: Report
    leftovers: Leftovers


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description="Kill a live run at every moment, then audit it.")
    parser.add_argument("--minutes", type=float, required=True, help="length of the run, from its first trained step")
    parser.add_argument("--seed", type=int, required=True, help="of the schedule and of the run")
    parser.add_argument("--run", type=Path, default=DEMO, metavar="RUN.toml", help="the run that is struck")
    parser.add_argument("--kills", type=int, default=40, help="SIGKILLs; stops, stalls and full disks come on top")
    parser.add_argument("--roles", type=lambda text: tuple(Role(word) for word in text.split(",")), default=STRUCK, help="who is struck")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="K=V", help="a key of the run, on top of the chaos run's own")
    parser.add_argument("--run-dir", type=Path, help="default: runs/chaos-SEED-TIME")
    parser.add_argument("--tmpfs-mib", type=int, default=2048, help="size of the file system that holds the store and is filled; 0 = none")
    parser.add_argument("--hang-s", type=float, default=180.0, help="without a sign of work for so long the run hangs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of chaos.json")
    return parser.parse_args(words)


def prepare(options: argparse.Namespace) -> Place:
    """The folders of a run, and the small file system where it may be mounted; that it may not is said aloud."""
    run_dir = (options.run_dir or ROOT / "runs" / f"chaos-{options.seed}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix="fs-"))  # short: the path of a socket has at most 107 bytes
    disk = run_dir.with_name(f"{run_dir.name}-store")
    reason = hazards.mount(disk, size_mib=options.tmpfs_mib) if options.tmpfs_mib else "switched off by --tmpfs-mib 0"
    if reason is None:
        return Place(run_dir=run_dir, store=disk / RUN_NAME, temporary=temporary, disk=disk, no_disk="")
    disk.rmdir() if disk.is_dir() else None
    print(f"SKIPPED: no disk is filled: {reason}", file=sys.stderr, flush=True)
    return Place(run_dir=run_dir, store=run_dir, temporary=temporary, disk=None, no_disk=reason)


def settings_of(options: argparse.Namespace, place: Place) -> tuple[str, ...]:
    """The run's keys: the chaos run's own, then the user's."""
    own = [*SETTINGS, f"run.name={RUN_NAME}", f"run.seed={options.seed}"]
    if place.disk is not None:
        own.append(f"run.store={place.disk}")
    if options.run == DEMO:
        own.append(f"model.policy={base_model(0)}")
    return (*own, *options.settings)


def strike(options: argparse.Namespace, place: Place) -> Outcome:
    """The whole campaign: start, strike, stop, audit, look around."""
    before, kin = shared_memory(), Kin()
    subject = Subject(options.run, place.run_dir, settings=settings_of(options, place), temporary=place.temporary, kin=kin)
    sight = Sight(place.run_dir, place.store)
    campaign = Campaign(subject, sight, kin, seed=options.seed, silence_s=SILENCE_S, hang_s=options.hang_s, disk=place.disk)
    schedule = make_schedule(options.seed, num_kills=options.kills, roles=options.roles, can_fill=place.disk is not None)
    try:
        campaign.begin()
        campaign.carry_out(schedule, minutes=options.minutes)
    finally:
        exit_code = subject.stop()
        leftovers = find_leftovers(kin, temporary=place.temporary, before=before)
        kin.close()
    steps = sight.steps()
    last = (place.store / "checkpoints" / f"step-{steps[-1]['step']:06d}" / "checkpoint.json") if steps else None
    return Outcome(
        campaign=campaign,
        exit_code=exit_code,
        steps=len(steps),
        has_last_checkpoint=last is not None and last.is_file(),
        report=audit(place.store, place.run_dir, witnesses=campaign.witnesses),
        leftovers=leftovers,
    )


def claims_of(outcome: Outcome, *, kills: int) -> list[Claim]:
    """What is promised, and what came of it."""
    campaign, report = outcome.campaign, outcome.report
    sent = sum(blow.kind == Kind.KILL for blow in campaign.blows)
    is_orderly = outcome.exit_code == BY_SIGTERM and outcome.has_last_checkpoint
    nothing = {
        "accepted rollouts that were lost": report.lost,
        "rollouts that were accepted twice": report.duplicates,
        "rollouts that were consumed twice in the lineage that survives": report.consumed_twice,
        "batches that were others when they were handed out again": report.changed_batches,
        "rollouts that trained beyond the staleness bound": report.staleness_violations,
        "other breaches of the queue's contract": report.contract_violations,
        "damaged places in the journal that are no torn tail": report.corrupt,
        "segments of the journal that are missing": report.missing_segments,
        "hangs": len(campaign.hangs),
        "ends that nobody asked for": len(campaign.ends),
        "processes, sockets and shared-memory files left behind": outcome.leftovers.number,
    }
    return [
        Claim(claim="SIGKILLs over all roles in one seeded run", measured=sent, aim=kills, unit="kills"),
        *(Claim(claim=text, measured=number, aim=0, unit="times", at_most=True) for text, number in nothing.items()),
        Claim(claim=f"SIGTERM ends the run with {BY_SIGTERM} and a checkpoint of its last step", measured=int(is_orderly), aim=1, unit="times"),
    ]


def flat_of(outcome: Outcome) -> dict[str, Any]:
    """The keys by which the result is read."""
    blows, report = outcome.campaign.blows, outcome.report
    kills = Counter(blow.role for blow in blows if blow.kind == Kind.KILL)
    return {
        "kills": dict(kills),
        "kills_total": kills.total(),
        "accepted": report.accepted,
        "lost": report.lost,
        "duplicates": report.duplicates,
        "consumed_twice": report.consumed_twice,
        "staleness_violations": report.staleness_violations,
        "hangs": len(outcome.campaign.hangs),
        "steps": report.steps,
        "recovery_seconds": recovery_of(blows, kind=Kind.KILL),
    }


def recovery_of(blows: Sequence[Blow], *, kind: Kind) -> dict[str, dict[str, float | None]]:
    """Median and longest recovery by role; None where one was never healed."""
    found: dict[str, dict[str, float | None]] = {}
    for role in sorted({blow.role for blow in blows if blow.kind == kind}):
        times = [blow.recovery_s for blow in blows if blow.role == role and blow.kind == kind]
        healed = [seconds for seconds in times if seconds is not None]
        found[role] = {
            "p50": round(statistics.median(healed), 2) if healed else None,
            "max": round(max(healed), 2) if len(healed) == len(times) else None,
        }
    return found


def details_of(outcome: Outcome, options: argparse.Namespace, place: Place) -> dict[str, Any]:
    campaign = outcome.campaign
    return {
        "seed": options.seed,
        "minutes": options.minutes,
        "steps_trained": outcome.steps,
        "exit_code": outcome.exit_code,
        "audit": msgspec.to_builtins(outcome.report),
        "leftovers": msgspec.to_builtins(outcome.leftovers),
        "hangs": campaign.hangs,
        "ends": campaign.ends,
        "other_recovery_seconds": {kind.value: recovery_of(campaign.blows, kind=kind) for kind in (Kind.STOP, Kind.STALL, Kind.FULL)},
        "disk_full": place.no_disk or f"the store lay on a tmpfs of {options.tmpfs_mib} MiB, where fsync costs nothing",
        "moments_met": {moment: [sum(b.was_met for b in of), len(of)] for moment, of in _by_moment(campaign.blows).items()},
        "log": [msgspec.to_builtins(blow) for blow in campaign.blows],
    }


def _by_moment(blows: Sequence[Blow]) -> dict[str, list[Blow]]:
    found: dict[str, list[Blow]] = {}
    for blow in blows:
        found.setdefault(blow.moment, []).append(blow)
    return found


def main(words: Sequence[str]) -> int:
    options = parse(words)
    place = prepare(options)
    is_clean = False
    try:
        outcome = strike(options, place)
        claims = claims_of(outcome, kills=options.kills)
        is_clean = all(claim.holds for claim in claims)
        command = shlex.join(["python", "-m", "benchmarks.chaos", *words])
        print(write("chaos", claims, command=command, details=details_of(outcome, options, place), flat=flat_of(outcome), folder=options.out))
    except (Ended, Hung) as error:
        print(f"the run never began: {error}; see {place.run_dir}.log", file=sys.stderr)
        return 2
    finally:
        clear(place, is_clean=is_clean)
    return 0 if is_clean else 1


def clear(place: Place, *, is_clean: bool) -> None:
    """Take the small file system and the temporary folder away; where something was wrong, what lay there is kept beside the run."""
    if not is_clean:
        evidence = place.run_dir.with_name(f"{place.run_dir.name}-evidence")
        for name in ("journal", "checkpoints"):
            if place.disk is not None and (place.store / name).is_dir():
                shutil.copytree(place.store / name, evidence / name)
        print(f"kept for a look: {place.run_dir}, {evidence if evidence.is_dir() else ''} {place.temporary}", file=sys.stderr)
    if place.disk is not None:
        hazards.unmount(place.disk)
        place.disk.rmdir()
    if is_clean:
        shutil.rmtree(place.temporary, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
