"""Measures how fast the appliance issues, against what its token and one verification cost by themselves.

Called by run.sh, which builds. Only the standard library is used.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from appliance import SOFTHSM, Appliance
from processes import Failed, family, memory_of, role

# Requests are made before the clock runs: enough for this many certificates a second, and no more.
RATE_MAX = 6_000
# A line may have this many batches in work (limits::BATCHES_PER_LINE_MAX); more would measure its waiting.
BATCH_CONNECTIONS = 2


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--fill", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--slow-ms", type=int, default=20)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.rounds, args.seconds = 1, 1
    return args


# ---- measurements ---------------------------------------------------------------------------------------------


def sessions_of(appliance):
    config = pathlib.Path(appliance.env["HALLMARK_CONFIG"]).read_text()
    return int(re.search(r"^sessions = (\d+)", config, re.M)[1])


def ceiling(appliance, seconds):
    command = [str(appliance.programs / "examples/token-ceiling"), "--module", SOFTHSM, "--token", "hallmark",
               "--pin-file", str(appliance.directory / "pin"), "--key", "device-1",
               "--sessions", str(sessions_of(appliance)), "--seconds", str(max(1, seconds // 3))]
    env = os.environ | {"SOFTHSM2_CONF": str(appliance.directory / "softhsm2.conf")}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"token-ceiling: {done.stderr}")
    return json.loads(done.stdout)


def singles(appliance, connections, args):
    if args.smoke:
        return appliance.send(connections, 2 * connections)
    return appliance.send(connections, RATE_MAX * args.seconds, "--seconds", str(args.seconds))


def batches(appliance, args):
    if args.smoke:
        return appliance.send(BATCH_CONNECTIONS, 64, "--batch", "16")
    return appliance.send(BATCH_CONNECTIONS, RATE_MAX * args.seconds, "--batch", "256", "--seconds", str(args.seconds))


def fsyncs(appliance, args):
    """Certificates for each fsync, from a separate run under strace, which slows it."""
    output = appliance.directory / "strace"
    watched = [word for pid in family(appliance.pid) for word in ("-p", str(pid))]
    tracer = subprocess.Popen(["strace", "-f", "-y", "-e", "trace=fsync,fdatasync", "-o", str(output), *watched],
                              stderr=subprocess.PIPE, text=True)
    # It says so once it is attached.
    if "attached" not in tracer.stderr.readline():
        raise Failed("strace cannot attach to the appliance")
    report = appliance.send(64, 128 if args.smoke else 10_000)
    tracer.send_signal(signal.SIGINT)
    tracer.communicate()
    calls = re.findall(r"f(?:data)?sync\(\d+<(.*?)>", output.read_text())
    database = sum(1 for path in calls if ".db" in path)
    return {"certificates": report["issued"], "per_second": report["per_second"], "of_database": database,
            "of_published_files": len(calls) - database,
            "certificates_per_database_fsync": report["issued"] / max(1, database)}


def idle_memory(appliance, connections):
    """Resident memory with idle connections, MiB by process."""
    command = appliance.line_command(1, 0, "--idle", str(connections))
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              text=True)
    said = client.stderr.readline()
    if "connections are open" not in said:
        raise Failed(f"the idle connections were not opened: {said}")
    resident = memory_of(family(appliance.pid), "VmRSS")
    client.communicate("")
    by_role = {role(pid): size for pid, size in resident.items()}
    return {"connections": connections, "resident_mib": by_role, "resident_mib_all": sum(resident.values())}


def round_of(appliance, args):
    """One interleaved round: what is compared is measured minutes apart at most."""
    measured = {"ceiling": ceiling(appliance, args.seconds)}
    measured["singles"] = {n: singles(appliance, n, args) for n in (1, 8, 64, 256)}
    measured["batch"] = batches(appliance, args)
    return measured


def rest_cpu_us(report, measured):
    """The appliance's processor time for a certificate outside C_Sign, microseconds."""
    spent = sum(report["cpu_by_process"].values()) * 1e6 / max(1, report["issued"])
    return spent - measured["ceiling"]["signature_cpu_us"]


