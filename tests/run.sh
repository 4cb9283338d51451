#!/usr/bin/env bash
# Runs every check and every test of the project; what cannot run is a failure, not a skip.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tests/run.sh [--long] [--help]

Installs what is missing (Debian packages, a Python environment below target/), then runs: formatting, clippy,
all tests, shell and document checks, pkilint on every kind of certificate, small runs of the benchmarks,
and the quickstart.

  --long   the long versions too: many more random cases and kills, a minute of fuzzing for each parser, and the
           benchmarks themselves with a million certificates (over an hour in all)

One build (the dev profile) serves them all, but for fuzzing and the benchmarks themselves. CARGO_TARGET_DIR is honoured.
TEXT
}

long=0
for argument in "$@"; do
  case "$argument" in
    --long) long=1 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
case "$CARGO_TARGET_DIR" in /*) ;; *) CARGO_TARGET_DIR=$root/$CARGO_TARGET_DIR ;; esac
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
logs=$CARGO_TARGET_DIR/run
mkdir -p "$logs"

step_name=start
step() {
  step_name=$*
  printf '\n=== [%4d s] %s\n' "$SECONDS" "$step_name"
}
finished() {
  local code=$?
  if [ "$code" -ne 0 ]; then
    printf '\n=== [%4d s] FAILED at: %s (exit code %d)\n' "$SECONDS" "$step_name" "$code" >&2
  fi
}
trap finished EXIT

step "Debian packages"
# shellcheck source=softhsm/packages.sh
. softhsm/packages.sh
need_program softhsm2-util softhsm2
need_program pkcs11-tool opensc
need_program openssl openssl
need_program curl curl
need_program jq jq
need_program strace strace
need_program shellcheck shellcheck
need_program cc gcc
need_program git git
need_program ocsptool gnutls-bin
need_program javac openjdk-17-jdk-headless
need_program stunnel stunnel4
need_program mosquitto_pub mosquitto-clients
need_file /usr/sbin/mosquitto mosquitto
need_file /usr/sbin/nginx nginx-light
need_program rabbitmqctl rabbitmq-server
need_file /usr/lib/softhsm/libsofthsm2.so libsofthsm2
need_file "/usr/lib/$(uname -m)-linux-gnu/pkcs11-spy.so" opensc-pkcs11
install_needed
if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  need_package python3-venv
  install_needed
fi
cargo --version

step "formatting"
cargo fmt --all --check

step "shell scripts"
mapfile -t scripts < <(git ls-files --cached --others --exclude-standard '*.sh' '.ci/run')
shellcheck --external-sources "${scripts[@]}"
for script in "${scripts[@]}"; do bash -n "$script"; done

step "documents"
bash tests/documents.sh

step "clippy"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "build"
cargo build --workspace --bins --lib --examples --locked

step "Python environment of the MQTT client"
bash tests/paho.sh "$CARGO_TARGET_DIR/paho"

step "tests"
if [ "$long" -eq 1 ]; then
  export HALLMARK_TEST_LONG=1 PROPTEST_CASES=20000
fi
rm -rf "$CARGO_TARGET_DIR/lint"
cargo test --workspace --locked --no-fail-fast 2>&1 | tee "$logs/test.log"

step "documentation builds"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

step "pkilint"
bash tests/lint.sh "$CARGO_TARGET_DIR/lint"

if [ "$long" -eq 1 ]; then
  step "fuzzing"
  bash tests/fuzz.sh
fi

if [ "$long" -eq 1 ]; then
  step "benchmarks, with a million certificates"
  bash tests/bench/issue/run.sh --rounds 1 --slow-ms 0 --fill 1000000
  bash tests/bench/ocsp/run.sh --rounds 1 --fill 1000000 --expect
else
  step "benchmarks, small"
  bash tests/bench/issue/run.sh --smoke
  bash tests/bench/ocsp/run.sh --smoke
fi

step "quickstart"
bash softhsm/quickstart.sh --dev

step "done"
grep '^test result:' "$logs/test.log"
