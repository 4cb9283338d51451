#!/usr/bin/env bash
# The issuing benchmark: builds, makes a private CA with the quickstart, measures, prints a table.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

usage() {
  cat <<'TEXT'
usage: tests/bench/issue/run.sh [--smoke] [OPTIONS]

Measures in one run, on one machine: the token's own ceiling (bare C_Sign), certificates a second one by one
over 1, 8, 64 and 256 connections, and by batch; processor time by process, fsyncs, memory, latency. Prints a
table and writes target/bench/issue.json. Everything runs in a directory of its own and is ended.

  --smoke             seconds of work on the dev profile: shows that the benchmark works, measures nothing
  --rounds N          measure N times, interleaved, and take medians (default 3)
  --seconds S         length of one measurement (default 10)
  --fill N            then fill the store to N certificates, measure it in turns with a new one, and the start-up
                      time (1,000,000 takes some minutes)
  --pairs N           how many turns (default 8)
  --slow-ms MS        then measure with a token that takes MS milliseconds longer for each signature (0: leave
                      out; default 20)
  --keep              keep the directory

CARGO_TARGET_DIR is honoured.
TEXT
}

for argument in "$@"; do
  case "$argument" in --help | -h) usage; exit 0 ;; esac
done

# shellcheck source=softhsm/packages.sh
. softhsm/packages.sh
need_program python3 python3
need_program strace strace
need_program pkcs11-tool opensc
install_needed

profile=release
case " $* " in *" --smoke "*) profile=dev ;; esac
target=${CARGO_TARGET_DIR:-$PWD/target}
case "$target" in /*) ;; *) target=$PWD/$target ;; esac
CARGO_TARGET_DIR=$target cargo build --quiet --workspace --bins --lib --examples --locked --profile "$profile"
[ "$profile" = dev ] && programs=$target/debug || programs=$target/release
exec python3 tests/bench/issue/bench.py --programs "$programs" --output "$target/bench/issue.json" "$@"
