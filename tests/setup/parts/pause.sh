# The image every pod starts with: one static program.
build() {
  gcc -static -Os -s -o "$1/program" "$here/pause/pause.c"
  tar --create --file "$1/layer.tar" --directory "$1" --owner 0 --group 0 --transform s/program/pause/ program
  docker_archive "$1/layer.tar" "analyticspipeline.dev/pause:$pause" '{"Entrypoint":["/pause"],"User":"65535:65535"}' "$1/pause.tar"
}
cached pause "$pause" build
