# Prometheus Operator as an image, with its CustomResourceDefinitions.
build() {
  local module=github.com/prometheus-operator/prometheus-operator
  check_go_version prometheus-operator "$module" "$prometheus_operator"
  cd "$here/prometheus-operator"
  CGO_ENABLED=0 GOFLAGS=-mod=readonly run_with_progress "$1/build.log" \
    go build -v -trimpath -buildvcs=false -o "$1/bin/" \
    -ldflags "-s -w -X github.com/prometheus/common/version.Version=$prometheus_operator" \
    "$module/cmd/operator" "$module/cmd/prometheus-config-reloader"
  # The operator looks for the reloader in /bin of the image.
  mv "$1/bin/operator" "$1/bin/prometheus-operator"
  program_image "$1/bin" prometheus-operator "$prometheus_operator" "$1/operator.tar"
  rm -r "$1/bin"
  cp -r --no-preserve=mode "$(go list -m -f '{{.Dir}}' "$module")/example/prometheus-operator-crd" "$1/crds"
}
cached prometheus_operator "$prometheus_operator" build
