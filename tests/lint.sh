#!/usr/bin/env bash
# Has pkilint judge every certificate and CRL that the tests left in a directory; an error is a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

directory=${1:?usage: tests/lint.sh DIRECTORY}
environment=${CARGO_TARGET_DIR:-$PWD/target}/pkilint
if ! [ -x "$environment/bin/lint_pkix_cert" ]; then
  python3 -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check 'pkilint==0.13.3'
fi

# Every kind must have been made: a kind that the tests stop making is not one without faults.
kinds=(device-root.cer device.cer access-root.cer access.cer mqtt-device.cer line.cer server.cer device.crl)
for kind in "${kinds[@]}"; do
  [ -s "$directory/$kind" ] || { echo "no test left $directory/$kind to lint" >&2; exit 1; }
done

faults=0
for file in "$directory"/*.cer "$directory"/*.crl; do
  case "$file" in
    *.cer) command=("$environment/bin/lint_pkix_cert" lint -s ERROR "$file") ;;
    *.crl) command=("$environment/bin/lint_crl" lint -t CRL -p PKIX -s ERROR "$file") ;;
  esac
  if output=$("${command[@]}" 2>&1); then
    printf 'pkilint: %s: no errors\n' "$(basename "$file")"
  else
    printf 'pkilint: %s:\n%s\n' "$(basename "$file")" "$output"
    faults=$((faults + 1))
  fi
done
[ "$faults" -eq 0 ] || exit 1
