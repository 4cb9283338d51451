"""Answers a second: hallmark-ocsp beside what one would compare it with, in turns.

Owns the rounds. Ratios are taken within a round, where the machine is the same for both.
"""

import json
import os
import resource
import select
import socket
import time

from processes import Failed
from servers import BareHyper, Nginx, OpensslOcsp, answer, asked, run, wrk

CONNECTIONS = 64
STATUS = {0x80: "good", 0xA1: "revoked", 0x82: "unknown"}


def status_in(body, issuer, serial):
    """The status that an answer states for a serial (RFC 6960, 4.2.1: what follows the CertID)."""
    cert_id = issuer.request(serial)[8:]
    at = body.find(cert_id)
    return STATUS.get(body[at + len(cert_id)]) if at >= 0 else None


def check_statuses(responder):
    """Asks for certificates all over the log: each must have the status that was made."""
    site = responder.site
    # Few enough to be of no weight in the cache.
    for serial in site.serials[::max(200, len(site.serials) // 1000)]:
        status = status_in(answer(responder.port, site.issuer.path(serial))[2], site.issuer, serial)
        wanted = "revoked" if serial in site.revoked else "good"
        if status != wanted:
            raise Failed(f"{serial}: {status}, but it is {wanted}")


def counted(responder, measured, of_cache):
    """Runs a measurement; fails unless nearly all (or nearly none) of its answers came from the cache."""
    before = responder.metrics()
    report = measured()
    after = responder.metrics()
    report["hits"] = after["hits"] - before["hits"]
    share = report["hits"] / report["requests"]
    # Answers in work when the time is over are counted by one side only.
    if report["failed"] or (share < 0.98 if of_cache else share > 0.02):
        raise Failed(f"{share:.3f} of the answers came from the cache, {report['failed']} failed: {report}")
    return report


def signing(programs, seconds):
    """Bare signatures a second, with a thread for each core."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(run([programs / "examples/sign-rate", "--seconds", seconds]))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return report | {"cpu_us": used * 1e6 / report["signatures"]}


def lists(site):
    """Writes the requests down: GET paths, and POST bodies with a nonce each."""
    paths, posts = site.directory / "paths", site.directory / "posts"
    site.issuer.write_paths(paths, site.serials)
    site.issuer.write_posts(posts, site.serials)
    return paths, posts


def cold(responder, paths, seconds):
    """GET, every certificate new to the cache: it comes again only after all others, and the cache keeps fewer."""
    site = responder.site
    report = counted(responder, lambda: asked(responder, "/ocsp", seconds, kind="get", lines=paths, first=site.next,
                                              connections=CONNECTIONS), of_cache=False)
    # Behind the quickest thread: what the others would have come to now is left out.
    site.next = (site.next + report["lines"] + CONNECTIONS) % len(site.serials)
    return report


def round_of(servers, requests, args):
    """One interleaved round."""
    nginx, hyper, openssl, responder = servers
    path, paths, posts = requests
    seconds, same = args.seconds, {"connections": CONNECTIONS}
    return {
        "nginx": asked(nginx, path, seconds, **same),
        "hyper": asked(hyper, path, seconds, **same),
        "warm": counted(responder, lambda: asked(responder, path, seconds, **same), of_cache=True),
        "sign": signing(args.programs, seconds),
        "cold": cold(responder, paths, seconds),
        "post": counted(responder, lambda: asked(responder, "/ocsp", seconds, kind="post", lines=posts, **same),
                        of_cache=False),
        # It keeps few connections waiting, and those that it has no room for try again a second later.
        "openssl": asked(openssl, path.removeprefix("/ocsp"), seconds, connections=2 * (os.cpu_count() or 1)),
    }


def measure(site, responder, args):
    """The rounds."""
    check_statuses(responder)
    requests = lists(site)
    serial = next(serial for serial in site.serials if serial not in site.revoked)
    path = site.issuer.path(serial)
    _, headers, body = answer(responder.port, path)
    rounds = []
    with (Nginx(site.directory / "nginx", path, body) as nginx,
          BareHyper(args.programs, site.directory / "hyper", path, headers, body) as hyper):
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds} ...", flush=True)
            # Anew each time: it waits for ever for a client that went away in the middle of a connection.
            with OpensslOcsp(site, site.serials[:1000]) as openssl:
                rounds.append(round_of((nginx, hyper, openssl, responder), (path, *requests), args))
    return {"answer_bytes": len(body), "rounds": rounds}


def connected(responder, path, args):
    """Opens connections that ask once each, measures beside them, and asks on each of them again."""
    count = args.connections
    request = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    before = responder.memory("VmRSS")
    begun = time.monotonic()
    open_ones = []
    try:
        for _ in range(count):
            open_ones.append(socket.create_connection(("127.0.0.1", responder.port), timeout=10))
        answered = ask_all(open_ones, request)
        opened = time.monotonic() - begun
        memory = responder.memory("VmRSS")
        report = wrk(f"http://127.0.0.1:{responder.port}{path}", min(3, args.seconds), connections=8)
        again = ask_all(open_ones, request)
    finally:
        for one in open_ones:
            one.close()
    if (answered, again) != (count, count):
        raise Failed(f"of {count} connections {answered} were answered, {again} again")
    return {"connections": count, "opened_seconds": opened, "resident_mib": memory,
            "kib_each": (memory - before) * 1024 / count, "beside": report}


def ask_all(connections, request):
    """Asks on each connection, all at once; how many are answered within 10 s."""
    poll = select.epoll()
    for number, one in enumerate(connections):
        one.sendall(request)
        poll.register(one.fileno(), select.EPOLLIN)
    waiting = {one.fileno(): one for one in connections}
    ends, answered = time.monotonic() + 10, 0
    while waiting and time.monotonic() < ends:
        for number, _ in poll.poll(1):
            # An answer fits one segment.
            answered += waiting[number].recv(65_536).startswith(b"HTTP/1.1 200")
            poll.unregister(number)
            del waiting[number]
    poll.close()
    return answered


def room_for(connections):
    """Raises this process's limit of open files, and so its children's."""
    needed = connections + 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        if hard < needed and os.geteuid() != 0:
            raise Failed(f"{needed} open files are needed and {hard} allowed: see ulimit -Hn")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
