# What Debian packages well enough for us: etcd, PostgreSQL, runc, the network tools, the image builder.
packages=(
  buildah ca-certificates conntrack containernetworking-plugins curl etcd-server g++ iproute2 iptables jq kcat libssl-dev make mmdebstrap mount pkg-config
  postgresql postgresql-client procps prometheus runc util-linux zlib1g-dev
)

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || { say "all packages are there"; exit; }
[ "$(id -u)" = 0 ] || fail "packages are missing; as root: apt-get install --no-install-recommends ${missing[*]}"

# Only the programs are wanted: no default database cluster, no etcd service that takes the usual port.
mkdir -p /etc/postgresql-common/createcluster.d "$cache"
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/analytics-pipeline.conf
exec {lock}>"$cache/.debian.lock"
flock "$lock"
if [ ! -e /usr/sbin/policy-rc.d ]; then
  # `fail` ends a part by exit, and a failed installation must not leave services disabled either.
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod +x /usr/sbin/policy-rc.d
fi

export DEBIAN_FRONTEND=noninteractive
say "installing ${missing[*]}"
options=(--yes --no-install-recommends -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
run_with_progress "$cache/debian.log" apt-get "${options[@]}" update
run_with_progress "$cache/debian.log" apt-get "${options[@]}" install "${missing[@]}"
say "installed in $((SECONDS - started)) s"
