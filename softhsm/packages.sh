# shellcheck shell=bash
# Installs Debian packages that are missing; sourced by the quickstart and by the tests.
#
#   need_program PROGRAM PACKAGE    need_file FILE PACKAGE    need_package PACKAGE    install_needed

needed_packages=()

# The package, if the program is not there.
need_program() {
  command -v "$1" >/dev/null 2>&1 || needed_packages+=("$2")
}

# The package, if the file is not there.
need_file() {
  [ -e "$1" ] || needed_packages+=("$2")
}

# The package, come what may.
need_package() {
  needed_packages+=("$1")
}

# Installs what was asked for, through apt-get; a failure stops the caller.
install_needed() {
  [ "${#needed_packages[@]}" -gt 0 ] || return 0
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
      echo "these Debian packages are missing and only root can install them: ${needed_packages[*]}" >&2
      return 1
    }
    as_root=(sudo)
  fi
  command -v apt-get >/dev/null 2>&1 || {
    echo "this is not a Debian system; install these, or what is like them: ${needed_packages[*]}" >&2
    return 1
  }
  echo "installing ${needed_packages[*]}"
  # apt's output is shown only when it fails.
  local output
  output=$({ "${as_root[@]}" apt-get update && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends "${needed_packages[@]}"; } 2>&1) || {
    printf '%s\n' "$output" >&2
    return 1
  }
  needed_packages=()
}
