"""Becoming another user for good, before anything is made or imported as root."""

from __future__ import annotations

import os
from typing import NamedTuple

from mesh.exceptions import MeshError


class NoSuchIdentity(MeshError):
    """A user or group that can't be become, and why."""


class Identity(NamedTuple):
    """Who a process is to be."""

    uid: int
    gid: int
    name: str | None  #: of the user, where it has one: its further groups are looked up by it
    home: str | None


def find(user: str | None, group: str | None) -> Identity | None:
    """Names or numbers. A user alone brings its own group, a group alone leaves the user. None where neither is given.

    Raises:
        NoSuchIdentity: there is none of this name, or this process may not become it.
    """
    if user is None and group is None:
        return None
    found = Identity(os.geteuid(), os.getegid(), None, None) if user is None else _find_user(user, group)
    if group is not None:
        found = found._replace(gid=_find_group(group))
    if os.geteuid() != 0 and (found.uid, found.gid) != (os.geteuid(), os.getegid()):
        raise NoSuchIdentity(
            "--uid and --gid are for root, who alone can become somebody else. Start it as root, or leave them out."
        )
    return found


def become(identity: Identity) -> None:
    """Gives up what this process may do as root, for good. HOME, USER and LOGNAME follow. Raises OSError."""
    if os.geteuid() != 0:
        return
    os.setgid(identity.gid)
    if identity.name is None:
        os.setgroups([identity.gid])
    else:
        os.initgroups(identity.name, identity.gid)
        os.environ["USER"] = os.environ["LOGNAME"] = identity.name
    os.setuid(identity.uid)
    if identity.home is not None:
        os.environ["HOME"] = identity.home


def _find_user(user: str, group: str | None) -> Identity:
    import pwd

    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        if user.isdecimal() and group is not None:
            return Identity(int(user), -1, None, None)
        hint = "Give --gid too where the number has no name." if user.isdecimal() else "See /etc/passwd."
        raise NoSuchIdentity(f"--uid {user}: there is no such user here. {hint}") from None
    return Identity(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir)


def _find_group(group: str) -> int:
    import grp

    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise NoSuchIdentity(f"--gid {group}: there is no such group here. See /etc/group.") from None
