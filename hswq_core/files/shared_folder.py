"""Whether other machines can change a file: a mapping of it is safe only where they cannot."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_SHARED = {
    "9p", "afp", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs",
    "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
}  # fmt: skip
_ESCAPED = re.compile(r"\\([0-7]{3})")


def is_known_to_be_local(path: Path, mounts: str | None = None) -> bool:
    """Whether the file system is this machine's alone; not where nothing tells so.

    Args: mounts: the system's table of mounts (proc(5), mountinfo), instead of the one that it has.
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text("utf-8", "surrogateescape")
        except OSError:  # Windows, macOS
            return False
    kind = _kind_of_mount(os.path.realpath(path), mounts)
    # What runs as a process (fuse) may be anything; "fuseblk" is a disk, with NTFS.
    return kind != "" and kind not in _SHARED and kind.partition(".")[0] != "fuse"


def _kind_of_mount(path: str, mounts: str) -> str:
    """The type of the file system that a path is in; empty if the table has none."""
    found, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        place = _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), fields[4])
        is_inside = path == place or path.startswith(place.rstrip("/") + "/")
        # Of two at one place the later one covers the earlier.
        if is_inside and len(place) >= len(found):
            found, kind = place, after.split()[0]
    return kind
