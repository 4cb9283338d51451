#!/usr/bin/env bash
# A full CRL of a million entries: what reading, logging, signing and publishing it take.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

usage() {
  cat <<'TEXT'
usage: tests/bench/crl/run.sh

Builds the release profile, makes a store with 1,000,000 revocations, and makes one CRL of them with a software key
(Ed25519, which reads the bytes twice). Prints a table of wall and processor time and of the whole
process's peak memory after each step, and writes target/bench/crl.json. Example:

  tests/bench/crl/run.sh

CARGO_TARGET_DIR is honoured.
TEXT
}

case "${1:-}" in
  "") ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/bench"
said=$(HALLMARK_TEST_LONG=1 cargo test --release --locked --lib many_revocations -- --nocapture)
table=$(grep -E '^ +([0-9]|until)' <<<"$said")
printf '%s\n' "$table"
grep '^{' <<<"$said" >"$target/bench/crl.json"
printf 'written: %s\n' "$target/bench/crl.json"
