"""What a rank may touch: Landlock, capabilities, a uid of its own. Standard library only.

Source: Linux ``Documentation/userspace-api/landlock.rst`` (rights and scopes by ABI), prctl(2),
capabilities(7), capset(2).
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys
from collections.abc import Iterable, Mapping

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_ADD_RULE = 445
_SYS_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FS_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ_RIGHTS = _EXECUTE | _READ_FILE | _READ_DIR
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1
_SCOPE_ABI = 6
_MAX_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _prctl(option: int, argument: int = 0, third: int = 0) -> int:
    zero = ctypes.c_ulong(0)
    result: int = _libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(third), zero, zero)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
    return result


def _landlock(number: int, *args: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *args)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"landlock system call {number}: {os.strerror(error)}")
    return result


def landlock_abi() -> int:
    """Version of Landlock's interface this kernel offers; 0 when there is none."""
    try:
        return _landlock(
            _SYS_LANDLOCK_CREATE_RULESET,
            None,
            ctypes.c_size_t(0),
            ctypes.c_uint32(_LANDLOCK_CREATE_RULESET_VERSION),
        )
    except OSError:
        return 0


def become_subreaper() -> None:
    """Make every orphan below this process its child, so that it can prove that none is left.

    Raises:
        OSError: the kernel refuses.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent dies. Call after the last change of credentials.

    Args:
        parent_pid: the parent as it was before the fork; if it is gone already, this process ends.

    Raises:
        OSError: the kernel refuses.
    """
    _prctl(_PR_SET_PDEATHSIG, 9)
    if os.getppid() != parent_pid:
        os._exit(127)


def drop_privileges(uid: int | None) -> None:
    """Give up every capability and, with `uid`, the platform's own identity.

    An empty bounding set keeps a later ``execve`` of uid 0 from getting capabilities back.

    Raises:
        OSError: the kernel refuses.
    """
    for capability in range(_MAX_CAPABILITY + 1):
        try:
            _prctl(_PR_CAPBSET_READ, capability)
        except OSError:
            break  # the kernel knows no higher one
        _prctl(_PR_CAPBSET_DROP, capability)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = _CapHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    if _libc.capset(ctypes.byref(header), ctypes.byref(none)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")


def forbid_new_privileges() -> None:
    """Make set-uid programs and file capabilities powerless from here on.

    Raises:
        OSError: the kernel refuses.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def restrict_files(read: Iterable[str], write: Iterable[str]) -> None:
    """Confine this process and its descendants with Landlock, for ever.

    Outside the given paths no file can be opened, listed, run, made or removed. From ABI 6 on,
    signals and abstract sockets end at the border too. Paths that do not exist are passed over.

    Args:
        read: files and directories (with all below) to read and run.
        write: the same, and to change.

    Raises:
        OSError: the kernel refuses.
    """
    abi = landlock_abi()
    rights = 0
    for since, bits in _FS_RIGHTS_BY_ABI.items():
        rights |= bits if abi >= since else 0
    scoped = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if abi >= _SCOPE_ABI else 0
    attr = _RulesetAttr(rights, 0, scoped)
    size = ctypes.sizeof(attr) if abi >= _SCOPE_ABI else ctypes.sizeof(ctypes.c_uint64)
    ruleset = _landlock(
        _SYS_LANDLOCK_CREATE_RULESET, ctypes.byref(attr), ctypes.c_size_t(size), ctypes.c_uint32(0)
    )
    try:
        for path in read:
            _allow(ruleset, path, _READ_RIGHTS & rights)
        for path in write:
            _allow(ruleset, path, rights)
        _landlock(_SYS_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # what cannot be opened cannot be allowed; the rank will not reach it either
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FILE_RIGHTS
        attr = _PathBeneathAttr(rights, fd)
        _landlock(
            _SYS_LANDLOCK_ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_LANDLOCK_RULE_PATH_BENEATH),
            ctypes.byref(attr),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(fd)


def enter(isolation: Mapping[str, object], read: Iterable[str], write: Iterable[str]) -> None:
    """Apply what the agent found possible on this node; what it named must succeed.

    Args:
        isolation: ``landlock`` (bool), ``drop_caps`` (bool), ``uid`` (int or null).
        read: see `restrict_files`.
        write: see `restrict_files`.

    Raises:
        OSError: a protection that was promised cannot be put in force.
    """
    forbid_new_privileges()
    if isolation["drop_caps"]:
        uid = isolation["uid"]
        drop_privileges(uid if isinstance(uid, int) else None)
    if isolation["landlock"]:
        restrict_files(read, write)


if __name__ == "__main__":  # the agent asks, in a process of its own, whether these can be put in force
    enter(json.loads(sys.argv[1]), ["/"], ["/"])