def summary(rounds):
    """Medians over the rounds, ratios taken within each round."""
    def median(of):
        return statistics.median(of(measured) for measured in rounds)

    verification = median(lambda m: m["ceiling"]["verification_us"])
    return {
        "ceiling_per_second": median(lambda m: m["ceiling"]["per_second"]),
        "verification_us": verification,
        "signature_cpu_us": median(lambda m: m["ceiling"]["signature_cpu_us"]),
        "singles_per_second": {n: median(lambda m, n=n: m["singles"][n]["per_second"]) for n in (1, 8, 64, 256)},
        "latency_ms": {n: {p: median(lambda m, n=n, p=p: m["singles"][n]["latency_ms"][p]) for p in ("p50", "p99")}
                       for n in (1, 8, 64, 256)},
        "batch_per_second": median(lambda m: m["batch"]["per_second"]),
        "singles_of_ceiling": median(lambda m: m["singles"][64]["per_second"] / m["ceiling"]["per_second"]),
        "batch_of_ceiling": median(lambda m: m["batch"]["per_second"] / m["ceiling"]["per_second"]),
        "rest_cpu_us": median(lambda m: rest_cpu_us(m["singles"][64], m)),
        "rest_in_verifications": median(
            lambda m: rest_cpu_us(m["singles"][64], m) / m["ceiling"]["verification_us"]),
    }


def slow(appliance, args):
    """The rate with a token that sleeps in each signature, as a share of what its sessions can do."""
    config = pathlib.Path(appliance.env["HALLMARK_CONFIG"])
    text = config.read_text()
    shim = appliance.programs / "libfaulting_token.so"
    sessions = 8
    changed = re.sub(r"^sessions = \d+", f"sessions = {sessions}", text.replace(SOFTHSM, str(shim)), flags=re.M)
    control = appliance.directory / "faults"
    control.write_text(f"delay_ms {args.slow_ms}\n")
    appliance.stop()
    config.write_text(changed)
    appliance.start(FAULTING_TOKEN_MODULE=SOFTHSM, FAULTING_TOKEN_CONTROL=str(control))
    try:
        seconds = 2 if args.smoke else args.seconds
        possible = sessions / (args.slow_ms / 1000)
        report = appliance.send(64, int(2 * possible * seconds), "--seconds", str(seconds))
    finally:
        appliance.stop()
        config.write_text(text)
        appliance.start()
    return {"delay_ms": args.slow_ms, "sessions": sessions, "possible_per_second": possible,
            "per_second": report["per_second"], "of_possible": report["per_second"] / possible}


def filled(appliance, args, small_directory, profile_flag):
    """The same measurement on a store with history beside a new one, in turns, and the time to start with it."""
    have = json.loads(appliance.hallmark("status", "--json"))["log"]["size"] // 2
    if have < args.fill:
        appliance.send(BATCH_CONNECTIONS, args.fill - have, "--batch", "256")
    small = Appliance(small_directory, args.programs, profile_flag)
    small.end_responder()
    try:
        # Pairs in turns, each first every other time: the machine's own swings are larger than what is looked for.
        pairs = []
        for number in range(2 if args.smoke else args.pairs):
            order = (small, appliance) if number % 2 == 0 else (appliance, small)
            rates = {which: singles(which, 64, args)["per_second"] for which in order}
            pairs.append({"small": rates[small], "filled": rates[appliance]})
    finally:
        small.stop()
    appliance.stop()
    start = appliance.start()
    return {"certificates": args.fill, "pairs": pairs, "start_seconds": start,
            "per_second": statistics.median(pair["filled"] for pair in pairs),
            "of_empty": statistics.median(pair["filled"] for pair in pairs)
            / statistics.median(pair["small"] for pair in pairs)}


# ---- the report -----------------------------------------------------------------------------------------------


