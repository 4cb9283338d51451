"""A real appliance beside a real responder: answers while it issues, and how soon a revocation is seen.

Owns the clocks: what a revocation is timed from is the moment at which its answer was read.
"""

import http.client
import json
import pathlib
import random
import re
import shlex
import socket
import statistics
import subprocess
import threading
import time
import urllib.parse

from processes import Failed, cpu_of
from servers import Issuer, answer, wrk
from speed import status_in

ISSUING_CONNECTIONS = 64
# Requests are made before the clock runs: enough for this many certificates a second, and no more.
RATE_MAX = 6_000
# Asked about while the appliance issues; each keeps its own pause, so that the load is known and not the most.
ASKED = 1000
ASKING_CONNECTIONS = 32
ASKING_PAUSE_MS = 20
OCSP_WITHIN = 1
CRL_WITHIN = 5
# Revocations alone come so far apart that the CRL before is out (limits::CRL_PAUSE is 2 s); the others in bursts.
ALONE_PAUSE_SECONDS = (2.5, 3.5)
BURST = 10
BURST_PAUSE_SECONDS = (0.0, 3.0)
# Far more than any aim, to tell a late one from one that never comes.
PATIENCE_SECONDS = 30
OCSP_LOOK_SECONDS = 0.005
CRL_LOOK_SECONDS = 0.05


class Admin(http.client.HTTPConnection):
    """The appliance's admin socket."""

    def __init__(self, path):
        super().__init__("appliance")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None):
        """The JSON of an answer, and when it was read."""
        headers = {"content-type": "application/json"} if body else {}
        self.request(method, path, json.dumps(body) if body else None, headers)
        response = self.getresponse()
        text = response.read()
        if response.status != 200:
            raise Failed(f"{method} {path}: {response.status} {text.decode()}")
        return json.loads(text), time.monotonic()


class Place:
    """Where the appliance and its responder are."""

    def __init__(self, appliance, rate_max):
        told = {name: shlex.split(value)[0] for name, value in appliance.env.items()}
        self.appliance = appliance
        self.rate_max = rate_max
        self.admin = Admin(told["HALLMARK_SOCKET"])
        self.port = urllib.parse.urlsplit(told["HALLMARK_OCSP"]).port
        self.url = f"http://127.0.0.1:{self.port}/ocsp"
        # The first of the chain is the device issuer.
        self.chain = told["HALLMARK_CHAIN"]
        self.issuer = Issuer(self.chain)

    def serials(self, count):
        """Serials of devices that are good."""
        found, after = [], None
        while len(found) < count:
            more = f"&after={after}" if after is not None else ""
            page, _ = self.admin.ask("GET", f"/v1/certificates?order=bench&limit=1000{more}")
            if not page:
                raise Failed(f"only {len(found)} certificates are there")
            found += [one["serial"] for one in page if "revocation" not in one]
            after = max(one["intent"] for one in page)
        return found[:count]

    def status(self, serial):
        """What OCSP says of a serial, by a GET request that a cache may know."""
        return status_in(answer(self.port, self.issuer.path(serial))[2], self.issuer, serial)


# ---- while it issues ------------------------------------------------------------------------------------------


def with_load(place, ask, seconds):
    """Asks while the line sends as fast as it can; both reports."""
    appliance = place.appliance
    # Longer than the questions last, which begin once certificates come.
    seconds += 2
    command = appliance.line_command(ISSUING_CONNECTIONS, place.rate_max * seconds, "--seconds", str(seconds))
    begun_with = int(json.loads(appliance.hallmark("status", "--json"))["log"]["size"])
    line = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        ends = time.monotonic() + 120
        while json.loads(appliance.hallmark("status", "--json"))["log"]["size"] < begun_with + 200:
            if line.poll() is not None or time.monotonic() > ends:
                raise Failed("the line does not issue")
            time.sleep(0.05)
        before = cpu_of([appliance.responder_pid])
        report = ask()
        after = cpu_of([appliance.responder_pid])
        if line.poll() is not None:
            raise Failed("the line ended before the last answer")
        out, errors = line.communicate()
    finally:
        line.kill()
    if not out:
        raise Failed(f"the line client failed: {errors.decode()}")
    used = sum(after.values()) - sum(before.values())
    issued = json.loads(out)
    return report | {"cpu_us": used * 1e6 / report["requests"], "issued_per_second": issued["per_second"],
                     "issue_p99_ms": issued["latency_ms"]["p99"]}


def while_issuing(place, args):
    """Latency of answers, by themselves and while certificates are issued."""
    serials = place.serials(ASKED if not args.smoke else 50)
    paths, posts = place.appliance.directory / "paths", place.appliance.directory / "posts"
    place.issuer.write_paths(paths, serials)
    place.issuer.write_posts(posts, serials)
    wait_until_known(place, serials[-1])
    seconds = args.seconds
    paced = {"connections": ASKING_CONNECTIONS, "pause_ms": ASKING_PAUSE_MS}
    alone = place.appliance.send(ISSUING_CONNECTIONS, place.rate_max * seconds, "--seconds", str(seconds))
    measured = {"issued_per_second_alone": alone["per_second"], "asked": {}}
    kinds = {
        "POST with nonce, paced": {"kind": "post", "lines": posts} | paced,
        "GET, paced": {"kind": "get", "lines": paths} | paced,
        "GET, 8 at full speed": {"kind": "get", "lines": paths, "connections": 8},
    }
    for name, more in list(kinds.items())[:1 if args.smoke else None]:
        def ask(more=more):
            return wrk(place.url, seconds, **more)
        quiet = ask()
        busy = with_load(place, ask, seconds)
        if quiet["failed"] or busy["failed"]:
            raise Failed(f"{name}: answers failed: {quiet} {busy}")
        measured["asked"][name] = {"quiet": quiet, "issuing": busy}
    return measured


