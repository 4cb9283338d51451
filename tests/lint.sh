#!/usr/bin/env bash
# Has pkilint judge every certificate, CRL and OCSP response that the tests left in a directory; an error is a failure.
#
# CRLs go through tests/lint-crl.py: pkilint's own decoder cannot read an OID with an arc of more than 32 bits, such as
# that of the log's anchor in them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

directory=${1:?usage: tests/lint.sh DIRECTORY}
environment=${CARGO_TARGET_DIR:-$PWD/target}/pkilint
if ! [ -x "$environment/bin/lint_pkix_cert" ]; then
  python3 -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check 'pkilint==0.13.3'
fi

# Every kind must have been made: a kind that the tests stop making is not one without faults. Each built-in profile is
# one, with every kind of key that all of them take; the others were issued by a running appliance.
kinds=()
for profile in profiles/*.toml; do
  kinds+=("profile-$(basename "$profile" .toml)-"{p256,p384,rsa2048,rsa3072})
done
for kind in "${kinds[@]}" device-root device-1 access-root access line server idevid mqtt-device-{p256,p384,rsa-2048,rsa-3072,ed25519}; do
  [ -s "$directory/$kind.cer" ] || { echo "no test left $directory/$kind.cer to lint" >&2; exit 1; }
done
# OCSP responses hold good, revoked and unknown; by each kind of key and algorithm, by name and by key, and for each hash.
kinds=(p256-{0,1,2} p384-{0,1} rsa-{0,1,2,3,4,5} rsa-p256-0 ed25519-0 hash-sha{1,256,384,512}-{nonce,no_nonce})
for kind in "${kinds[@]}"; do
  [ -s "$directory/$kind.ocsp" ] || { echo "no test left $directory/$kind.ocsp to lint" >&2; exit 1; }
done

# Of a root, of the access issuer, of a device issuer with and without entries, and of partitions.
for kind in device-root access-root access device-1 device-1-{revoked,partition-1,partition-2}; do
  [ -s "$directory/$kind.crl" ] || { echo "no test left $directory/$kind.crl to lint" >&2; exit 1; }
done

faults=0
for file in "$directory"/*.{cer,crl,ocsp}; do
  case $file in
    *.cer) lint=("$environment/bin/lint_pkix_cert" lint) ;;
    *.crl) lint=("$environment/bin/python" tests/lint-crl.py lint -t CRL -p PKIX) ;;
    *.ocsp) lint=("$environment/bin/lint_ocsp_response" lint) ;;
  esac
  # The exit code is the number of findings; one without findings is a failure of the tool, and no less a fault.
  code=0
  findings=$("${lint[@]}" -s ERROR "$file" 2>&1) || code=$?
  if [ "$code" -eq 0 ] && ! grep -qE '\((ERROR|FATAL)\)' <<<"$findings"; then
    printf 'pkilint: %s: no errors\n' "$(basename "$file")"
  else
    printf 'pkilint: %s:\n%s\n' "$(basename "$file")" "$findings"
    faults=$((faults + 1))
  fi
done
[ "$faults" -eq 0 ] || exit 1
