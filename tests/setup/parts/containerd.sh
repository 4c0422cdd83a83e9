# The container runtime and its shim; runc comes from Debian.
build() {
  check_go_version containerd github.com/containerd/containerd/v2 "$containerd"
  go_tools containerd "$1" -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=v$containerd"
}
cached containerd "$containerd" build
