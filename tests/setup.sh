# Read by tests/run, samples/run and .ci/run: what must be on the machine, and how a build directory is made.
# shellcheck shell=sh
#
#   THOLE_BUILD   the build directory (default: below build/)
#   THOLE_SETUP   more arguments for meson setup, the first time
#   CC, CXX       the compiler, the first time

root=$(cd "$(dirname "$0")/.." && pwd)

# dpkg-dev: else Meson installs into lib64, where Debian looks for nothing.
build_packages="meson ninja-build g++ dpkg-dev pkg-config python3 libmimalloc-dev libmsgsl-dev libexpected-dev"
sample_packages="librange-v3-dev libcli11-dev libfmt-dev nlohmann-json3-dev libxxhash-dev liburing-dev"
mpi_packages="libopenmpi-dev openmpi-bin" # for the main job over ranks; without them it is left out
test_packages="doctest-dev libbenchmark-dev cmake spin gdb doxygen libdlpack-dev python3-numpy"

# Installs with apt-get those of the packages that are missing, if any is.
install_packages() {
  missing=
  command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || return 0 # not a Debian: meson says what it lacks
  for package; do
    test "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed || missing="$missing $package"
  done
  test -n "$missing" || return 0
  echo "Installing$missing"
  as_root=
  if test "$(id -u)" -ne 0; then
    if ! command -v sudo >/dev/null; then
      echo "These packages are missing, and this is neither root nor is there sudo:$missing" >&2
      return 1
    fi
    as_root=sudo
  fi
  # shellcheck disable=SC2086 # a list of words
  $as_root apt-get update -qq &&
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# configure DIRECTORY ARGUMENTS...: makes the build directory unless it is one already.
configure() {
  directory=$1
  shift
  test -e "$directory/build.ninja" && return 0
  # shellcheck disable=SC2086
  meson setup "$directory" "$root" "$@" ${THOLE_SETUP-}
}
