"""Journals made by hand, entry by entry, as the format is specified; and the rest of a run that an audit reads."""

import json
from pathlib import Path
from typing import Any

import msgpack
import tomli_w
import zstandard

from rlvr.records import FinishReason, Rollout, Verdict, VerdictKind, Version, VersionSpan
from rlvr.wire import pack

GROUP_SIZE = 4


def ids_of(step: int, *, attempt: int = 0, size: int = GROUP_SIZE) -> tuple[str, ...]:
    return tuple(f"{step:06d}/0000/{number:04d}/{attempt:02d}" for number in range(size))


def rollout(rollout_id: str, *versions: str) -> Rollout:
    """A rollout of one token a version."""
    spans = tuple(VersionSpan(Version.parse(label), place, place + 1) for place, label in enumerate(versions))
    data = bytes(4 * len(versions))
    return Rollout(
        id=rollout_id, problem_id="p", group_id="g", lease_id="0-sampling-1", token_data=data, logprob_data=data, spans=spans,
        finish_reason=FinishReason.STOP, seconds=0.1, text="", generator="generator-0",
    )  # fmt: skip


def member(attempt: int | None) -> dict[str, Any]:
    """A place of a snapshot: held under its present attempt, or not sampled yet."""
    return {"state": "pending" if attempt is None else "verified", "attempt": attempt or 0}


class HandMade:
    """A run folder with a journal; every method appends what the queue would have written at that moment."""

    def __init__(self, folder: Path, *, max_staleness: int = 2, order: str = "admission") -> None:
        self.folder = folder
        self.lineage = 0
        (folder / "journal" / "archive").mkdir(parents=True)
        (folder / "rollouts").mkdir()
        config = {"rollout": {"max_staleness": max_staleness}, "queue": {"order": order}}
        (folder / "config.toml").write_text(tomli_w.dumps(config))
        self.segment = 0
        self.incarnation = 0
        self.begin_segment()

    @property
    def file(self) -> Path:
        return self.folder / "journal" / f"{self.segment:08d}.journal"

    def begin_segment(self) -> None:
        self.segment += 1
        self.entry("header", format=1, run="run", segment=self.segment, incarnation=self.incarnation, lineage=self.lineage, at=0.0)

    def restart_queue(self) -> None:
        self.incarnation += 1
        self.begin_segment()

    def entry(self, type_: str, **fields: Any) -> bytes:
        frame = pack({"type": type_, **fields})
        with self.file.open("ab") as file:
            file.write(frame)
        return frame

    def lease(self, ids: tuple[str, ...], *, kind: str = "sampling") -> None:
        self.entry("leased", kind=kind, lease_id="0-sampling-1", worker="generator-0", step=1, rollout_ids=ids, continued=())

    def accept(self, ids: tuple[str, ...], *versions: str) -> None:
        self.entry("group", serial=1)
        for rollout_id in ids:
            self.entry("accepted", rollout=rollout(rollout_id, *versions))

    def judge(self, ids: tuple[str, ...], kind: VerdictKind = VerdictKind.CORRECT) -> None:
        self.entry("group", serial=1)
        for rollout_id in ids:
            self.entry("judged", verdict=Verdict(rollout_id=rollout_id, lease_id="0-verifying-1", kind=kind, reward=None if kind.is_ours else 1.0))

    def drop(self, rollout_id: str, reason: str = "stale") -> None:
        self.entry("dropped", rollout_id=rollout_id, reason=reason, is_resampled=True, is_ours=False, num_tokens=1, verdict=None)

    def batch(self, step: int, ids: tuple[str, ...]) -> None:
        self.entry("group", serial=1)
        self.entry("batch", step=step, lineage=self.lineage, rollout_ids=ids, groups=("g",), short=0)

    def train(self, step: int, *versions: str) -> None:
        """A whole step from its leases to its batch, in the metrics and in the kept rollouts."""
        ids = ids_of(step)
        self.lease(ids)
        self.accept(ids, *(versions or (f"{self.lineage}.{step - 1}",)))
        self.judge(ids)
        self.hand_out(step, *(versions or (f"{self.lineage}.{step - 1}",)))

    def hand_out(self, step: int, *versions: str) -> None:
        self.batch(step, ids_of(step))
        self.learner_trains(step, ids_of(step), *versions)

    def learner_trains(self, step: int, ids: tuple[str, ...], *versions: str) -> None:
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "lineage": self.lineage}) + "\n")
        spans = [[label, place, place + 1] for place, label in enumerate(versions)]
        kept = msgpack.packb([{"id": rollout_id, "versions": spans} for rollout_id in ids])
        (self.folder / "rollouts" / f"{step:08d}.msgpack.zst").write_bytes(zstandard.ZstdCompressor().compress(kept))

    def roll_back(self, step: int) -> None:
        self.lineage += 1
        self.entry("rolled_back", step=step, lineage=self.lineage)

    def snapshot(self, *, step: int, held: tuple[str, ...] = (), reached: int | None = None, committed: int = 0) -> None:
        """A snapshot that knows `held` and no other rollout."""
        groups: dict[int, dict[int, int]] = {}
        for rollout_id in held:
            planned, _, number, attempt = map(int, rollout_id.split("/"))
            groups.setdefault(planned, {})[number] = attempt
        facts = [
            {"step": planned, "place": 0, "members": [member(members.get(number)) for number in range(GROUP_SIZE)]}
            for planned, members in groups.items()
        ]
        position = {"step": step, "reached": step if reached is None else reached, "committed": committed, "lineage": self.lineage}
        self.entry("snapshot", batches=(), groups=facts, **position)

    def checkpoint(self, step: int) -> None:
        folder = self.folder / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint.json").write_text(json.dumps({"version": f"{self.lineage}.{step}"}))

    def archive(self) -> None:
        """Move the present segment into the archive and begin the next one."""
        self.file.rename(self.folder / "journal" / "archive" / self.file.name)
        self.begin_segment()
