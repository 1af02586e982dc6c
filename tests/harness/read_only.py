"""A process that can write to only one directory, as in the container."""

import os
from pathlib import Path

# The mount namespace ends with the process; the shell replaces itself by the command.
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
    """Return the command that runs `command` in "/", where it can write only to `volume`."""
    mine = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *mine, "--mount", "sh", "-c", _SCRIPT, str(volume), *command]
