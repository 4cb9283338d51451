#!/usr/bin/env bash
# Fuzzes every parser for a bounded time, starting from its corpus; any fault found is a failure.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tests/fuzz.sh [--seconds N] [--help] [TARGET...]

Builds the fuzz targets of tests/fuzz/ with coverage counters (the stable compiler will do) and runs each of them,
or those that are named, with a copy of its corpus from tests/vectors/corpora/. Installs cargo-fuzz below target/
when it is missing. An input that is a fault is kept and named; it belongs into the corpus.

  --seconds N   how long each target runs (default: 60)

CARGO_TARGET_DIR is honoured.
TEXT
}

seconds=60
targets=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds) seconds=${2:?--seconds needs a number}; shift ;;
    --help | -h) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) targets+=("$1") ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
build=${CARGO_TARGET_DIR:-$root/target}
case "$build" in /*) ;; *) build=$root/$build ;; esac
# cargo-fuzz has a directory of its own: coverage counters would rebuild everything else each time.
unset CARGO_TARGET_DIR
scratch=$build/fuzz-run
# The engine is C++.
# shellcheck source=softhsm/packages.sh
. softhsm/packages.sh
need_program g++ g++
install_needed

version=0.13.2
export PATH=$build/fuzz-tools/bin:$PATH
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "installing cargo-fuzz $version (some minutes, once)"
  cargo install cargo-fuzz --version "$version" --locked --root "$build/fuzz-tools"
fi

# What is fuzzed is what is built: the same versions of everything.
cp Cargo.lock tests/fuzz/Cargo.lock
# No sanitizer: they need a nightly compiler, and there is no unsafe code here for them to watch.
options=(--sanitizer none --fuzz-dir tests/fuzz --target-dir "$build/fuzz")
cargo fuzz build "${options[@]}"

if [ ${#targets[@]} -eq 0 ]; then
  mapfile -t targets < <(cargo fuzz list --fuzz-dir tests/fuzz)
fi
rm -rf "$scratch"

# One target: prints a line of progress at its end, or where the fault is.
fuzz() {
  local target=$1 directory=$scratch/$1 log=$scratch/$1.log
  mkdir -p "$directory"
  cp -r "tests/vectors/corpora/$target" "$directory/corpus"
  # Over every limit on requests; a parser that takes 10 s or 2 GiB is at fault too.
  if cargo fuzz run "${options[@]}" "$target" "$directory/corpus" -- "-artifact_prefix=$directory/fault-" \
    "-max_total_time=$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=20480 -print_final_stats=1 >"$log" 2>&1; then
    printf '%s: %s inputs in %s s, no fault; %s\n' "$target" \
      "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "$seconds" \
      "$(sed -n 's/.*DONE *\(cov: [0-9]* ft: [0-9]* corp: [^ ]*\).*/\1/p' "$log" | tail -1)"
    return
  fi
  tail -40 "$log"
  printf '%s: FAULT. The input: %s (the whole output: %s)\n' "$target" \
    "$(find "$directory" -name 'fault-*' | head -1)" "$log"
  printf '  cargo fuzz run %s %s INPUT   # to see it again\n' "${options[*]}" "$target"
  return 1
}

printf '%s targets, %s s each, %s at a time\n' "${#targets[@]}" "$seconds" "$(nproc)"
running=0
failed=0
for target in "${targets[@]}"; do
  if [ "$running" -ge "$(nproc)" ]; then
    wait -n || failed=1
    running=$((running - 1))
  fi
  fuzz "$target" &
  running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
  wait -n || failed=1
  running=$((running - 1))
done
exit "$failed"
