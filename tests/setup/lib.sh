# Shared by setup.sh and its parts. Sourced, never run.

cache="${XDG_CACHE_HOME:-$HOME/.cache}/analytics-pipeline"
started=$SECONDS

say() { printf '%-12s %s\n' "$part" "$*"; }

fail() {
  say "$@" >&2
  exit 1
}

# run_with_progress <log> <command…>: the output goes to the log; every three seconds one line says how
# long it runs and what it last said. On failure the end of the log is shown.
run_with_progress() (
  log=$1 began=$SECONDS
  shift
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  while sleep 3 >/dev/null; do
    say "$((SECONDS - began)) s: $(tail -n 1 "$log" | sed 's,\x1b\[[0-9;]*m,,g' | tr -d '\r' | cut -c 1-80)"
  done &
  # A cancelled set-up must not leave a compiler behind that nobody waits for.
  trap 'kill "$pid" $! 2>/dev/null || true' EXIT
  wait "$pid" || { tail -n 30 "$log" >&2; fail "failed: $* (whole log: $log)"; }
)

# cached <folder name> <version> <function>: calls the function with an empty folder to fill, unless the cache
# has that version. The folder takes its final name only when complete, so that a killed set-up leaves no
# half-made part, and the lock makes a second set-up wait for the first instead of building beside it.
cached() {
  local target="$cache/$1-$2" began=$SECONDS
  [ -d "$target" ] && { say "in the cache"; return; }
  mkdir -p "$cache"
  exec {lock}>"$cache/.$1-$2.lock"
  flock --nonblock "$lock" || { say "another set-up is making it, waiting"; flock "$lock"; }
  if [ ! -d "$target" ]; then
    rm -rf "$target.partial"
    mkdir "$target.partial"
    say "making $2"
    "$3" "$target.partial"
    mv "$target.partial" "$target"
    say "made in $((SECONDS - began)) s"
  fi
  exec {lock}>&-
}

# go_tools <module folder> <target> <go build flags…>: builds every tool that the folder's go.mod names.
go_tools() {
  local module="$here/$1" target=$2
  shift 2
  cd "$module" || exit
  CGO_ENABLED=0 GOFLAGS=-mod=readonly run_with_progress "$target/build.log" \
    go build -v -trimpath -buildvcs=false -o "$target/" "$@" tool
}

# The versions stand in versions.env and, for Go, in go.mod too: they must not drift apart.
check_go_version() {
  grep -q "^require $2 v$3\$" "$here/$1/go.mod" || fail "tests/setup/$1/go.mod does not require $2 v$3 as versions.env says"
}

# docker_archive <layer.tar> <image name> <config as JSON object> <archive>: an image of one layer, without an engine.
docker_archive() {
  local work digest
  work=$(mktemp --directory --tmpdir="$(dirname "$4")")
  mv "$1" "$work/layer.tar"
  digest=$(sha256sum <"$work/layer.tar" | cut -d ' ' -f 1)
  printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(dpkg --print-architecture)" "$3" "$digest" >"$work/config.json"
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$2" >"$work/manifest.json"
  tar --create --file "$4" --directory "$work" manifest.json config.json layer.tar
  rm -r "$work"
}

# program_image <folder> <name> <version> <archive>: an image whose /bin is the folder, and which runs the program of its name.
program_image() {
  tar --create --file "$1.layer" --directory "$1" --owner 0 --group 0 --transform 's,^\.,bin,' .
  docker_archive "$1.layer" "analyticspipeline.dev/$2:$3" "{\"Entrypoint\":[\"/bin/$2\"],\"User\":\"65534:65534\"}" "$4"
}
