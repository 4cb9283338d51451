"""Measures hallmark-ocsp: its speed, its size, and how soon it knows.

Called by run.sh, which builds and gives it a network of its own. Only the standard library is used.
"""

import argparse
import fcntl
import json
import os
import pathlib
import shutil
import socket
import statistics
import struct
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import live
import scale
import speed
from appliance import Appliance
from processes import Failed
from servers import Responder, Site

PARTS = ("speed", "connections", "scale", "issuing", "visible")
ISSUING_P99_MAX_MS = 10


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--fill", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--revocations", type=int, default=100)
    parser.add_argument("--expect", action="store_true")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    unknown = set(args.only) - set(PARTS)
    if unknown:
        parser.error(f"--only: no such part: {', '.join(sorted(unknown))}")
    # The cache that a configuration has by itself keeps some twenty thousand answers.
    args.certificates, args.cache_mib = scale.SAMPLES, 32
    if args.smoke:
        args.rounds, args.seconds, args.pairs = 1, 1, 1
        args.connections, args.fill, args.revocations = 200, 10_000, 3
        args.certificates, args.cache_mib = 5_000, 1
    return args


def loopback_up():
    """A new network has its loopback down (netdevice(7): SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        flags = fcntl.ioctl(any_socket, 0x8913, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", flags)[1] | 1
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", flags))


# ---- the report -----------------------------------------------------------------------------------------------


def ratio(rounds, of, to, field="per_second"):
    """The median of a ratio taken within each round, with its range."""
    ratios = [measured[of][field] / measured[to][field] for measured in rounds]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def speed_rows(result):
    rounds = result["speed"]["rounds"]
    notes = {
        "nginx": f"static file of {result['speed']['answer_bytes']} octets",
        "hyper": f"the same octets; {ratio(rounds, 'hyper', 'nginx')} of nginx",
        "warm": f"{ratio(rounds, 'warm', 'nginx')} of nginx, aim above 1; {ratio(rounds, 'warm', 'hyper')} of bare "
                f"hyper, aim 0.8; CPU {ratio(rounds, 'warm', 'hyper', 'cpu_us')} of it",
        "sign": "a thread for each core, no client beside",
        "cold": f"{ratio(rounds, 'cold', 'sign')} of bare signing, aim 0.5; CPU {ratio(rounds, 'cold', 'sign', 'cpu_us')}"
                " of a signature",
        "post": f"{ratio(rounds, 'post', 'sign')} of bare signing",
        "openssl": f"its processes end connections; cold is {ratio(rounds, 'cold', 'openssl')} of it",
    }
    names = {"nginx": "nginx, static", "hyper": "bare hyper", "warm": "hallmark-ocsp, GET from the cache",
             "sign": "bare P-256 signing", "cold": "hallmark-ocsp, GET, each new",
             "post": "hallmark-ocsp, POST with nonce", "openssl": "openssl ocsp"}
    for key, name in names.items():
        rate = statistics.median(measured[key]["per_second"] for measured in rounds)
        cpu = statistics.median(measured[key]["cpu_us"] for measured in rounds)
        # Its processes come and go.
        cost = "" if key == "openssl" else f"{cpu:7.1f} us"
        yield name, f"{rate:9.0f} /s {cost}", notes[key]


def connections_row(result):
    held = result["connections"]
    yield (f"{held['connections']:,} open connections", f"{held['resident_mib']:9.1f} MiB",
           f"{held['kib_each']:.1f} KiB each; beside them {held['beside']['per_second']:.0f} /s, p99 "
           f"{held['beside']['p99_ms']:.2f} ms")


def scale_rows(result):
    large = result["scale"]
    name = f"{large['certificates']:,} certificates"
    low, high = large["of_small_range"]
    yield name, f"{large['start_seconds']:9.2f} s", "start to the first answer; aim below 2"
    yield ("  resident, peak", f"{large['resident_mib']:9.1f} MiB",
           f"peak {large['peak_mib']:.1f}; at most {large['limit_mib']:.1f} MiB; with {large['small']:,} certificates "
           f"{large['small_resident_mib']:.1f} MiB")
    rate = statistics.median(pair["large"]["per_second"] for pair in large["pairs"])
    yield ("  GET, each new", f"{rate:9.0f} /s",
           f"{large['of_small']:.2f} ({low:.2f}–{high:.2f}) of {large['small']:,} certificates', {len(large['pairs'])} "
           f"pairs in turns; aim 0.8; CPU {large['cpu_of_small']:.2f}")


def issuing_rows(result):
    measured = result["issuing"]
    yield ("appliance, issuing alone", f"{measured['issued_per_second_alone']:9.0f} /s", "64 connections")
    for name, asked in measured["asked"].items():
        quiet, busy = asked["quiet"], asked["issuing"]
        yield (f"  {name}", f"p99 {busy['p99_ms']:8.2f} ms",
               f"p50 {busy['p50_ms']:.2f}, max {busy['max_ms']:.0f} at {busy['per_second']:.0f} /s, beside "
               f"{busy['issued_per_second']:.0f} certificates a second; {quiet['p99_ms']:.2f} ms with nothing beside; "
               f"aim below {ISSUING_P99_MAX_MS}")


def visible_rows(result):
    seen = result["visible"]
    for key, name, aim in (("ocsp", "OCSP", live.OCSP_WITHIN), ("crl", "CRL", live.CRL_WITHIN)):
        every, alone, bursts = (seen[key][which] for which in ("all", "alone", "bursts"))
        yield (f"revoked to visible, {name}", f"p99 {every['p99']:8.3f} s",
               f"p50 {every['p50']:.3f}, max {every['max']:.3f} of {every['count']}; alone p50 {alone['p50']:.3f}, max "
               f"{alone['max']:.3f}; bursts p50 {bursts['p50']:.3f}, max {bursts['max']:.3f}; aim {aim}")


ROWS = {"speed": speed_rows, "connections": connections_row, "scale": scale_rows, "issuing": issuing_rows,
        "visible": visible_rows}


def table(result):
    for part in PARTS:
        if part in result:
            for name, value, note in ROWS[part](result):
                print(f"{name:<36}{value:<24} {note}")


def broken(result):
    """The promises that were not kept, of those that depend on no other machine's speed."""
    if "scale" in result:
        large = result["scale"]
        if large["start_seconds"] >= scale.START_MAX_SECONDS:
            yield f"the start took {large['start_seconds']:.2f} s"
        if large["resident_mib"] > large["limit_mib"]:
            yield f"{large['resident_mib']:.1f} MiB are resident"
    if "visible" in result:
        for key, aim in (("ocsp", live.OCSP_WITHIN), ("crl", live.CRL_WITHIN)):
            if result["visible"][key]["all"]["max"] > aim:
                yield f"a revocation was in {key} only after {result['visible'][key]['all']['max']:.2f} s"


