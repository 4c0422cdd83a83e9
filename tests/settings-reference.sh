#!/usr/bin/env bash
# Puts what the consumer says about its settings into docs/reference/settings.md, between the two markers.
#
#   tests/settings-reference.sh <analytics-consumer>
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

page=docs/reference/settings.md
new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
  sed '/^<!-- begin -->$/q' "$page"
  "$1" settings-reference
  sed -n '/^<!-- end -->$/,$p' "$page"
} >"$new"
cat "$new" >"$page"
