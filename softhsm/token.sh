# shellcheck shell=bash
# A private SoftHSM token in a directory of its own; sourced by the quickstart, the tests and the benchmark.
#
#   make_token DIR LABEL     makes DIR/softhsm2.conf, DIR/tokens, DIR/pin and DIR/so-pin, prints the serial number
#
# The PINs are random, never in a command line, and in files that only this user reads.

# Where Debian puts the module.
softhsm_module=/usr/lib/softhsm/libsofthsm2.so
export softhsm_module

# 32 random hexadecimal digits.
random_pin() {
  od -An -N16 -tx1 /dev/urandom | tr -d ' \n'
}

make_token() {
  local directory=$1 label=$2 so_pin pin
  mkdir -p "$directory/tokens"
  cat >"$directory/softhsm2.conf" <<TEXT
directories.tokendir = $directory/tokens
objectstore.backend = file
log.level = ERROR
slots.removable = false
TEXT
  so_pin=$(random_pin)
  pin=$(random_pin)
  (umask 077 && printf '%s\n' "$so_pin" >"$directory/so-pin" && printf '%s\n' "$pin" >"$directory/pin")
  # pkcs11-tool reads the PINs from these two variables of its own environment: softhsm2-util would want them
  # in its arguments, which everyone on the machine can list, or typed at a terminal.
  SOFTHSM2_CONF=$directory/softhsm2.conf SO_PIN=$so_pin PIN=$pin bash -euc '
    pkcs11-tool --module "$0" --slot-index 0 --init-token --label "$1" --so-pin env:SO_PIN
    pkcs11-tool --module "$0" --token-label "$1" --login --login-type so --so-pin env:SO_PIN \
      --init-pin --new-pin env:PIN
  ' "$softhsm_module" "$label" >"$directory/token.log" 2>&1 || {
    cat "$directory/token.log" >&2
    return 1
  }
  SOFTHSM2_CONF=$directory/softhsm2.conf pkcs11-tool --module "$softhsm_module" --list-slots 2>/dev/null |
    awk -v label="$label" '
      $1 == "token" && $2 == "label" { found = ($4 == label) }
      found && $1 == "serial" { print $4; exit }'
}