def table(result):
    figures = result["summary"]
    rows = [
        ("(a) token, bare C_Sign", f"{figures['ceiling_per_second']:9.0f} /s", ""),
        ("(c) batch", f"{figures['batch_per_second']:9.0f} /s",
         f"{figures['batch_of_ceiling']:.3f} of (a), aim 0.3"),
        ("CPU outside C_Sign", f"{figures['rest_cpu_us']:9.0f} us",
         f"{figures['rest_in_verifications']:.2f} verifications, aim at most 4"),
        ("one verification", f"{figures['verification_us']:9.1f} us", ""),
        ("database fsyncs", f"{result['fsyncs']['certificates_per_database_fsync']:9.1f} certificates each",
         f"{result['fsyncs']['of_database']} for {result['fsyncs']['certificates']} certificates, "
         f"{result['fsyncs']['of_published_files']} of published files beside, "
         f"at {result['fsyncs']['per_second']:.0f} /s under strace"),
        ("memory, idle connections", f"{result['idle']['resident_mib_all']:9.1f} MiB",
         f"{result['idle']['connections']} connections, all processes; aim below 100"),
        ("memory, peak", f"{sum(result['peak_mib'].values()):9.1f} MiB", "all processes"),
    ]
    for n, rate in reversed(figures["singles_per_second"].items()):
        latency = figures["latency_ms"][n]
        note = f"p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms"
        if n == 64:
            note += f"; {figures['singles_of_ceiling']:.3f} of (a), aim 0.22 and 2,500 /s"
        rows.insert(1, (f"(b) one by one, {n} connections", f"{rate:9.0f} /s", note))
    if result.get("slow"):
        slow_token = result["slow"]
        rows.append((f"token with {slow_token['delay_ms']} ms more", f"{slow_token['per_second']:9.1f} /s",
                     f"{slow_token['of_possible']:.3f} of its sessions' {slow_token['possible_per_second']:.0f} /s, "
                     "aim 0.97"))
    if result.get("filled"):
        full = result["filled"]
        rows.append((f"with {full['certificates']:,} certificates", f"{full['per_second']:9.0f} /s",
                     f"{full['of_empty']:.3f} of a new store's, {len(full['pairs'])} pairs in turns; aim 0.9; start {full['start_seconds']:.2f} s, "
                     "aim below 3"))
    for name, value, note in rows:
        print(f"{name:<34}{value:<30} {note}")


def measure(args, directory):
    print("making a private CA ...", flush=True)
    profile_flag = ["--dev"] if args.smoke else []
    appliance = Appliance(directory / "large", args.programs, profile_flag)
    # What is measured is the appliance alone.
    appliance.end_responder()
    try:
        rounds = []
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds} ...", flush=True)
            rounds.append(round_of(appliance, args))
        result = {"machine": {"processors": os.cpu_count()}, "smoke": args.smoke, "rounds": rounds,
                  "summary": summary(rounds)}
        result["peak_mib"] = {role(pid): size for pid, size in memory_of(family(appliance.pid), "VmHWM").items()}
        result["idle"] = idle_memory(appliance, 20 if args.smoke else 1000)
        result["fsyncs"] = fsyncs(appliance, args)
        if args.slow_ms:
            print("slow token ...", flush=True)
            result["slow"] = slow(appliance, args)
        if args.fill:
            print(f"filling to {args.fill} certificates ...", flush=True)
            result["filled"] = filled(appliance, args, directory / "small", profile_flag)
        return result
    finally:
        appliance.stop()


def main():
    args = arguments()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="hallmark-bench."))
    try:
        result = measure(args, directory)
    except Failed as failed:
        log = directory / "large/hallmark.log"
        if log.exists():
            print("\n".join(log.read_text().splitlines()[-20:]), file=sys.stderr)
        sys.exit(f"benchmark: {failed}")
    finally:
        if args.keep:
            print(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1))
    table(result)
    print(f"\nall figures: {args.output}")


if __name__ == "__main__":
    main()
