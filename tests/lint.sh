#!/usr/bin/env bash
# Has pkilint judge every certificate that the tests left in a directory; an error is a failure.
#
# CRLs are judged by OpenSSL in the tests: pkilint cannot read an OID with an arc of more than 32 bits, such as that of
# the log's anchor in them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

directory=${1:?usage: tests/lint.sh DIRECTORY}
environment=${CARGO_TARGET_DIR:-$PWD/target}/pkilint
if ! [ -x "$environment/bin/lint_pkix_cert" ]; then
  python3 -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check 'pkilint==0.13.3'
fi

# Every kind must have been made: a kind that the tests stop making is not one without faults.
for kind in device-root device-1 access-root access line server idevid mqtt-device-{p256,p384,rsa-2048,rsa-3072,ed25519}; do
  [ -s "$directory/$kind.cer" ] || { echo "no test left $directory/$kind.cer to lint" >&2; exit 1; }
done

# Findings that are pkilint's own fault, each with its reason:
# - It takes URLs with a host name for the only URIs. RFC 5280, 4.2.1.6, wants an RFC 3986 URI with a scheme and a
#   scheme-specific part, and a URN (RFC 8141) is one.
excused='pkix.invalid_uri_syntax (ERROR): Invalid URI syntax: "urn:'

faults=0
for file in "$directory"/*.cer; do
  # The exit code is the number of findings; one without findings is a failure of the tool.
  code=0
  findings=$("$environment/bin/lint_pkix_cert" lint -s ERROR "$file" 2>&1) || code=$?
  found=$(grep -cE '\((ERROR|FATAL)\)' <<<"$findings" || true)
  excusable=$(grep -cF "$excused" <<<"$findings" || true)
  if [ "$code" -eq "$found" ] && [ "$found" -eq "$excusable" ]; then
    printf 'pkilint: %s: no errors\n' "$(basename "$file")"
  else
    printf 'pkilint: %s:\n%s\n' "$(basename "$file")" "$findings"
    faults=$((faults + 1))
  fi
done
[ "$faults" -eq 0 ] || exit 1
