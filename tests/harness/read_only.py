"""Owns a machine on which nothing can be written but one directory, as in the container."""

import os
from pathlib import Path

# A mount namespace of its own ends with the process; the shell becomes the command.
_SCRIPT = """
set -e
mount --make-rprivate /
mount --bind "$0" "$0"
for place in / /tmp /var /var/tmp /run; do
    if mountpoint -q "$place"; then mount -o remount,bind,ro "$place"; fi
done
cd /
exec "$@"
"""


def confined(volume: Path, *command: str) -> list[str]:
    """Return the command as it is run where only `volume` can be written; it begins in "/"."""
    mine = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *mine, "--mount", "sh", "-c", _SCRIPT, str(volume), *command]