# ---- the parts ------------------------------------------------------------------------------------------------


def of_made_logs(args, directory):
    """What needs no appliance."""
    print("making a log ...", flush=True)
    site = Site(directory / "made", args.programs, args.certificates, args.certificates // scale.REVOKED_SHARE,
                args.certificates, args.cache_mib)
    result = {}
    with Responder(site) as responder:
        responder.ready(600)
        if "speed" in args.only:
            result["speed"] = speed.measure(site, responder, args)
        if "connections" in args.only:
            print(f"{args.connections} connections ...", flush=True)
            result["connections"] = speed.connected(responder, site.issuer.path(site.serials[0]), args)
        if "scale" in args.only:
            print(f"a log of {args.fill} certificates ...", flush=True)
            paths, _ = speed.lists(site)
            result["scale"] = scale.measure(responder, paths, directory / "large", args)
    return result


def of_an_appliance(args, directory):
    """What needs one."""
    print("making a private CA ...", flush=True)
    appliance = Appliance(directory / "appliance", args.programs, ["--dev"] if args.smoke else [])
    result = {}
    try:
        place = live.Place(appliance, 1_000 if args.smoke else live.RATE_MAX)
        live.issue(place, max(args.revocations, 100 if args.smoke else 2 * live.ASKED))
        if "issuing" in args.only:
            print("answers while it issues ...", flush=True)
            result["issuing"] = live.while_issuing(place, args)
        if "visible" in args.only:
            print(f"{args.revocations} revocations ...", flush=True)
            result["visible"] = live.visible(place, args)
    finally:
        appliance.stop()
    return result


def measure(args, directory):
    result = {"machine": {"processors": os.cpu_count()}, "smoke": args.smoke}
    if {"speed", "connections", "scale"} & set(args.only):
        result |= of_made_logs(args, directory)
    if {"issuing", "visible"} & set(args.only):
        result |= of_an_appliance(args, directory)
    return result


def main():
    args = arguments()
    loopback_up()
    speed.room_for(args.connections)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="hallmark-bench."))
    try:
        result = measure(args, directory)
    except Failed as failed:
        for log in directory.glob("*/*.log"):
            print(f"{log.name}:", *log.read_text().splitlines()[-20:], sep="\n", file=sys.stderr)
        sys.exit(f"benchmark: {failed}")
    else:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=1))
        table(result)
        print(f"\nall figures: {args.output}", flush=True)
    finally:
        if args.keep:
            print(f"kept: {directory}")
        else:
            # A large log has very many files: minutes on a slow disk.
            shutil.rmtree(directory, ignore_errors=True)
    faults = list(broken(result)) if args.expect else []
    if faults:
        sys.exit(f"benchmark: {'; '.join(faults)}")


if __name__ == "__main__":
    main()
