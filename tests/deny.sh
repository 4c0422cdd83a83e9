#!/usr/bin/env bash
# Runs cargo-deny with deny.toml. A missing cargo-deny is compiled once into the project's cache folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=0.20.2
deny=(cargo deny)
if ! cargo deny --version >/dev/null 2>&1; then
  root="${XDG_CACHE_HOME:-$HOME/.cache}/analytics-pipeline/cargo-deny-$version"
  [ -x "$root/bin/cargo-deny" ] || cargo install --locked --version "$version" --root "$root" cargo-deny
  deny=("$root/bin/cargo-deny")
fi

"${deny[@]}" check bans licenses sources

# The advisories are a Git repository, which not every network reaches; only that may be skipped, and loudly.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if "${deny[@]}" check advisories >"$log" 2>&1; then
  cat "$log"
elif grep -q 'failed to fetch advisory database' "$log"; then
  echo "advisories NOT checked: the RustSec database is out of reach" >&2
else
  cat "$log"
  exit 1
fi
