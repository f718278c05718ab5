"""The processes of one run: found, remembered, told apart, and signalled; nobody else's.

Owns the reading of /proc and of /dev/shm, and the sending of signals. A process is the run's if it was ever a descendant of a driver that the chaos
run started; it stays so when its parent is gone. A pid counts only together with the moment at which its process began.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")
SCAN_S = 0.3


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process at the moment of a scan."""

    pid: int
    began: int
    """Clock ticks since the machine started: with the pid it names one process for ever."""
    parent: int
    state: str
    title: str


def scan() -> dict[int, Process]:
    """Every process of this machine that can be read, zombies left out."""
    found: dict[int, Process] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            process = look(int(folder.name))
            if process is not None:
                found[process.pid] = process
    return found


def look(pid: int) -> Process | None:
    """One process; None where it is gone or a zombie."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        title = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    name, fields = stat[stat.find("(") + 1 : stat.rfind(")")], stat[stat.rfind(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return Process(pid=pid, began=int(fields[19]), parent=int(fields[1]), state=fields[0], title=title or name)


class Kin:
    """Remembers every process of the run; a thread of its own looks again and again, so that orphans are known too."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], str] = {}
        self._parents: dict[int, int] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="kin", daemon=True)

    def adopt(self, pid: int) -> None:
        """A driver of the run."""
        process = look(pid)
        if process is not None:
            with self._lock:
                self._known[(process.pid, process.began)] = process.title
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def living(self) -> dict[int, Process]:
        """The run's processes that live now, by pid."""
        with self._lock:
            everyone = scan()
            self._adopt_children(everyone)
            return {pid: process for pid, process in everyone.items() if (pid, process.began) in self._known}

    def below(self, pid: int) -> list[Process]:
        """Living descendants of one process of the run."""
        return below(pid, self.living())

    def _adopt_children(self, everyone: Mapping[int, Process]) -> None:
        """Children of whom we know are ours; a child that has a child before we look is found on the way down."""
        fresh = True
        while fresh:
            fresh = False
            for process in everyone.values():
                parent = everyone.get(process.parent)
                key = (process.pid, process.began)
                if parent is not None and key not in self._known and (parent.pid, parent.began) in self._known:
                    self._known[key] = process.title
                    fresh = True

    def _watch(self) -> None:
        while not self._end.wait(SCAN_S):
            self.living()


def below(pid: int, processes: Mapping[int, Process]) -> list[Process]:
    """The descendants of `pid` among `processes`, by pid."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found, rest = [], list(children.get(pid, ()))
    while rest:
        child = rest.pop()
        found.append(processes[child])
        rest += children.get(child, ())
    return sorted(found, key=lambda process: process.pid)


def send(process: Process, number: int) -> bool:
    """Signal exactly this process. False where it is gone, whoever has its pid now."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        now = look(process.pid)
        if now is None or now.began != process.began:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def is_alive(process: Process) -> bool:
    now = look(process.pid)
    return now is not None and now.began == process.began


def shared_memory() -> dict[int, str]:
    """This user's files below /dev/shm, by inode."""
    found: dict[int, str] = {}
    for file in SHARED_MEMORY.iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = file.lstat()
            if status.st_uid == os.getuid():
                found[status.st_ino] = str(file)
    return found


def held(processes: Iterable[Process]) -> set[int]:
    """The inodes of what these processes have open or mapped below /dev/shm. Names do not tell: glibc maps a semaphore before it is given its own."""
    device = SHARED_MEMORY.stat().st_dev
    found: set[int] = set()
    for process in processes:
        folder = PROC / str(process.pid)
        with contextlib.suppress(OSError):
            maps = (folder / "maps").read_text(errors="replace").splitlines()
            found |= {int(line.split(maxsplit=5)[4]) for line in maps if f" {SHARED_MEMORY}/" in line}
        for descriptor in _descriptors(folder):
            with contextlib.suppress(OSError):
                file = descriptor.stat()
                found |= {file.st_ino} if file.st_dev == device else set()
    return found


def _descriptors(folder: Path) -> list[Path]:
    try:
        return list((folder / "fd").iterdir())
    except OSError:
        return []
