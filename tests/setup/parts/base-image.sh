# The base of our test image: the same Debian as this machine, since the binaries in it are linked against this
# machine's C library, cut to what the distroless base of the Dockerfile has.
build() {
  local codename
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  run_with_progress "$1/build.log" mmdebstrap --variant=extract \
    --include=libc6,libgcc-s1,libssl3,zlib1g,ca-certificates,tzdata "$codename" "$1/layer.tar"
  docker_archive "$1/layer.tar" "analyticspipeline.dev/base:$base_image" '{"Env":["PATH=/usr/local/bin:/usr/bin"]}' "$1/base.tar"
}
cached base_image "$base_image" build
