#!/usr/bin/env bash
# Puts what the binaries say about their metrics into docs/metrics.md, each between its two markers.
#
#   tests/metrics-reference.sh <folder of the binaries>
set -euo pipefail
binaries=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

page=docs/metrics.md
new=$(mktemp)
trap 'rm -f "$new"' EXIT
for part in consumer controller; do
  {
    sed "/^<!-- begin $part -->\$/q" "$page"
    "$binaries/analytics-$part" metrics-reference
    sed -n "/^<!-- end $part -->\$/,\$p" "$page"
  } >"$new"
  cat "$new" >"$page"
done
