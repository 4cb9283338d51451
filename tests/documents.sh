#!/usr/bin/env bash
# Checks the project's own text: links that lead somewhere, no notes to self, no path of one machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

faults=0
fault() {
  printf '%s\n' "$*" >&2
  faults=$((faults + 1))
}

# Everything that is or will be committed, but this file, which names what it looks for.
mapfile -t files < <(git ls-files --cached --others --exclude-standard | grep -vx 'tests/documents.sh' || true)

refuse() {
  local what=$1 pattern=$2 found
  found=$(grep -nIE -- "$pattern" "${files[@]}" 2>/dev/null || true)
  [ -z "$found" ] || fault "$what:"$'\n'"$found"
}

refuse "notes to self" '\b(TODO|FIXME|XXX)\b'
refuse "ignored tests" '#\[ignore'
refuse "unfinished code" '\b(todo|unimplemented)!\('
refuse "paths of one machine" '(^|[^A-Za-z0-9_.$}/-])/(root|home|work|Users)/'

# Relative links in Markdown lead to a file in the tree.
for file in "${files[@]}"; do
  case "$file" in *.md) ;; *) continue ;; esac
  [ -e "$file" ] || continue
  while IFS= read -r target; do
    path=${target%%#*}
    [ -n "$path" ] || continue
    [ -e "$(dirname "$file")/$path" ] || fault "$file: the link to $target leads nowhere"
  done < <(grep -oE '\]\([^)]+\)' "$file" | sed -E 's/^\]\(//; s/\)$//' | grep -vE '^(https?|mailto):' || true)
done

# What every reader looks for.
for file in README.md LICENSE CHANGELOG.md docs/ISSUANCE.md; do
  [ -s "$file" ] || fault "missing: $file"
done

# The changelog says something of the version in Cargo.toml, under its number or under "Unreleased".
version=$(sed -n '/^\[workspace\.package\]/,/^\[[^w]/ s/^version = "\(.*\)"$/\1/p' Cargo.toml)
[ -n "$version" ] || fault "Cargo.toml: no version of the workspace"
entries=$(awk -v version="$version" '
  /^## / { wanted = ($2 == version || $2 == "Unreleased") }
  wanted && /^- ./ { count++ }
  END { print count + 0 }' CHANGELOG.md)
[ "$entries" -gt 0 ] || fault "CHANGELOG.md: nothing under \"## $version\" or \"## Unreleased\""

if [ "$faults" -gt 0 ]; then
  printf '%d faults\n' "$faults" >&2
  exit 1
fi
echo "documents: ${#files[@]} files, no faults"
