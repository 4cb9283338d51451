"""The servers that are measured, and the one client that asks them all.

Owns the processes: whoever starts one ends it, and none outlives its `with`. Only the standard library is used.
"""

import base64
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import urllib.parse

from processes import Failed, cpu_of, family, memory_of

HERE = pathlib.Path(__file__).resolve().parent
ISSUER = "device-1"
OCSP_RESPONSE = "application/ocsp-response"
# The log stands still while it is measured, so its newest entry must count for long.
LIFE = "24h"
CONNECTIONS_MAX = 15_000
# id-sha1 with NULL, and the extension id-pkix-ocsp-nonce.
SHA1 = bytes.fromhex("300906052b0e03021a0500")
NONCE = bytes.fromhex("06092b0601050507300102")
NONCE_BYTES = 32


def run(command, **more):
    """Runs a command that must succeed; what it printed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, **more)
    if done.returncode != 0:
        raise Failed(f"{command[0]}: {done.stderr.decode()}")
    return done.stdout


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---- requests -------------------------------------------------------------------------------------------------


def der(tag, *parts):
    """A DER value of up to 65,535 octets."""
    contents = b"".join(parts)
    if len(contents) < 128:
        return bytes([tag, len(contents)]) + contents
    length = len(contents).to_bytes((len(contents).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + contents


class Issuer:
    """An issuer as CertIDs name it: by the SHA-1 of its name and of its key."""

    def __init__(self, certificate):
        told = run(["openssl", "x509", "-in", certificate, "-noout", "-ocspid"]).decode()
        self.hashes = [bytes.fromhex(re.search(rf"{what} OCSP hash: (\w+)", told)[1]) for what in
                       ("Subject", "Public key")]

    def request(self, serial, nonce=None):
        """An OCSPRequest for a serial in hexadecimal digits."""
        cert_id = der(0x30, SHA1, *(der(4, part) for part in self.hashes), der(2, bytes.fromhex(serial)))
        extensions = b""
        if nonce:
            extension = der(0x30, NONCE, der(4, der(4, nonce)))
            extensions = der(0xA2, der(0x30, extension))
        return der(0x30, der(0x30, der(0x30, der(0x30, cert_id)), extensions))

    def path(self, serial):
        """The path of a GET request (RFC 6960, A.1)."""
        return "/ocsp/" + urllib.parse.quote(base64.b64encode(self.request(serial)), safe="")

    def write_paths(self, path, serials):
        path.write_text("".join(f"{self.path(serial)}\n" for serial in serials))

    def write_posts(self, path, serials):
        with open(path, "w") as out:
            for serial in serials:
                out.write(f"{self.request(serial, os.urandom(NONCE_BYTES)).hex()}\n")


# ---- the client -----------------------------------------------------------------------------------------------


def wrk(url, seconds, kind="same", lines="-", first=0, connections=64, pause_ms=0):
    """Asks for so many seconds, for the requests of a file from the first one on; what client.lua reports."""
    # wrk's first thread asks while the second one still reads its file, and the clock does not run yet.
    threads = min(2, connections) if kind == "same" else 1
    command = ["wrk", "-t", threads, "-c", connections, "-d", f"{seconds}s", "-s", HERE / "client.lua", url, "--",
               kind, threads, pause_ms, lines, first]
    report = json.loads(run(command).splitlines()[-1])
    if not report["requests"]:
        raise Failed(f"nothing is answered at {url}")
    report["per_second"] = report["requests"] / report["seconds"]
    return report


def asked(server, path, seconds, **more):
    """The same, with the server's processor time for a request in microseconds."""
    pids = family(server.pid)
    before = cpu_of(pids)
    report = wrk(f"http://127.0.0.1:{server.port}{path}", seconds, **more)
    after = cpu_of(pids)
    report["cpu_us"] = sum(after[pid] - before[pid] for pid in pids) * 1e6 / report["requests"]
    return report


