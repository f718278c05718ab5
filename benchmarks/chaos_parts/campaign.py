"""One campaign: the schedule carried out on a live run, strike after strike, each healed before the next one falls.

Owns the order of things between the first trained step and the end, and the log of what happened. Called by `benchmarks.chaos`. A run that shows no
sign of work for `hang_s` hangs: that is counted, the evidence is kept, and the campaign is over. A run that ends by itself is counted and resumed.
"""

import json
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.audit_journal import read_segment, segment_files
from benchmarks.chaos_parts.hazards import damage_tail, fill, free
from benchmarks.chaos_parts.processes import Kin, Process, look, send
from benchmarks.chaos_parts.recovery import Proof, proof_of
from benchmarks.chaos_parts.schedule import Damage, Kind, Moment, Role, Strike
from benchmarks.chaos_parts.sight import Sight, Status, counts_of
from benchmarks.chaos_parts.subject import Subject
from benchmarks.chaos_parts.victims import victims

LOOK_S = 0.25
START_S = 900.0
"""From the start, or from a resume, to a trained step: every engine starts cold."""
TARGET_S = 120.0
DEAD_S = 60.0
"""Processes of a killed driver end within this, before the journal they wrote is damaged."""
STALL_SILENCES = 1.75
"""The longest stall, in multiples of queue.silence_s: some come back in time, some when they were given up."""
FULL_S = 10.0
MAX_ENDS = 3


class Blow(msgspec.Struct, frozen=True, kw_only=True):
    """What a strike came to. recovery_s: None where it was never healed."""

    number: int
    role: str
    kind: str
    moment: str
    was_met: bool
    """The chosen moment was there when the signal went out."""
    replica: str
    pid: int
    at_s: float
    recovery_s: float | None
    notes: dict[str, Any] = {}


class Hung(Exception):  # noqa: N818 - it says what the run did
    """The run has shown no sign of work for too long."""


class Ended(Exception):  # noqa: N818
    """The driver has ended by itself."""


