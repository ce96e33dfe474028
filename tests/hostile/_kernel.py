"""States of a machine that no test may make for others: the process itself asks the kernel for them, and has them alone."""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _IS_EQUAL, _IS_MORE, _HAS_BITS, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER, _FIRST, _THIRD = 0, 16, 32
"""Where a filter finds the call and its arguments. Source: linux/seccomp.h, struct seccomp_data."""
_CREATES = os.O_CREAT

_CALLS = {
    "x86_64": {"write": (1, 18), "copy": (40, 326), "open": (257,), "mkdir": (83, 258)},
    "aarch64": {"write": (64, 68), "copy": (71, 285), "open": (56,), "mkdir": (34,)},
}
"""write, pwrite64; sendfile, copy_file_range; openat; mkdir, mkdirat. Source: asm/unistd.h."""

HAS_FILTERS = platform.system() == "Linux" and platform.machine() in _CALLS


def quota_of_bytes(largest: int) -> None:
    """Writing more than so many bytes at once to a file exceeds the quota, as it does to the process whose quota is nearly full.

    The kernel answers so whoever asks, native code too. A disk with a quota of its own cannot be mounted everywhere.
    """
    calls = _CALLS[platform.machine()]
    body = [(_LOAD, _FIRST), (_IS_MORE, 2, 1, 0), (_RETURN, _ALLOW), (_LOAD, _THIRD), (_IS_MORE, largest, 0, 1)]
    _refuse(calls["write"], [*body, (_RETURN, _ERRNO | errno.EDQUOT)])
    _refuse(calls["copy"], [(_RETURN, _ERRNO | errno.EDQUOT)])


def quota_of_files() -> None:
    """No file and no folder more."""
    calls = _CALLS[platform.machine()]
    _refuse(calls["mkdir"], [(_RETURN, _ERRNO | errno.EDQUOT)])
    _refuse(calls["open"], [(_LOAD, _THIRD), (_HAS_BITS, _CREATES, 0, 1), (_RETURN, _ERRNO | errno.EDQUOT)])


def _refuse(calls: Sequence[int], body: Sequence[tuple[int, ...]]) -> None:
    """body: what the kernel does with such a call, as (code, constant) or (code, constant, steps if true, steps if not)."""
    ours = [(_IS_EQUAL, number, len(calls) - place, 0) for place, number in enumerate(calls)]
    program = [(_LOAD, _NUMBER), *ours, (_RETURN, _ALLOW), *body, (_RETURN, _ALLOW)]
    code = b"".join(struct.pack("HBBI", step[0], *(step[2:] or (0, 0)), step[1]) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer)))
    _ok(_LIBC.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _ok(_LIBC.prctl(_SECCOMP, _FILTER, header, 0, 0))


def room_for(size: int) -> None:
    """No file grows beyond so many bytes, as on a disk that is nearly full. Python would leave its own compiled files cut in half."""
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def without_shared_memory() -> None:
    """A /dev in which there is no /dev/shm, as in small containers."""
    _own_mounts()
    bare = Path(os.environ["TMPDIR"])
    _mount("tmpfs", bare, "tmpfs")
    for name in ("null", "zero", "full", "random", "urandom"):
        (bare / name).touch()
        _mount(f"/dev/{name}", bare / name, None, _BIND)
    _mount(str(bare), Path("/dev"), None, _BIND | _WITH_INNER)
    _ok(_LIBC.umount2(str(bare).encode(), _DETACH))
    assert not Path("/dev/shm").exists()


def with_shared_memory_that_may_only_be_read() -> None:
    _own_mounts()
    _mount("tmpfs", Path("/dev/shm"), "tmpfs", _READ_ONLY)


_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_BIND, _WITH_INNER, _READ_ONLY, _DETACH = 4096, 16384, 1, 2


def _own_mounts() -> None:
    user, group = os.getuid(), os.getgid()
    _ok(_LIBC.unshare(_NEW_USER | _NEW_MOUNTS))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _mount(what: str, where: Path, kind: str | None, flags: int = 0) -> None:
    _ok(_LIBC.mount(what.encode(), str(where).encode(), kind and kind.encode(), ctypes.c_ulong(flags), None))


def _ok(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
