#!/usr/bin/env bash
# Prepares what the test bed runs: Debian packages, and a cache of programs made from package registries.
# Safe to run again and several times at once; what is there already takes no time.
#
#   tests/setup/setup.sh               every part
#   tests/setup/setup.sh kafka debian  only these
#   tests/setup/setup.sh --list        names the parts
#
# A part is one file in parts/, run as a bash script of its own after lib.sh and versions.env.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# Cheap ones first, so that a broken machine shows early; Kubernetes takes longest by far.
all=(debian pause kafka base-image kube-score containerd collector helm cargo-deny prometheus-operator prometheus kubernetes)

[ "${1:-}" != --list ] || { printf '%s\n' "${all[@]}"; exit; }
for part in "${@:-${all[@]}}"; do
  [ -f "$here/parts/$part.sh" ] || { echo "no such part: $part (there are: ${all[*]})" >&2; exit 2; }
done

for part in "${@:-${all[@]}}"; do
  # A process of its own per part: none sees the variables, traps and working directory of another.
  here="$here" part="$part" bash -euo pipefail -c '
    . "$here/versions.env"
    . "$here/lib.sh"
    . "$here/parts/$part.sh"'
done