class Campaign:
    """Call `begin`, then `carry_out`, then read what is here."""

    def __init__(self, subject: Subject, sight: Sight, kin: Kin, *, seed: int, silence_s: float, hang_s: float, disk: Path | None) -> None:
        """disk: the small file system that may be filled."""
        self.blows: list[Blow] = []
        self.hangs: list[str] = []
        self.ends: list[dict[str, Any]] = []
        self.witnesses: set[str] = set()
        self._subject, self._sight, self._kin = subject, sight, kin
        self._chance = random.Random(f"damage/{seed}")
        self._silence_s, self._hang_s, self._disk = silence_s, hang_s, disk
        self._began = time.monotonic()
        self._progress: tuple[tuple[int, int], float] = ((-1, -1), time.monotonic())

    def begin(self) -> None:
        """Start the run and wait for its first trained step: from then on minutes count. Raises Ended or Hung."""
        self._subject.start()
        self._await(lambda: bool(self._sight.steps()), START_S, what="the first step")
        self._began = time.monotonic()

    def carry_out(self, schedule: Sequence[Strike], *, minutes: float) -> None:
        """Every strike, then the rest of the minutes in peace; ends early where the run hangs or cannot be kept alive."""
        ends = self._began + 60.0 * minutes
        waiting = list(schedule)
        try:
            while waiting:
                together = [waiting.pop(0)]
                while waiting and waiting[0].is_joined:
                    together.append(waiting.pop(0))
                self._guarded(lambda: self._pause(together[0], left=1 + len(waiting), ends=ends))  # noqa: B023 - called at once
                self._guarded(lambda: self._strike(together))  # noqa: B023
            while time.monotonic() < ends:
                self._guarded(lambda: self._live(min(ends, time.monotonic() + 5.0)))
        except Hung as hang:
            self._keep_evidence(str(hang))

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do it; a run that ends by itself meanwhile is noted and resumed. Raises Hung where it cannot be kept alive."""
        while True:
            try:
                return work()
            except Ended as ended:
                self.ends.append({"at_s": self._now(), "why": str(ended), "log": self._subject.last_words(), "summary": self._summary()})
            if len(self.ends) > MAX_ENDS:
                raise Hung(f"the run has ended by itself {len(self.ends)} times")
            work = self._resume_auto

    def _pause(self, strike: Strike, *, left: int, ends: float) -> None:
        """Let the run work: so long that the strikes that are left fill the minutes that are left."""
        healed = [blow.recovery_s for blow in self.blows if blow.recovery_s is not None]
        share = max(0.0, ends - time.monotonic()) / left - (sum(healed) / len(healed) if healed else 0.0)
        self._live(time.monotonic() + 1.0 + 2.0 * strike.pause * max(0.0, share - 1.0))

    def _live(self, until: float) -> None:
        """Watch the run work. Raises Ended or Hung."""
        while time.monotonic() < until:
            self._note_progress(self._sight.status())
            time.sleep(min(2.0, max(0.0, until - time.monotonic())))

    def _strike(self, together: Sequence[Strike]) -> None:
        """Strikes that fall at once; returns when all are healed."""
        open_: list[tuple[Blow, Proof, float]] = []
        try:
            for strike in together:
                if strike.role in (Role.DRIVER, Role.DISK):
                    return self._strike_run(strike)
                blow, proof = self._hit(strike)
                open_.append((blow, proof, time.monotonic()))
            while open_:
                self._heal(open_)
                time.sleep(LOOK_S)
        finally:
            self.blows += [blow for blow, _, _ in open_]  # never healed

    def _heal(self, open_: list[tuple[Blow, Proof, float]]) -> None:
        """One look at what is not healed yet. Raises Hung where that takes too long."""
        status = self._sight.status()
        for one in [one for one in open_ if one[1](status)]:
            open_.remove(one)
            self.blows.append(msgspec.structs.replace(one[0], recovery_s=round(time.monotonic() - one[2], 2)))
        self._require_driver()
        late = next((blow for blow, _, since in open_ if time.monotonic() - since > self._hang_s), None)
        if late is not None:
            raise Hung(f"{late.replica} ({late.role}, {late.kind}) was not healed within {self._hang_s:.0f} s")

    def _hit(self, strike: Strike) -> tuple[Blow, Proof]:
        """Find a victim, wait for the moment, signal it. A stall is over when this returns."""
        replica, victim = self._victim(strike)
        before = self._sight.status()
        if strike.role is Role.QUEUE:
            self._bear_witness()
        proof = proof_of(strike, replica=replica, victim=victim, before=before, sight=self._sight)
        is_met = self._sight.await_moment(strike.moment, is_over=lambda: self._subject.exit_code() is not None)
        number = signal.SIGKILL if strike.kind is Kind.KILL else signal.SIGSTOP
        if not send(victim, number):
            return self._hit(strike)  # it has ended by itself meanwhile: there will be another one
        blow = self._blow(strike, replica=replica, victim=victim, was_met=is_met)
        if strike.kind is Kind.STALL:
            seconds = 1.0 + strike.length * STALL_SILENCES * self._silence_s
            time.sleep(seconds)
            is_back = send(victim, signal.SIGCONT)
            blow = msgspec.structs.replace(blow, notes={"stalled_s": round(seconds, 1), "was_given_up": not is_back})
            proof = proof_of(strike, replica=replica, victim=victim, before=before, sight=self._sight)
        return blow, proof

    def _strike_run(self, strike: Strike) -> None:
        """Driver or disk: the whole run has to come back."""
        self._bear_witness()
        driver = look(self._subject.pid)
        if driver is None:
            raise Ended("the driver had ended before it was struck")
        if strike.role is Role.DISK:
            self._fill_disk(strike, driver)
        elif strike.kind is Kind.KILL:
            self._kill_driver(strike, driver)
        else:
            blow, proof = self._hit(strike)
            self.blows.append(blow)
            since = time.monotonic()
            self._await(lambda: proof(None), self._hang_s, what="a step after the driver stood still")
            self._is_healed(since)

    def _is_healed(self, since: float, **notes: Any) -> None:
        """The last blow is over."""
        last = self.blows[-1]
        self.blows[-1] = msgspec.structs.replace(last, recovery_s=round(time.monotonic() - since, 2), notes=last.notes | notes)

    def _kill_driver(self, strike: Strike, driver: Process) -> None:
        is_met = self._sight.await_moment(strike.moment, is_over=lambda: self._subject.exit_code() is not None)
        if not send(driver, signal.SIGKILL):
            raise Ended("the driver had ended before it was struck")
        since = time.monotonic()
        self._subject.await_exit(DEAD_S)
        notes: dict[str, Any] = {"resume": "must" if strike.pick < 0.5 else "auto"}
        if strike.damage is not Damage.NONE:
            notes["survivors"] = self._await_death()
            notes |= damage_tail(self._sight.journal, self._sight.run_dir, damage=strike.damage, chance=self._chance)
        self.blows.append(self._blow(strike, replica="driver", victim=driver, was_met=is_met, notes=notes))
        before = self._subject.refusals
        self._resume(notes["resume"])
        self._is_healed(since, refusals=self._subject.refusals - before)

    def _fill_disk(self, strike: Strike, driver: Process) -> None:
        assert self._disk is not None
        num_bytes, seconds = fill(self._disk), 2.0 + strike.length * FULL_S
        notes: dict[str, Any] = {"full_s": round(seconds, 1), "filled_bytes": num_bytes}
        self.blows.append(self._blow(strike, replica="disk", victim=driver, was_met=True, notes=notes))
        try:
            time.sleep(seconds)
        finally:
            free(self._disk)
        since = time.monotonic()
        proof = proof_of(strike, replica="disk", victim=driver, before=None, sight=self._sight)
        try:
            self._await(lambda: proof(self._sight.status()), self._hang_s, what="work after the disk was full")
            self._is_healed(since)
        except Ended as ended:  # a run may end, loudly, where it cannot write; then it has to resume
            self._resume("must")
            self._is_healed(since, ended=str(ended))

    def _resume_auto(self) -> None:
        self._resume("auto")

    def _resume(self, word: str) -> None:
        """Resume and wait for a trained step. Raises Hung where none comes."""
        number = len(self._sight.steps())
        if not self._subject.resume(word, within_s=START_S):
            raise Hung(f"--resume {word} was refused for {START_S:.0f} s: {' '.join(self._subject.last_words(3))}")
        self._await(lambda: len(self._sight.steps()) > number, START_S, what=f"a step after --resume {word}")

    def _victim(self, strike: Strike) -> tuple[str, Process]:
        """One living process of the role. Raises Hung where there is none for long."""
        ends = time.monotonic() + TARGET_S
        while time.monotonic() < ends:
            found = victims(strike.role, self._sight.status(), self._kin, driver=self._subject.pid)
            if found:
                return found[int(strike.pick * len(found))]
            self._require_driver()
            time.sleep(LOOK_S)
        raise Hung(f"no {strike.role} was there to be struck for {TARGET_S:.0f} s")

    def _await(self, is_there: Callable[[], bool], within_s: float, *, what: str) -> None:
        ends = time.monotonic() + within_s
        while not is_there():
            self._require_driver()
            if time.monotonic() > ends:
                raise Hung(f"{what} did not come within {within_s:.0f} s")
            time.sleep(LOOK_S)

    def _await_death(self) -> list[str]:
        """Wait until a killed driver's processes have ended; the titles of those that have not."""
        ends = time.monotonic() + DEAD_S
        while (left := self._kin.living()) and time.monotonic() < ends:
            time.sleep(0.2)
        return [process.title[:80] for process in left.values()]

    def _require_driver(self) -> None:
        code = self._subject.exit_code()
        if code is not None:
            raise Ended(f"the driver ended with exit code {code}")

    def _note_progress(self, status: Status | None) -> None:
        """A step, or a rollout, is progress; nothing else is."""
        self._require_driver()
        counts = counts_of(status)
        now = (len(self._sight.steps()), counts["accepted"] if counts else self._progress[0][1])
        if now != self._progress[0]:
            self._progress = (now, time.monotonic())
        elif time.monotonic() - self._progress[1] > self._hang_s:
            raise Hung(f"no step and no rollout for {self._hang_s:.0f} s")

    def _bear_witness(self) -> None:
        """Remember which rollouts the newest segments hold: whatever happens next, they must be there at the end."""
        files = segment_files(self._sight.journal)
        for number in sorted(files)[-2:]:
            try:
                data = files[number][-1].read_bytes()
            except FileNotFoundError:  # archived at this moment
                continue
            frames = read_segment(data, number=number, is_newest=True).frames
            self.witnesses |= {frame.entry["rollout"]["id"] for frame in frames if frame.entry["type"] == "accepted"}

    def _blow(self, strike: Strike, *, replica: str, victim: Process, was_met: bool, notes: dict[str, Any] | None = None) -> Blow:
        if strike.moment is Moment.BROADCAST:
            was_met = was_met and self._sight.is_broadcasting()
        return Blow(
            number=strike.number, role=strike.role, kind=strike.kind, moment=strike.moment, was_met=was_met, replica=replica, pid=victim.pid,
            at_s=self._now(), recovery_s=None, notes=notes or {},
        )  # fmt: skip

    def _now(self) -> float:
        return round(time.monotonic() - self._began, 2)

    def _summary(self) -> Any:
        file = self._sight.run_dir / "summary.json"
        return json.loads(file.read_bytes()) if file.is_file() else None

    def _keep_evidence(self, why: str) -> None:
        """What a person needs to find out why a run hung."""
        self.hangs.append(why)
        evidence = {
            "why": why,
            "at_s": self._now(),
            "status": self._sight.status(),
            "events": self._sight.events()[-40:],
            "log": self._subject.last_words(40),
            "processes": {pid: [process.state, _waits_in(pid), process.title] for pid, process in self._kin.living().items()},
        }
        (self._sight.run_dir / "chaos-hang.json").write_text(json.dumps(evidence, indent=2), encoding="utf-8")


def _waits_in(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/wchan").read_text(encoding="utf-8")
    except OSError:
        return ""
