# The image every pod starts with, as a docker archive: one layer with one static program.
build() {
  local work=$1/work digest
  mkdir "$work"
  gcc -static -Os -s -o "$work/pause" "$here/pause/pause.c"
  tar --create --file "$work/layer.tar" --directory "$work" --owner 0 --group 0 --mtime @0 pause
  digest=$(sha256sum <"$work/layer.tar" | cut -d ' ' -f 1)
  printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":["/pause"],"User":"65535:65535"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(go env GOARCH)" "$digest" >"$work/config.json"
  printf '[{"Config":"config.json","RepoTags":["analyticspipeline.dev/pause:%s"],"Layers":["layer.tar"]}]' "$pause" >"$work/manifest.json"
  tar --create --file "$1/pause.tar" --directory "$work" manifest.json config.json layer.tar
  rm -r "$work"
}
cached pause "$pause" build
