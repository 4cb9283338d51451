#!/usr/bin/env bash
# From nothing to a certificate from a token, on one machine, in about a minute after the build.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: softhsm/quickstart.sh [--dir DIR] [--keep] [--dev]
       softhsm/quickstart.sh --stop DIR

Makes a private SoftHSM token and a whole CA on it, starts Hallmark and its OCSP responder on loopback, sends a
device's request as a factory line would, and revokes the certificate. Everything stands in DIR; nothing else on the machine changes, but for Debian
packages that are missing. Where DIR has a long path the sockets are below /tmp, as long as they are needed.

  --dir DIR   where; it may exist if it is empty (default: a new temporary directory)
  --keep      leave both running and write DIR/env (shell syntax) that tells where everything is
  --stop DIR  end what --keep left running in DIR; the files stay
  --dev       build the dev profile: quicker to build, slower to run

CARGO_TARGET_DIR is honoured.
TEXT
}

directory='' keep=no profile=release
while [ $# -gt 0 ]; do
  case "$1" in
    --dir) directory=${2:?--dir needs a directory}; shift 2 ;;
    --keep) keep=yes; shift ;;
    --dev) profile=dev; shift ;;
    --stop) stop_directory=${2:?--stop needs a directory}; shift 2 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

# ---- ending it ------------------------------------------------------------------------------------------------

# Whether a process is one of ours: a process id alone may have been given to a stranger since.
is_ours() {
  [ -r "/proc/$1/cmdline" ] && tr '\0' '\n' <"/proc/$1/cmdline" 2>/dev/null | grep -qxF -- "$2"
}

# Ends the program whose configuration is $2, gently first.
stop_process() {
  local pid=$1 config=$2 tries
  is_ours "$pid" "$config" || return 0
  kill -TERM "$pid" 2>/dev/null || return 0
  for ((tries = 0; tries < 300; tries++)); do
    is_ours "$pid" "$config" || return 0
    sleep 0.1
  done
  echo "process $pid does not end by itself: killing it" >&2
  kill -KILL "$pid" 2>/dev/null || true
}

# How what is kept in directory $1 is started again.
print_start() {
  # shellcheck disable=SC2016  # for whoever reads it to expand
  printf 'To start it again:  . %q/env && "$HALLMARK_BIN/hallmark" --config "$HALLMARK_CONFIG" run
and beside it:      . %q/env && "$HALLMARK_BIN/hallmark-ocsp" --config "$HALLMARK_OCSP_CONFIG" run\n' "$1" "$1"
}

if [ -n "${stop_directory:-}" ]; then
  [ -r "$stop_directory/env" ] || { echo "$stop_directory/env is not there: nothing was kept running" >&2; exit 1; }
  # shellcheck source=/dev/null
  . "$stop_directory/env"
  running=no
  for pid in $HALLMARK_PIDS; do
    for config in "$HALLMARK_CONFIG" "$HALLMARK_OCSP_CONFIG"; do
      is_ours "$pid" "$config" || continue
      running=yes
      stop_process "$pid" "$config"
    done
  done
  case "$running" in
    yes) echo "stopped; the files are in $stop_directory" ;;
    no) echo "what --keep started in $stop_directory does not run any more; the files are there" ;;
  esac
  print_start "$stop_directory"
  exit 0
fi

# ---- where ----------------------------------------------------------------------------------------------------

# Told before anything is built.
if [ -e "$directory" ]; then
  [ -d "$directory" ] || { echo "$directory is not a directory" >&2; exit 1; }
  if [ -n "$(ls -A "$directory")" ]; then
    echo "$directory is not empty: name another directory" >&2
    [ ! -e "$directory/env" ] || print_start "$(cd "$directory" && pwd)" >&2
    exit 1
  fi
fi

# ---- progress -------------------------------------------------------------------------------------------------

steps=14
number=0
step() {
  number=$((number + 1))
  printf '\n[%2d/%d, %3d s] %s\n' "$number" "$steps" "$SECONDS" "$*"
}

