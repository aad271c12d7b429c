# SPDX-License-Identifier: Apache-2.0
#
# What `demo` and `test` share: installing what is missing, and saying what to do where that cannot be done.

tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

note() { printf '== %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 2; }

build_packages='g++ meson ninja-build pkg-config libfmt-dev liburing-dev libxen-dev libcap-ng-dev libseccomp-dev
  zlib1g-dev libzstd-dev libcli11-dev nlohmann-json3-dev libtomlplusplus-dev libsystemd-dev libsqlite3-dev libcurl4-openssl-dev
  libnl-3-dev libnl-route-3-dev libdpdk-dev libnbd-dev'
guest_packages='nbdkit nbdkit-plugin-dev libnbd-bin fio e2fsprogs mount util-linux fdisk iproute2 iputils-ping iperf3'

missing_packages() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s ' "$package"
  done
}

# need_packages [-t SUITE] PACKAGE...: installs those that are missing.
need_packages() {
  local suite=() missing
  if [ "$1" = -t ]; then
    suite=(-t "$2")
    shift 2
  fi
  missing=$(missing_packages "$@")
  [ -n "$missing" ] || return 0
  # shellcheck disable=SC2086
  [ "$(id -u)" = 0 ] || die "missing on this machine; as root: apt-get install ${suite[*]} $missing"
  note "installing $missing"
  # shellcheck disable=SC2086
  { apt_get install "${suite[@]}" $missing || { apt_get update && apt_get install "${suite[@]}" $missing; }; } ||
    die "packages cannot be installed; see what this says: apt-get install ${suite[*]} $missing"
}

apt_get() {
  local verb=$1
  shift
  if [ "$verb" = install ]; then set -- -y --no-install-recommends "$@"; fi
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$verb" "$@" </dev/null >/dev/null
}

# need_backports PACKAGE: from the backports of Debian 12, which are switched on if need be; of a later release as it is.
need_backports() {
  local package=$1 release uri
  [ -n "$(missing_packages "$package")" ] || return 0
  # shellcheck disable=SC1091
  release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  if [ "$release" != bookworm ]; then
    need_packages "$package"
    return
  fi
  if ! apt-get indextargets --format '$(RELEASE)' 2>/dev/null | grep -qx bookworm-backports; then
    # From the mirror that this machine uses for Debian itself.
    uri=$(apt-get indextargets --format '$(LABEL)|$(RELEASE)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
      sed -n 's/^Debian|bookworm|//p' | head -n 1)
    [ -n "$uri" ] || die "no Debian mirror in the package sources; add one with bookworm-backports to /etc/apt/sources.list.d"
    [ "$(id -u)" = 0 ] || die "bookworm-backports is not in the package sources; run this as root once, it adds them"
    note "adding bookworm-backports to the package sources"
    printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nSigned-By: %s\n' "$uri" \
      /usr/share/keyrings/debian-archive-keyring.gpg >/etc/apt/sources.list.d/ringback-backports.sources
    apt_get update || die "the package lists cannot be fetched; see what this says: apt-get update"
  fi
  need_packages -t bookworm-backports "$package"
}
