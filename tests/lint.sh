#!/usr/bin/env bash
# Has pkilint judge every certificate, CRL and OCSP response that the tests left in a directory; an error is a failure.
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
for kind in "${kinds[@]}" device-root device-1 access-root access line responder-client server idevid mqtt-device-{p256,p384,rsa-2048,rsa-3072,ed25519}; do
  [ -s "$directory/$kind.cer" ] || { echo "no test left $directory/$kind.cer to lint" >&2; exit 1; }
done

# OCSP responses that hold good, revoked and unknown: by each kind of key and algorithm, by name and by key, and for each
# hash; and the error statuses.
kinds=(p256-{0,1,2} p384-{0,1} rsa-{0,1,2,3,4,5} rsa-p256-0 ed25519-0 hash-sha{1,256,384,512}-{nonce,no_nonce})
kinds+=(error-{malformedrequest,internalerror,trylater,sigrequired,unauthorized})
# By a running responder, which answers for issuers with P-256, P-384 and RSA keys and is named in either way: of each
# state that a certificate can be in, without and with a nonce (SHA-256), and of all of them at once.
states=(good outside unresolved on-hold released final unspecified key-compromise ca-compromise affiliation-changed
  superseded cessation-of-operation privilege-withdrawn aa-compromise)
for issuer in device-{1,2,3}; do
  for by in by-key by-name; do
    for state in "${states[@]}"; do
      kinds+=("$issuer-$state-$by-sha"{1,256})
    done
    kinds+=("$issuer-$by-all-sha"{1,256,384,512})
  done
done
kinds+=({access,device-root}-by-{key,name}-unauthorized)
for kind in "${kinds[@]}"; do
  [ -s "$directory/$kind.ocsp" ] || { echo "no test left $directory/$kind.ocsp to lint" >&2; exit 1; }
done

# CRLs of a root, of the access issuer, of a device issuer with and without entries, and of partitions; and as a
# responder serves them, with entries of every reason, by each kind of key.
kinds=(device-root access-root access device-1 device-1-{revoked,partition-1,partition-2})
kinds+=(served-{device-root,access,device-{1,2,2-1,2-2,3}})
for kind in "${kinds[@]}"; do
  [ -s "$directory/$kind.crl" ] || { echo "no test left $directory/$kind.crl to lint" >&2; exit 1; }
done

# What is no DER at all must be found, or the rest says nothing.
broken=$(mktemp -d)
trap 'rm -rf "$broken"' EXIT
for end in cer crl ocsp; do
  printf 'not DER' >"$broken/broken.$end"
  if "$environment/bin/python" tests/lint.py "$broken/broken.$end" >/dev/null; then
    echo "pkilint finds nothing wrong with a file that is no .$end" >&2
    exit 1
  fi
done

"$environment/bin/python" tests/lint.py "$directory"/*.{cer,crl,ocsp}