def wait_until_known(place, serial):
    """Waits until the responder has read the log up to a serial."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while place.status(serial) != "good":
        if time.monotonic() > ends:
            raise Failed(f"{serial} is not good for the responder")
        time.sleep(0.05)


# ---- revoked and seen -----------------------------------------------------------------------------------------


class Watch(threading.Thread):
    """Looks for revoked serials in OCSP or on the CRL, until it has seen all of them."""

    def __init__(self, pause, look):
        super().__init__(daemon=True)
        self.pause, self.look = pause, look
        self.lock = threading.Lock()
        self.waiting, self.seen = {}, {}
        self.fault = None
        self.over = threading.Event()

    def add(self, serial, at):
        with self.lock:
            self.waiting[serial] = at

    def run(self):
        try:
            while not (self.over.is_set() and not self.waiting):
                with self.lock:
                    waiting = dict(self.waiting)
                if waiting and time.monotonic() > max(waiting.values()) + PATIENCE_SECONDS:
                    raise Failed(f"not visible after {PATIENCE_SECONDS} s: {sorted(waiting)}")
                found = self.look(list(waiting)) if waiting else []
                now = time.monotonic()
                with self.lock:
                    for serial in found:
                        self.seen[serial] = now - self.waiting.pop(serial)
                time.sleep(self.pause)
        except (Failed, OSError, http.client.HTTPException) as fault:
            self.fault = fault


def on_crl(place):
    """A look at the CRL that the responder serves, fetched again only when its tag has changed."""
    kept = {"etag": "", "body": b""}

    def look(serials):
        connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=10)
        try:
            connection.request("GET", "/crl/device-1.crl", headers={"if-none-match": kept["etag"]})
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status == 200:
            kept.update(etag=response.getheader("etag"), body=body)
        # An INTEGER of 16 octets, random: nothing else looks like it.
        return [serial for serial in serials if b"\x02\x10" + bytes.fromhex(serial) in kept["body"]]
    return look


def revoke(place, serials, watches):
    """Revokes them one after the other."""
    for serial in serials:
        told, at = place.admin.ask("POST", f"/v1/certificates/{serial}/revoke", {"reason": "key-compromise"})
        if not told["changed"]:
            raise Failed(f"{serial} was revoked before")
        for watch in watches:
            watch.add(serial, at)


def spread(times):
    times = sorted(times)
    return {"count": len(times), "p50": statistics.median(times), "p99": times[max(0, -(-len(times) * 99 // 100) - 1)],
            "max": times[-1]}


def visible(place, args):
    """Seconds from the answer to a revocation until OCSP and the CRL say so; half of them alone, half in bursts."""
    count = args.revocations
    serials = place.serials(count)
    wait_until_known(place, serials[-1])
    # Every answer is in the cache as `good`: what has to be dropped.
    for serial in serials:
        if place.status(serial) != "good":
            raise Failed(f"{serial} is not good")
    ocsp = Watch(OCSP_LOOK_SECONDS, lambda waiting: [s for s in waiting if place.status(s) == "revoked"])
    crl = Watch(CRL_LOOK_SECONDS, on_crl(place))
    watches = [ocsp, crl]
    for watch in watches:
        watch.start()
    alone, rest = serials[:count // 2], serials[count // 2:]
    for serial in alone:
        revoke(place, [serial], watches)
        time.sleep(random.uniform(*ALONE_PAUSE_SECONDS))
    for begin in range(0, len(rest), BURST):
        revoke(place, rest[begin:begin + BURST], watches)
        time.sleep(random.uniform(*BURST_PAUSE_SECONDS))
    for watch in watches:
        watch.over.set()
        watch.join(PATIENCE_SECONDS + 10)
        if watch.fault:
            raise watch.fault
    confirm(place, serials[-1])
    return {"count": count, **{
        name: {"alone": spread([watch.seen[s] for s in alone]), "bursts": spread([watch.seen[s] for s in rest]),
               "all": spread(watch.seen.values())} for name, watch in (("ocsp", ocsp), ("crl", crl))}}


def confirm(place, serial):
    """OpenSSL sees it as these clocks did: the answer and the CRL verify, and both have the serial."""
    base = ["-CAfile", place.chain]
    said = subprocess.run(["openssl", "ocsp", "-issuer", place.chain, "-serial", f"0x{serial}", "-url", place.url, *base],
                          capture_output=True, text=True)
    if "Response verify OK" not in said.stderr or not re.search(rf"0x{serial}: revoked", said.stdout):
        raise Failed(f"openssl ocsp: {said.stdout}{said.stderr}")
    path = pathlib.Path(place.appliance.directory) / "seen.crl"
    path.write_bytes(answer(place.port, "/crl/device-1.crl")[2])
    said = subprocess.run(["openssl", "crl", "-inform", "DER", "-in", path, "-noout", "-text", *base],
                          capture_output=True, text=True)
    if "verify OK" not in said.stderr or f"Serial Number: {serial.upper()}" not in said.stdout:
        raise Failed(f"openssl crl: {said.stderr}")


def issue(place, count):
    """Has the line issue certificates."""
    place.appliance.send(2, count, "--batch", "64")
