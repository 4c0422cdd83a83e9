# The Prometheus that the operator runs, as an image. Debian's is compiled without the discovery of Kubernetes.
# It comes from the operator's go.mod, so that they share the clients of Kubernetes, which take most of the time.
module=github.com/prometheus/prometheus

# A copy that discovers by Kubernetes alone: the clients of all the clouds would take minutes more.
slim_copy() {
  go mod download "$module"
  cp -r --no-preserve=mode "$(go list -m -f '{{.Dir}}' "$module")" "$1"
  printf 'package plugins\n\nimport _ "%s/discovery/kubernetes"\n' "$module" >"$1/plugins/plugins.go"
  # In the client that the operator asks for, this function takes a context first.
  sed -i 's/DefaultWatchErrorHandler(r, /DefaultWatchErrorHandler(context.Background(), r, /' "$1/discovery/kubernetes/kubernetes.go"
}

build() {
  # The module of Prometheus 3.5.0 is numbered 0.305.0.
  local minor patch
  IFS=. read -r _ minor patch <<<"$prometheus"
  check_go_version prometheus-operator "$module" "$(printf '0.3%02d.%d' "$minor" "$patch")"
  cp -r "$here/prometheus-operator" "$1/work"
  cd "$1/work"
  slim_copy source
  go mod edit -replace "$module=./source"
  CGO_ENABLED=0 GOFLAGS=-mod=readonly run_with_progress "$1/build.log" \
    go build -v -trimpath -buildvcs=false -o "$1/bin/" \
    -ldflags "-s -w -X github.com/prometheus/common/version.Version=$prometheus" "$module/cmd/prometheus"
  cd "$1"
  program_image "$1/bin" prometheus "$prometheus" "$1/prometheus.tar"
  rm -r "$1/bin" "$1/work"
}
cached prometheus "$prometheus" build