def answer(port, path, body=None):
    """One answer's status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST" if body else "GET", path, body)
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()


# ---- the servers ----------------------------------------------------------------------------------------------


class Server:
    """A process with a port."""

    def __init__(self, command, log, port, **more):
        self.port = port
        self.log = log
        with open(log, "a") as out:
            self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=out, **more)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def until(self, what, is_so, within=30):
        """Waits until something is so; for how many seconds."""
        begun = time.monotonic()
        while not is_so():
            if self.process.poll() is not None or time.monotonic() > begun + within:
                raise Failed(f"{what} ended, or it took more than {within} s: {pathlib.Path(self.log).read_text()[-2000:]}")
            time.sleep(0.002)
        return time.monotonic() - begun

    def answers(self, path, status=200):
        """Whether a GET request is answered with this status and something in it."""
        try:
            got, _, body = answer(self.port, path)
        except (OSError, http.client.HTTPException):
            return False
        return got == status and len(body) > 0


class Nginx(Server):
    """nginx with one static file, at its best: cached descriptors, no log, connections that stay open."""

    def __init__(self, directory, path, body):
        directory.mkdir()
        place = directory / "root" / re.sub("/+", "/", urllib.parse.unquote(path)).lstrip("/")
        place.parent.mkdir(parents=True)
        place.write_bytes(body)
        port = free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        config = directory / "nginx.conf"
        config.write_text(f"""{user}
worker_processes auto;
pid {directory}/pid;
error_log {directory}/error.log;
daemon off;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  default_type {OCSP_RESPONSE};
  open_file_cache max=100;
  open_file_cache_valid 1h;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {directory}/root; }}
}}
""")
        program = "/usr/sbin/nginx" if pathlib.Path("/usr/sbin/nginx").exists() else "nginx"
        super().__init__([program, "-p", directory, "-c", config], directory / "log", port)
        self.until("nginx", lambda: self.answers(path))


class BareHyper(Server):
    """hyper with nothing around it, and the octets of one answer."""

    def __init__(self, programs, directory, path, headers, body):
        directory.mkdir()
        (directory / "body").write_bytes(body)
        # The server itself sends the length and the date.
        own = [word for name, value in headers if name.lower() not in ("content-length", "date")
               for word in ("--header", f"{name}: {value}")]
        port = free_port()
        command = [programs / "examples/bare-hyper", "--listen", f"127.0.0.1:{port}", "--body", directory / "body", *own]
        super().__init__(command, directory / "log", port)
        self.until("bare hyper", lambda: self.answers(path))


class OpensslOcsp(Server):
    """`openssl ocsp` as the responder, with a process for each core. It listens on every address."""

    def __init__(self, site, serials):
        directory = site.directory / "openssl"
        directory.mkdir(exist_ok=True)
        index = directory / "index.txt"
        index.write_text("".join(f"V\t99991231235959Z\t\t{serial.upper()}\tunknown\t/CN={serial}\n"
                                 for serial in serials))
        port = free_port()
        command = ["openssl", "ocsp", "-index", index, "-port", port, "-rsigner", site.directory / "responder.pem",
                   "-rkey", site.directory / "state/answers.key", "-CA", site.directory / "issuer.pem", "-ndays", "1",
                   "-multi", os.cpu_count() or 1]
        super().__init__(command, directory / "log", port)
        self.until("openssl ocsp", lambda: self.answers(site.issuer.path(serials[0])[len("/ocsp"):]))

    def stop(self):
        # It leads a process group of its own, and its children outlive it when it is ended alone.
        os.killpg(self.pid, signal.SIGTERM)
        super().stop()


class Responder(Server):
    """`hallmark-ocsp` over a log that stands still."""

    def __init__(self, site):
        self.site = site
        self.ops = free_port()
        port = free_port()
        config = site.directory / "ocsp.toml"
        config.write_text(f"""version = 1
