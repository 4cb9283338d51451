"""A real appliance on a private SoftHSM token, with a line that sends requests.

Made by the quickstart, in a directory of its own; whoever makes one ends it.
"""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import time

from processes import Failed, cpu_of, family, role, stat_fields

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
ORDER = "bench"


class Appliance:
    """An appliance in a directory that the quickstart made."""

    def __init__(self, directory, programs, profile_flag):
        self.directory = directory
        self.programs = programs
        command = ["bash", str(ROOT / "softhsm/quickstart.sh"), "--dir", str(directory), "--keep", *profile_flag]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"the quickstart failed:\n{done.stdout}\n{done.stderr}")
        lines = (directory / "env").read_text().splitlines()
        self.env = dict(line.split("=", 1) for line in lines)
        # The appliance's comes first.
        self.pid, self.responder_pid = [int(word) for word in shlex.split(self.env["HALLMARK_PIDS"])[0].split()]
        self.process = None
        self.hallmark("order", "open", ORDER, "--profile", "mqtt-device", "--issuer", "device-1", "--line", "line-1",
                      "--quantity", "100000000", "--device-id", "[A-Za-z0-9-]+")

    def hallmark(self, *words):
        command = [str(self.programs / "hallmark"), "--config", self.env["HALLMARK_CONFIG"], *words]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"{' '.join(words)}: {done.stderr}")
        return done.stdout

    def line_command(self, connections, count, *more):
        env = self.env
        return [str(self.programs / "examples/line"), "--api", env["HALLMARK_API"], "--ca", env["HALLMARK_SERVER_CA"],
                "--cert", env["HALLMARK_LINE_CERT"], "--key", env["HALLMARK_LINE_KEY"], "--order", ORDER,
                "--connections", str(connections), "--count", str(count), "--json", *more]

    def send(self, connections, count, *more):
        """Runs the line client; its report, with the appliance's processor time beside."""
        pids = family(self.pid)
        before = cpu_of(pids)
        done = subprocess.run(self.line_command(connections, count, *more), capture_output=True, text=True)
        after = cpu_of(pids)
        if not done.stdout:
            raise Failed(f"the line client failed: {done.stderr}")
        report = json.loads(done.stdout)
        if report["refused"] or report["given_up"]:
            raise Failed(f"requests were refused: {report}")
        report["cpu_by_process"] = {role(pid): after[pid] - before[pid] for pid in pids if after[pid] > before[pid]}
        return report

    def ready(self, within):
        """Waits until the appliance is ready."""
        config = pathlib.Path(self.env["HALLMARK_CONFIG"]).read_text()
        address = re.search(r'^ops = "(.*)"', config, re.M)[1]
        ends = time.monotonic() + within
        while time.monotonic() < ends:
            url = f"http://{address}/readyz"
            done = subprocess.run(["curl", "-sf", "-o", "/dev/null", "--max-time", "2", url])
            if done.returncode == 0:
                return
            if self.process and self.process.poll() is not None:
                raise Failed("the appliance ended; see hallmark.log")
            time.sleep(0.02)
        raise Failed(f"the appliance is not ready after {within} s; see hallmark.log")

    def end_responder(self):
        """Ends the responder beside it: for measurements of the appliance alone."""
        os.kill(self.responder_pid, signal.SIGTERM)
        self.responder_pid = None

    def stop(self):
        """Ends the appliance, with a responder that is left, and waits for all of its processes."""
        pids = family(self.pid)
        os.kill(self.pid, signal.SIGTERM)
        if self.responder_pid:
            pids.append(self.responder_pid)
            self.end_responder()
        if self.process:
            self.process.wait()
        ends = time.monotonic() + 60
        while any(pathlib.Path(f"/proc/{pid}").exists() and stat_fields(pid)[0] != "Z" for pid in pids):
            if time.monotonic() > ends:
                raise Failed("the appliance does not end")
            time.sleep(0.05)

    def start(self, **more_env):
        """Starts it again; the seconds until it was ready."""
        env = os.environ | {"SOFTHSM2_CONF": str(self.directory / "softhsm2.conf")} | more_env
        command = [str(self.programs / "hallmark"), "--config", self.env["HALLMARK_CONFIG"], "run"]
        log = open(self.directory / "hallmark.log", "a")
        started = time.monotonic()
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.pid = self.process.pid
        self.ready(120)
        return time.monotonic() - started
