# Kubernetes' own programs, compiled from its Go module: about six minutes on two cores.
build() {
  check_go_version kubernetes k8s.io/kubernetes "$kubernetes"
  local version=k8s.io/component-base/version IFS=.
  # shellcheck disable=SC2086 # split at the dots
  set -- "$1" $kubernetes
  IFS=' '
  go_tools kubernetes "$1" -ldflags "-s -w -X $version.gitVersion=v$kubernetes -X $version.gitMajor=$2 -X $version.gitMinor=$3"
}
cached kubernetes "$kubernetes" build
