# An OpenTelemetry Collector of the fewest parts, compiled from its own modules (see collector/main.go).
build() {
  grep -q "go.opentelemetry.io/collector/otelcol v${collector%-r*}\$" "$here/collector/go.mod" ||
    fail "tests/setup/collector/go.mod does not require the version that versions.env says"
  cd "$here/collector"
  CGO_ENABLED=0 GOFLAGS=-mod=readonly run_with_progress "$1/build.log" \
    go build -v -trimpath -buildvcs=false -ldflags "-s -w" -o "$1/collector" .
}
cached collector "$collector" build
