# Helm, for the tests of the chart and for rendering manifests/install. Without the version of Kubernetes it would
# render for the oldest that it knows, and the chart asks for a newer one.
build() {
  check_go_version helm helm.sh/helm/v3 "$helm"
  local chart=helm.sh/helm/v3/pkg/chartutil lint=helm.sh/helm/v3/pkg/lint/rules minor
  minor=$(cut -d . -f 2 <<<"$kubernetes")
  go_tools helm "$1" -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=v$helm \
    -X $chart.k8sVersionMajor=1 -X $chart.k8sVersionMinor=$minor -X $lint.k8sVersionMajor=1 -X $lint.k8sVersionMinor=$minor"
}
cached helm "$helm" build
