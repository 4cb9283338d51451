"""Many certificates beside few: start, memory, and answers that no cache has, in turns."""

import statistics
import time

from servers import Responder, Site
from speed import check_statuses, cold, lists

# One in twenty.
REVOKED_SHARE = 20
# That a log has asked for: far more than the cache keeps.
SAMPLES = 200_000
START_MAX_SECONDS = 2
MEMORY_MAX_OCTETS_EACH = 60
MEMORY_MAX_MIB_BESIDE = 64


def measure(small, small_paths, directory, args):
    """Fills a log, has it followed once, starts again from the index, and compares."""
    begun = time.monotonic()
    site = Site(directory, args.programs, args.fill, args.fill // REVOKED_SHARE, min(SAMPLES, args.fill),
                args.cache_mib)
    made = time.monotonic() - begun
    print(f"  made in {made:.0f} s; following it ...", flush=True)
    responder = Responder(site)
    try:
        followed = responder.ready(3600)
        settled(responder)
    finally:
        responder.stop()
    print(f"  followed in {followed:.0f} s; starting again ...", flush=True)
    paths, _ = lists(site)
    with Responder(site) as responder:
        start = responder.ready(60)
        check_statuses(responder)
        pairs = []
        for number in range(args.pairs):
            order = [("small", small, small_paths), ("large", responder, paths)]
            order = order if number % 2 == 0 else order[::-1]
            pairs.append({name: cold(which, lines, args.seconds) for name, which, lines in order})
        resident, peak = responder.memory("VmRSS"), responder.memory("VmHWM")
        beside = small.memory("VmRSS")
    ratios = [pair["large"]["per_second"] / pair["small"]["per_second"] for pair in pairs]
    costs = [pair["large"]["cpu_us"] / pair["small"]["cpu_us"] for pair in pairs]
    return {"certificates": args.fill, "revoked": args.fill // REVOKED_SHARE, "small": small.site.certificates,
            "made_seconds": made, "followed_seconds": followed, "start_seconds": start, "pairs": pairs,
            "of_small": statistics.median(ratios), "of_small_range": [min(ratios), max(ratios)],
            "cpu_of_small": statistics.median(costs), "resident_mib": resident, "peak_mib": peak,
            "small_resident_mib": beside, "limit_mib": MEMORY_MAX_OCTETS_EACH * args.fill / 2**20
            + MEMORY_MAX_MIB_BESIDE}


def settled(responder):
    """Waits until the parts of the index are merged: the files of its directory stay as they are."""
    state = responder.site.directory / "state/bench"
    before = None
    while True:
        now = sorted((path.name, path.stat().st_size) for path in state.iterdir())
        if now == before:
            return
        before = now
        time.sleep(1)
