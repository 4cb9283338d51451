#!/usr/bin/env bash
# Makes a Python environment with paho-mqtt in a directory, unless it is there.
set -euo pipefail

environment=${1:?usage: tests/paho.sh DIRECTORY}
mkdir -p "$(dirname "$environment")"
# Tests run side by side.
exec 9>"$environment.lock"
flock 9
[ -e "$environment/ready" ] && exit 0
rm -rf "$environment"
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --disable-pip-version-check 'paho-mqtt==2.1.0'
touch "$environment/ready"
