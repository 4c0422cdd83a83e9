#!/usr/bin/env bash
# Runs cargo-deny with deny.toml; the set-up compiles it once into the cache.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests/setup/setup.sh cargo-deny
. tests/setup/versions.env
deny="${XDG_CACHE_HOME:-$HOME/.cache}/analytics-pipeline/cargo_deny-$cargo_deny/bin/cargo-deny"

"$deny" check bans licenses sources

# The advisories are a Git repository, which not every network reaches; only that may be skipped, and loudly.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if "$deny" check advisories >"$log" 2>&1; then
  cat "$log"
elif grep -q 'failed to fetch advisory database' "$log"; then
  echo "advisories NOT checked: the RustSec database is out of reach" >&2
else
  cat "$log"
  exit 1
fi
