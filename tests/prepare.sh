#!/usr/bin/env bash
# Prepares the test bed and compiles the workspace side by side, with a line of progress every few seconds.
#
#   tests/prepare.sh programs   what `make demo` runs
#   tests/prepare.sh bench      what `make bench` runs
#   tests/prepare.sh tests      the lints, the programs and the test executables
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

what=${1:?"say what to prepare: programs, bench or tests"}
logs="${CARGO_TARGET_DIR:-target}/logs"
mkdir -p "$logs"

# What each needs of the test bed; the tests need all of it.
case $what in
  programs) parts=(pause kafka base-image containerd kubernetes) ;;
  bench) parts=(kafka) ;;
  tests) mapfile -t parts < <(tests/setup/setup.sh --list) ;;
  *) echo "cannot prepare '$what': say programs, bench or tests" >&2; exit 2 ;;
esac

# With less memory free than this, the compilers of Go and of Rust take turns.
side_by_side_kib=$((6 * 1024 * 1024))

part=cargo
. tests/setup/lib.sh

compile() {
  local began=$SECONDS
  case $what in
    programs | bench)
      run_with_progress "$logs/build.log" cargo build --release --workspace --bins
      ;;
    tests)
      run_with_progress "$logs/clippy.log" cargo clippy --release --workspace --all-targets -- -D warnings
      run_with_progress "$logs/build.log" cargo build --release --workspace --bins
      run_with_progress "$logs/tests.log" cargo test --release --workspace --no-run
      ;;
  esac
  say "done in $((SECONDS - began)) s"
}

# The C compiler and libraries that cargo's build scripts need come with these.
tests/setup/setup.sh debian

available_kib=$(awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo)
if [ "$available_kib" -lt "$side_by_side_kib" ]; then
  say "less than 6 GiB of memory are free: one after the other"
  tests/setup/setup.sh "${parts[@]}"
  compile
  exit
fi

tests/setup/setup.sh "${parts[@]}" &
setup=$!
# A failed compilation must not leave the other half running unseen.
trap 'kill "$setup" 2>/dev/null || true' EXIT
compile
wait "$setup"
trap - EXIT
