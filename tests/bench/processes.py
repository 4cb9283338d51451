"""What the benchmarks read of processes: who belongs to whom, processor time, memory.

Owns the look into /proc. Only the standard library is used.
"""

import os
import pathlib
import re

TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """The benchmark cannot go on; its text says why."""


def stat_fields(pid):
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    # The program's name may hold spaces; it ends at the last parenthesis.
    return text[text.rindex(")") + 2 :].split()


def family(pid):
    """A process and its descendants."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(stat_fields(entry.name)[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    members = {pid}
    while True:
        more = {child for child, parent in parents.items() if parent in members} - members
        if not more:
            return sorted(members)
        members |= more


def role(pid):
    """What a process of the appliance does, from its arguments."""
    words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    name = pathlib.Path(words[0]).name
    rest = [word for word in words[1:] if word and not word.startswith("/")]
    return " ".join([name] + [word for word in rest if word != "--config"])


def cpu_of(pids):
    """Processor seconds so far by process id."""
    used = {}
    for pid in pids:
        fields = stat_fields(pid)
        used[pid] = (int(fields[11]) + int(fields[12])) / TICKS
    return used


def memory_of(pids, what):
    """A field of /proc/PID/status in MiB by process id."""
    found = {}
    for pid in pids:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
        match = re.search(rf"^{what}:\s+(\d+) kB", text, re.M)
        found[pid] = int(match[1]) / 1024 if match else 0.0
    return found
