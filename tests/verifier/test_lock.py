"""The lock, layer by layer, without a process: what the filter lets through, on every architecture that it knows."""

import struct

import pytest

from verifier.sandbox import landlock, seccomp

NUMBERS = {call[0]: {"x86_64": call[1], "aarch64": call[2]} for call in seccomp._CALLS}
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FORBIDDEN = {
    "x86_64": {"open": 2, "openat": 257, "socket": 41, "clone": 56, "fork": 57, "execve": 59, "kill": 62, "ptrace": 101, "io_uring_setup": 425},
    "aarch64": {"openat": 56, "socket": 198, "clone": 220, "execve": 221, "kill": 129, "ptrace": 117, "io_uring_setup": 425},
}


def judge(program: bytes, *, number: int, arch: int, third: int = 0) -> int:
    """What the kernel's interpreter returns for one system call."""
    data = struct.pack("=IIQ6Q", number, arch, 0, 0, 0, third, 0, 0, 0)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x15:
            at += if_true if accumulator == operand else if_false
        elif code == 0x45:
            at += if_true if accumulator & operand else if_false
        else:
            assert code == 0x06
            return int(operand)


@pytest.mark.parametrize("machine", ARCHES)
def test_the_filter_allows_what_computing_needs_and_kills_the_rest(machine: str) -> None:
    program = seccomp.allow_list(machine)
    allowed = {number for number in range(1024) if judge(program, number=number, arch=ARCHES[machine]) == seccomp.ALLOW}
    assert allowed == {numbers[machine] for numbers in NUMBERS.values()}
    assert not allowed & set(FORBIDDEN[machine].values())


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("call", ["mmap", "mprotect"])
def test_memory_is_never_made_executable(machine: str, call: str) -> None:
    program = seccomp.allow_list(machine)
    for protection in range(8):
        verdict = judge(program, number=NUMBERS[call][machine], arch=ARCHES[machine], third=protection)
        assert verdict == (seccomp.KILL_PROCESS if protection & seccomp.PROT_EXEC else seccomp.ALLOW)


@pytest.mark.parametrize("machine", ARCHES)
def test_system_calls_of_another_architecture_are_killed(machine: str) -> None:
    program = seccomp.allow_list(machine)
    other = next(arch for name, arch in ARCHES.items() if name != machine)
    assert {judge(program, number=number, arch=other) for number in range(1024)} == {seccomp.KILL_PROCESS}
    x32 = 0x40000000
    assert judge(program, number=x32, arch=ARCHES[machine]) == seccomp.KILL_PROCESS


def test_an_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(OSError, match="riscv64"):
        seccomp.allow_list("riscv64")


def test_each_landlock_abi_covers_at_least_what_the_one_before_did() -> None:
    assert [landlock.covers_tcp(abi) for abi in range(1, 8)] == [False] * 3 + [True] * 4
    assert [landlock.covers_signals(abi) for abi in range(1, 8)] == [False] * 5 + [True] * 2
