# shellcheck shell=bash disable=SC2034
# Sourced by tools/*: where the project is, how packages are installed, how mpirun is started.
set -euo pipefail
DSV_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Packages of Debian 12 / Ubuntu 24.04 by what they are for.
DSV_BUILD_PACKAGES="g++ cmake ninja-build ccache pkg-config libfmt-dev libspdlog-dev libyaml-cpp-dev
  libcli11-dev nlohmann-json3-dev libopenmpi-dev openmpi-bin libhwy-dev
  libavformat-dev libavcodec-dev libavutil-dev libswscale-dev"
DSV_TEST_PACKAGES="catch2 python3 python3-venv python3-pip iproute2"

# install PACKAGE…: those that are missing, with sudo only when not root.
install() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null || die "these packages are needed: ${missing[*]} (no apt-get here)"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "installing ${missing[*]} needs root or sudo"
    as_root=(sudo)
  fi
  say "Installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Open MPI refuses root and more ranks than cores unless told otherwise; containers often forbid the
# cross-memory attach that its shared-memory transport prefers.
mpi_environment() {
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  export OMPI_MCA_btl_vader_single_copy_mechanism=${OMPI_MCA_btl_vader_single_copy_mechanism:-none}
  export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
  # Ranks pin their own threads (run.threads): mpirun must not confine them to one core first.
  export OMPI_MCA_hwloc_base_binding_policy=${OMPI_MCA_hwloc_base_binding_policy:-none}
}

# build DIR TARGETS -- CMAKE OPTIONS…
build() {
  local dir=$1 targets=$2
  shift 3
  cmake -S "$DSV_ROOT" -B "$dir" -G Ninja -DCMAKE_BUILD_TYPE=Release "$@" >"$dir.configure.log" 2>&1 ||
    { cat "$dir.configure.log"; die "configuring failed"; }
  # shellcheck disable=SC2086
  cmake --build "$dir" --parallel "$(nproc)" --target $targets
}
