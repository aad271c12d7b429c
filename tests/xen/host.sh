# SPDX-License-Identifier: Apache-2.0
#
# What `bed` and `chroot` share on the host: the table of releases, the cache, and the two
# trees made with debootstrap (a bare one per release, and what is installed on top of it).
#
# Everything in the cache is named by a hash of the recipe that made it, is built under a
# temporary name and renamed when complete, and may be deleted at any time.

bed_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${RINGBACK_CACHE:-/var/cache/ringback}

note() { printf 'bed: %s\n' "$*" >&2; }
die() { printf 'bed: %s\n' "$*" >&2; exit 2; }

# The packages that differ between releases; all else has the same name on both.
select_release() {
  release=$1
  case $release in
    13) suite=trixie xen_version=4.20 runtime_libraries='libspdlog1.15 libfmt10 libtomlplusplus3t64 libcurl4t64
      librte-eal25 librte-hash25 librte-mbuf25 librte-meter25 librte-mempool-ring25' ;;
    12) suite=bookworm xen_version=4.17 runtime_libraries='libspdlog1.10 libfmt9 libtomlplusplus3 libcurl4
      librte-eal23 librte-hash23 librte-mbuf23 librte-meter23 librte-mempool-ring23' ;;
    *) die "unknown Debian release '$release'; 13 and 12 are known" ;;
  esac
}

# require COMMAND:PACKAGE...: installs what is missing.
require() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || [ -e "${pair%%:*}" ] || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "missing on this machine; as root: apt-get install ${missing[*]}"
  note "installing ${missing[*]}"
  { apt-get install -y -qq --no-install-recommends "${missing[@]}" ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; }
  } >&2 </dev/null || die "apt-get install ${missing[*]} failed"
}

# The mirror this machine's own apt uses for Debian.
mirror() {
  local uri
  uri=$(apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    sed -n 's/^Debian|//p' | head -n 1)
  [ -n "$uri" ] || die "no Debian mirror in this machine's package sources"
  printf '%s\n' "$uri"
}

# recipe_key FILE...: names the outcome of the recipes in these files.
recipe_key() { (cd "$bed_dir" && sha256sum "$@") | sha256sum | cut -c1-12; }

# cached NAME BUILDER: sets `item` to $cache/NAME, built by `BUILDER TEMPORARY-DIRECTORY` if absent.
# Outcomes of the recipe's other versions (same name up to the last dash) stay for two days after their last
# use: checkouts of different age share the cache.
cached() {
  local name=$1 builder=$2 lock start status
  item=$cache/$name
  if [ -d "$item" ]; then
    touch "$item"
    return
  fi
  mkdir -p "$cache"
  exec {lock}>"$cache/.lock-${name%-*}"
  flock "$lock"
  if [ ! -d "$item" ]; then
    start=$SECONDS
    note "building $name"
    rm -rf --one-file-system "$cache/.new-${name%-*}"
    mkdir -p "$cache/.new-${name%-*}"
    # Not in a condition: there bash would ignore the builder's own set -e.
    (set -e; "$builder" "$cache/.new-${name%-*}") >"$cache/.log-${name%-*}" 2>&1
    status=$?
    [ $status = 0 ] ||
      { tail -n 15 "$cache/.log-${name%-*}" >&2; die "building $name failed, see $cache/.log-${name%-*}"; }
    mv "$cache/.new-${name%-*}" "$item"
    note "built $name in $((SECONDS - start)) s"
    find "$cache" -mindepth 1 -maxdepth 1 -name "${name%-*}-*" -mtime +2 ! -path "$item" -exec rm -rf --one-file-system {} +
  fi
  exec {lock}>&-
}

# in_tree TREE COMMAND...: runs it there as root in namespaces of its own, so that neither a mount nor a
# process outlives it.
in_tree() {
  local tree=$1
  shift
  unshare --mount --pid --fork --kill-child --mount-proc="$tree/proc" \
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    ${http_proxy:+http_proxy="$http_proxy"} chroot "$tree" "$@" </dev/null
}

install_packages() {
  local tree=$1
  shift
  in_tree "$tree" apt-get update -qq
  in_tree "$tree" apt-get install -y -qq --no-install-recommends "$@"
  in_tree "$tree" apt-get clean
}

build_base() {
  debootstrap --variant=minbase "$suite" "$1/tree" "$(mirror)"
  printf 'exit 101\n' | install -m 755 /dev/stdin "$1/tree/usr/sbin/policy-rc.d"
  echo force-unsafe-io >"$1/tree/etc/dpkg/dpkg.cfg.d/unsafe-io"
  cat >"$1/tree/etc/dpkg/dpkg.cfg.d/no-docs" <<'END'
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
END
}

# Sets `base_tree`.
base() {
  require debootstrap:debootstrap
  cached "base-$release-$(printf %s "$(declare -f build_base)" | sha256sum | cut -c1-12)" build_base
  base_tree=$item/tree
}