# Shows a command as one would type it, then runs it.
show() {
  printf '  $'
  printf ' %q' "$@"
  printf '\n'
  "$@" | sed 's/^/    /'
}

pid='' ocsp_pid=''
succeeded=no
sockets_elsewhere=''
ended() {
  local code=$?
  if [ "$succeeded" = yes ] && [ "$keep" = yes ]; then return; fi
  [ -z "$ocsp_pid" ] || stop_process "$ocsp_pid" "$ocsp_config"
  [ -z "$pid" ] || stop_process "$pid" "$config"
  [ -z "$sockets_elsewhere" ] || rm -rf -- "$sockets_elsewhere"
  if [ "$succeeded" != yes ]; then
    printf '\nThe quickstart failed (exit code %d).' "$code" >&2
    # Only what this run wrote: an earlier one's log would mislead.
    local log
    for log in ${pid:+hallmark.log} ${ocsp_pid:+ocsp.log}; do
      [ -s "$directory/$log" ] || continue
      printf '\nThe end of %s:\n' "$directory/$log" >&2
      tail -n 30 "$directory/$log" >&2
    done
    printf '\n' >&2
  fi
}
trap ended EXIT

# ---- 1: programs ----------------------------------------------------------------------------------------------

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=softhsm/packages.sh
. "$root/softhsm/packages.sh"
# shellcheck source=softhsm/token.sh
. "$root/softhsm/token.sh"

