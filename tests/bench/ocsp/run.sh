#!/usr/bin/env bash
# The OCSP benchmark: builds, makes a log and a private CA, measures beside nginx, hyper and openssl, prints a table.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

usage() {
  cat <<'TEXT'
usage: tests/bench/ocsp/run.sh [--smoke] [OPTIONS]

Measures hallmark-ocsp in one run, on one machine, with one client (wrk): GET from the cache, GET of certificates
that no cache has, POST with a nonce; beside nginx with a static file of the same octets, bare hyper with the same
octets, `openssl ocsp`, and bare ECDSA P-256 signing. Then memory with open connections; start, memory and answers
with many certificates beside few; and with a real appliance on SoftHSM: answers while it issues, and how soon a
revocation is in OCSP and on the CRL. Prints a table and writes target/bench/ocsp.json. Everything runs in a
directory and a network of its own (it needs root, or user namespaces) and is ended.

  --smoke             seconds of work on the dev profile: shows that the benchmark works, measures nothing
  --only PART,…       of speed, connections, scale, issuing, visible (default: all)
  --rounds N          measure the speeds N times, interleaved, and take medians (default 3)
  --seconds S         length of one measurement (default 5)
  --connections N     open connections to hold (default 10000)
  --fill N            certificates of the large log, one in twenty revoked (default 1000000; 10000000 takes some
                      minutes and 6 GiB)
  --pairs N           how many turns of large and small (default 6)
  --revocations N     how many to time (default 100: three to four minutes)
  --expect            fail when a promise that no machine's speed excuses is broken: start, memory, revocations' times
  --keep              keep the directory

CARGO_TARGET_DIR is honoured. Example: tests/bench/ocsp/run.sh --only speed --rounds 5
TEXT
}

for argument in "$@"; do
  case "$argument" in --help | -h) usage; exit 0 ;; esac
done

# shellcheck source=softhsm/packages.sh
. softhsm/packages.sh
need_program python3 python3
need_program openssl openssl
need_program curl curl
need_program pkcs11-tool opensc
need_program unshare util-linux
need_program wrk wrk
need_file /usr/sbin/nginx nginx-light
need_file /usr/lib/softhsm/libsofthsm2.so libsofthsm2
install_needed

profile=release
case " $* " in *" --smoke "*) profile=dev ;; esac
target=${CARGO_TARGET_DIR:-$PWD/target}
case "$target" in /*) ;; *) target=$PWD/$target ;; esac
CARGO_TARGET_DIR=$target cargo build --quiet --workspace --bins --lib --examples --locked --profile "$profile"
[ "$profile" = dev ] && programs=$target/debug || programs=$target/release
# `openssl ocsp` listens on every address: here there is none but loopback.
network=(unshare --net)
[ "$(id -u)" -eq 0 ] || network=(unshare --map-root-user --net)
exec "${network[@]}" python3 tests/bench/ocsp/bench.py --programs "$programs" --output "$target/bench/ocsp.json" "$@"
