# cargo-deny, which looks at the licences, sources and bans of all dependencies. Compiled without optimisation, which takes a
# fraction of the time: it runs for two seconds.
build() {
  cd "$here/../.." || exit
  CARGO_TARGET_DIR="$1/build" CARGO_PROFILE_DEV_DEBUG=0 run_with_progress "$1/build.log" \
    nice cargo install --debug --locked --version "$cargo_deny" --root "$1" cargo-deny
  rm -r "$1/build"
}
cached cargo_deny "$cargo_deny" build