step "Packages and programs"
need_program cc gcc
need_program pkcs11-tool opensc
need_program openssl openssl
need_program curl curl
need_file "$softhsm_module" libsofthsm2
install_needed
command -v cargo >/dev/null || { echo "Rust is missing: install it with rustup, then run this again" >&2; exit 1; }
target=${CARGO_TARGET_DIR:-$root/target}
case "$target" in /*) ;; *) target=$PWD/$target ;; esac
case "$profile" in
  release) programs=$target/release ;;
  dev) programs=$target/debug ;;
esac
echo "  building (the first time takes some minutes) ..."
(cd "$root" && CARGO_TARGET_DIR=$target cargo build --quiet --workspace --bins --locked --profile "$profile")
hallmark=$programs/hallmark
built_at=$SECONDS

# ---- 2: a token -----------------------------------------------------------------------------------------------

if [ -z "$directory" ]; then
  directory=$(mktemp -d "${TMPDIR:-/tmp}/hallmark.XXXXXX")
else
  mkdir -p "$directory"
  directory=$(cd "$directory" && pwd)
  # Again, since building takes minutes.
  [ -z "$(ls -A "$directory")" ] || { echo "$directory is not empty any more" >&2; exit 1; }
fi
chmod 700 "$directory"
config=$directory/hallmark.toml
ocsp_config=$directory/ocsp.toml
# A Unix socket's path has at most 103 bytes.
run=$directory/run
if [ "${#run}" -gt 85 ]; then
  sockets_elsewhere=$(mktemp -d /tmp/hallmark-run.XXXXXX)
  run=$sockets_elsewhere
else
  mkdir "$run"
fi

step "A private SoftHSM token in $directory"
token_serial=$(make_token "$directory" hallmark)
[ -n "$token_serial" ] || { echo "the token was made but is not listed" >&2; exit 1; }
export SOFTHSM2_CONF=$directory/softhsm2.conf
echo "  token label hallmark, serial number $token_serial; its PIN is in $directory/pin"

# ---- 3: configuration and ceremony ----------------------------------------------------------------------------

# A TCP port on loopback that nobody listens on, and none of the arguments.
free_port() {
  local port
  while :; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && [[ " $* " != *" $port "* ]]; then
      echo "$port"
      return
    fi
  done
}

step "Configuration, and the ceremony: two roots, a device issuer and an access issuer"
api_port=$(free_port)
ops_port=$(free_port "$api_port")
# Before the ceremony: certificates name the URLs.
ocsp_port=$(free_port "$api_port" "$ops_port")
ocsp_ops_port=$(free_port "$api_port" "$ops_port" "$ocsp_port")
public=http://127.0.0.1:$ocsp_port
fill_in() {
  sed -e "s|@API_PORT@|$api_port|g" -e "s|@OPS_PORT@|$ops_port|g" -e "s|@RUN@|$run|g" \
    -e "s|@OCSP_PORT@|$ocsp_port|g" -e "s|@OCSP_OPS_PORT@|$ocsp_ops_port|g" -e "s|@PUBLIC@|$public|g" \
    -e "s|@LOG_KEY@|state/log.vkey|g" \
    -e "s|@OPERATOR@|$(id -un)|g" -e "s|@UID@|$(id -u)|g" -e "s|@MODULE@|$softhsm_module|g" \
    -e "s|@TOKEN_SERIAL@|$token_serial|g" -e "s|@SESSIONS@|$(nproc)|g" "$1"
}
fill_in "$root/softhsm/hallmark.toml.in" >"$config"
fill_in "$root/softhsm/ceremony.toml.in" >"$directory/ceremony.toml"
fill_in "$root/softhsm/ocsp.toml.in" >"$ocsp_config"
cp -r "$root/profiles" "$directory/profiles"
show "$hallmark" --config "$config" check-config
show "$hallmark" --config "$config" ceremony run "$directory/ceremony.toml"

# The CA certificates as PEM, for those who verify.
pem() {
  openssl x509 -inform DER -in "$directory/public/ca/$1.cer"
}
pem device-1 >"$directory/device-issuer.pem"
pem device-root >"$directory/device-root.pem"
{ pem device-1; pem device-root; } >"$directory/device-chain.pem"
pem access-root >"$directory/server-ca.pem"

# ---- 4: the appliance -----------------------------------------------------------------------------------------

step "Starting the token host and the appliance"
# Waits until process $1 of configuration $2, called $3, says at port $4 that it is ready.
wait_until_ready() {
  local tries
  for ((tries = 0; ; tries++)); do
    curl --silent --fail --max-time 2 --output /dev/null "http://127.0.0.1:$4/readyz" && return
    is_ours "$1" "$2" || { echo "$3 ended" >&2; exit 1; }
    [ "$tries" -lt 300 ] || { echo "$3 is not ready after 30 s" >&2; exit 1; }
    sleep 0.1
  done
}

setsid "$hallmark" --config "$config" run >"$directory/hallmark.log" 2>&1 </dev/null &
pid=$!
wait_until_ready "$pid" "$config" "the appliance" "$ops_port"
show "$hallmark" --config "$config" status

# ---- 5: the responder -----------------------------------------------------------------------------------------

step "A key for the OCSP responder, approved at the appliance; starting the responder"
printf '  $ %q --config %q key > %q\n' "$programs/hallmark-ocsp" "$ocsp_config" "$directory/ocsp-1.pem"
"$programs/hallmark-ocsp" --config "$ocsp_config" key 2>&1 >"$directory/ocsp-1.pem" | sed 's/^/    /'
show "$hallmark" --config "$config" responder approve ocsp-1 --key "$directory/ocsp-1.pem"
setsid "$programs/hallmark-ocsp" --config "$ocsp_config" run >"$directory/ocsp.log" 2>&1 </dev/null &
ocsp_pid=$!
wait_until_ready "$ocsp_pid" "$ocsp_config" "hallmark-ocsp" "$ocsp_ops_port"
show "$hallmark" --config "$config" responder list
show "$programs/hallmark-ocsp" --config "$ocsp_config" status

# ---- 6: a line and an order -----------------------------------------------------------------------------------

step "A line with its own key and certificate, and a production order for it"
(umask 077 && openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$directory/line.key")
openssl req -new -key "$directory/line.key" -subj /CN=line-1 -out "$directory/line.csr"
printf '  $ %q --config %q line add line-1 --csr %q > %q\n' \
  "$hallmark" "$config" "$directory/line.csr" "$directory/line.pem"
"$hallmark" --config "$config" line add line-1 --csr "$directory/line.csr" >"$directory/line.pem"
show "$hallmark" --config "$config" order open demo --profile mqtt-device --issuer device-1 --line line-1 \
  --quantity 100000 --device-id '[A-Za-z0-9-]+'

# ---- 7 to 9: a device -----------------------------------------------------------------------------------------

step "A device makes its key and its request (openssl)"
device=sensor-$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')
(umask 077 && openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$directory/device.key")
openssl req -new -key "$directory/device.key" -subj "/CN=$device" -out "$directory/device.csr"
echo "  device id $device"

api=https://localhost:$api_port
# Sends a request as the line would; the answer's body to $2, the status to standard output.
as_line() {
  curl --silent --show-error --max-time 30 --cacert "$directory/server-ca.pem" \
    --cert "$directory/line.pem" --key "$directory/line.key" \
    --data-binary "@$1" --header 'Content-Type: application/pkcs10' \
    --output "$2" --write-out '%{http_code}' "$api/v1/orders/demo/certificates"
}

step "The line sends it: POST $api/v1/orders/demo/certificates"
status=$(as_line "$directory/device.csr" "$directory/device.pem")
[ "$status" = 200 ] || [ "$status" = 201 ] || { cat "$directory/device.pem" >&2; exit 1; }
echo "  status $status; the certificate:"
openssl x509 -in "$directory/device.pem" -noout -serial -subject -issuer -dates -ext \
  subjectAltName,keyUsage,extendedKeyUsage | sed 's/^/    /'
show openssl verify -x509_strict -CAfile "$directory/device-root.pem" -untrusted "$directory/device-chain.pem" \
  "$directory/device.pem"
serial=$(openssl x509 -in "$directory/device.pem" -noout -serial | sed 's/.*=//' | tr 'A-F' 'a-f')

step "Sent again, it is the same certificate; another key with this device id is refused"
status=$(as_line "$directory/device.csr" "$directory/again.pem")
cmp "$directory/device.pem" "$directory/again.pem"
echo "  status $status: the same bytes"
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$directory/other.key" \
  -subj "/CN=$device" -out "$directory/other.csr" 2>/dev/null
status=$(as_line "$directory/other.csr" "$directory/refusal.json")
[ "$status" = 409 ] || { echo "a second key for $device was answered with $status" >&2; exit 1; }
printf '  status %s: %s\n' "$status" "$(cat "$directory/refusal.json")"

# ---- 10 to 12: what it is worth -------------------------------------------------------------------------------

ocsp=$public/ocsp
# Asks for the certificate's status; the answer's signature and signer are verified up to the root.
ask_status() {
  openssl ocsp -issuer "$directory/device-issuer.pem" -cert "$directory/device.pem" -url "$ocsp" \
    -CAfile "$directory/device-chain.pem" 2>&1
}
# Runs a command with the rest of the arguments until its output has a line that matches $1, for 30 s at most.
until_it_says() {
  local pattern=$1 tries said
  shift
  for ((tries = 0; ; tries++)); do
    said=$("$@" || true)
    grep -q -- "$pattern" <<<"$said" && break
    [ "$tries" -lt 300 ] || { printf '%s\n' "$said" >&2; echo "no $pattern after 30 s" >&2; exit 1; }
    sleep 0.1
  done
  printf '%s\n' "$said"
}
# Shows the status, which must be $1 in an answer that verifies.
expect_status() {
  local said
  said=$(until_it_says "device.pem: $1" ask_status)
  grep -q '^Response verify OK' <<<"$said" || { printf '%s\n' "$said" >&2; exit 1; }
  printf '  $ openssl ocsp -issuer %q -cert %q -url %q -CAfile %q\n' "$directory/device-issuer.pem" \
    "$directory/device.pem" "$ocsp" "$directory/device-chain.pem"
  printf '%s\n' "$said" | sed 's/^/    /'
}

step "OCSP says what it is worth: $ocsp"
expect_status good

step "Revoked, and asked again"
show "$hallmark" --config "$config" cert revoke "$serial" --reason superseded
revoked_at=$(date +%s%N)
expect_status revoked
printf '  revoked at %s, %d ms after the command\n' "$ocsp" "$((($(date +%s%N) - revoked_at) / 1000000))"

# The issuer's CRL as text, fetched from where certificates say; its signature is verified.
fetch_crl() {
  curl --silent --show-error --fail --max-time 10 --output "$directory/device-1.crl" "$public/crl/device-1.crl" &&
    openssl crl -inform DER -in "$directory/device-1.crl" -CAfile "$directory/device-chain.pem" -noout -text 2>&1
}
step "The CRL lists it: $public/crl/device-1.crl"
listed=$(until_it_says "Serial Number: ${serial^^}" fetch_crl)
grep -q '^verify OK' <<<"$listed" || { printf '%s\n' "$listed" >&2; exit 1; }
grep -A 3 -e '^verify OK' -e "Serial Number: ${serial^^}" <<<"$listed" | sed 's/^/    /'

# ---- 13, 14: the log ------------------------------------------------------------------------------------------

step "The signing log accounts for it"
show "$hallmark" --config "$config" cert show "$serial"
show "$hallmark" --config "$config" cert list --order demo

step "An auditor verifies the log, with no key and no network"
# What is durable is published within 200 ms: wait until a head covers all of it.
durable=$("$hallmark" --config "$config" status --json | sed -n 's/.*"size": *\([0-9]*\).*/\1/p' | head -n 1)
for ((tries = 0; ; tries++)); do
  [ "$(sed -n 2p "$directory/public/log/checkpoint")" -ge "$durable" ] && break
  [ "$tries" -lt 100 ] || { echo "the log's entries up to $durable are not published after 10 s" >&2; exit 1; }
  sleep 0.1