[listen]
http = ["127.0.0.1:{port}"]
ops = "127.0.0.1:{self.ops}"
connections = {CONNECTIONS_MAX}
connections_per_origin = {CONNECTIONS_MAX}
[ocsp]
key_file = "state/answers.key"
answer_life = "{LIFE}"
signatures_per_origin = "unlimited"
cache_mib = {site.cache_mib}
[witness]
name = "hallmark.example/bench-ocsp"
key_file = "state/witness.key"
[[log]]
name = "bench"
source = "public"
log_key_file = "log-key"
state_dir = "state/bench"
responder = "ocsp-1"
""")
        program = site.programs / "hallmark-ocsp"
        site.certify(run([program, "--config", config, "key"]))
        super().__init__([program, "--config", config, "run"], site.directory / "ocsp.log", port)

    def ready(self, within):
        """Waits until it answers for the issuer; for how many seconds."""
        path = self.site.issuer.path(self.site.serials[0])

        def good():
            # Signed answers alone may be kept.
            with contextlib.suppress(OSError, http.client.HTTPException):
                return "max-age" in dict(answer(self.port, path)[1]).get("cache-control", "")
            return False
        return self.until("hallmark-ocsp", good, within)

    def metrics(self):
        """The counters of answers: from the cache, and by status."""
        text = answer(self.ops, "/metrics")[2].decode()
        hits = int(re.search(r"^hallmark_ocsp_cache_hits_total (\d+)", text, re.M)[1])
        signed = re.findall(r'^hallmark_ocsp_answers_total\{status="(\w+)"\} (\d+)', text, re.M)
        return {"hits": hits} | {status: int(count) for status, count in signed}

    def memory(self, what):
        """A field of /proc/PID/status in MiB."""
        return memory_of([self.pid], what)[self.pid]


class Site:
    """A log that made-log wrote, its issuer's key, and what a responder of it needs."""

    def __init__(self, directory, programs, certificates, revoked, samples, cache_mib):
        self.directory = directory
        self.programs = programs
        self.cache_mib = cache_mib
        self.certificates = certificates
        run([programs / "examples/made-log", "--out", directory, "--certificates", certificates, "--revoked", revoked,
             "--samples", samples, "--issuer", ISSUER])
        (directory / "state").mkdir()
        made = [line.split() for line in (directory / "serials").read_text().splitlines()]
        self.revoked = {serial for _, serial, status in made if status == "revoked"}
        self.serials = [serial for _, serial, _ in made]
        # The first serial that was not asked for yet, or not for the longest time.
        self.next = 0
        run(["openssl", "x509", "-inform", "DER", "-in", directory / f"public/ca/{ISSUER}.cer", "-out",
             directory / "issuer.pem"])
        self.issuer = Issuer(directory / "issuer.pem")

    def certify(self, public_key):
        """Publishes a certificate of the issuer for a responder's key (PEM)."""
        place = self.directory
        (place / "responder.pub").write_bytes(public_key)
        (place / "extensions").write_text("extendedKeyUsage=OCSPSigning\nnoCheck=ignored\n"
                                          "keyUsage=critical,digitalSignature\n")
        run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
             place / "unused.key", "-subj", "/CN=ocsp-1", "-out", place / "responder.csr"])
        run(["openssl", "x509", "-req", "-in", place / "responder.csr", "-force_pubkey", place / "responder.pub", "-CA",
             place / "issuer.pem", "-CAkey", place / f"{ISSUER}.key", "-CAkeyform", "DER", "-days", "3", "-set_serial",
             time.time_ns(), "-extfile", place / "extensions", "-out", place / "responder.pem"])
        published = place / f"public/responders/ocsp-1/{ISSUER}.cer"
        published.parent.mkdir(parents=True, exist_ok=True)
        run(["openssl", "x509", "-in", place / "responder.pem", "-outform", "DER", "-out", published])