done
show "$programs/hallmark-audit" verify --published "$directory/public" --details "$directory/private" \
  --log-key "$directory/state/log.vkey"

succeeded=yes
if [ "$keep" = yes ]; then
  {
    printf 'HALLMARK_API=%q\n' "$api"
    printf 'HALLMARK_PUBLIC=%q\n' "$public"
    printf 'HALLMARK_OCSP=%q\n' "$ocsp"
    printf 'HALLMARK_SOCKET=%q\n' "$run/admin.sock"
    printf 'HALLMARK_CONFIG=%q\n' "$config"
    printf 'HALLMARK_OCSP_CONFIG=%q\n' "$ocsp_config"
    printf 'HALLMARK_ROOT=%q\n' "$directory/device-root.pem"
    printf 'HALLMARK_CHAIN=%q\n' "$directory/device-chain.pem"
    printf 'HALLMARK_LINE_CERT=%q\n' "$directory/line.pem"
    printf 'HALLMARK_LINE_KEY=%q\n' "$directory/line.key"
    printf 'HALLMARK_SERVER_CA=%q\n' "$directory/server-ca.pem"
    printf 'HALLMARK_PUBLISHED=%q\n' "$directory/public"
    printf 'HALLMARK_DETAILS=%q\n' "$directory/private"
    printf 'HALLMARK_LOG_KEY=%q\n' "$directory/state/log.vkey"
    printf 'HALLMARK_BIN=%q\n' "$programs"
    printf 'HALLMARK_PIDS=%q\n' "$pid $ocsp_pid"
    # The token host finds the token by it, whoever starts it.
    printf 'export SOFTHSM2_CONF=%q\n' "$SOFTHSM2_CONF"
  } >"$directory/env"
  printf '\nBoth run on. Where everything is:  . %q/env\nTo end them:  softhsm/quickstart.sh --stop %q\n' \
    "$directory" "$directory"
  print_start "$directory"
else
  stop_process "$ocsp_pid" "$ocsp_config"
  ocsp_pid=''
  stop_process "$pid" "$config"
  pid=''
  printf '\nStopped. The files are in %s.\n' "$directory"
fi
printf 'All of it took %d s after the build.\n' "$((SECONDS - built_at))"
