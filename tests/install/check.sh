#!/bin/sh
# Builds and runs a small program outside the tree, as a user of the installed library would.
#   check.sh WAY SOURCE_ROOT BUILD_ROOT PREFIX LIBDIR COMPILER...
# WAY is pkg-config, cmake, meson (with the installed library) or subproject (with the sources). CC: the compiler of C, for a
# second program. Exit status 77: skipped.
set -eu

way=$1 source=$2 build=$3 prefix=$4 libdir=$5
shift 5
compiler="$*"

here=$source/tests/install
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$here/consumer" "$here/consumer_c" "$work"
cd "$work"

needs() {
  command -v "$1" >/dev/null || { echo "$1 is not here: skipped"; exit 77; }
}

install_thole() {
  DESTDIR=$work/installed meson install -C "$build" --no-rebuild --quiet >/dev/null
  root=$work/installed$prefix
  LD_LIBRARY_PATH=$root/$libdir
  PKG_CONFIG_PATH=$root/$libdir/pkgconfig
  PKG_CONFIG_SYSROOT_DIR=$work/installed
  export LD_LIBRARY_PATH PKG_CONFIG_PATH
  for library in "$root/$libdir"/libthole.so; do # gdb looks for this name, in a folder that is named as the library's
    printers=$root/share/gdb/auto-load$prefix/$libdir/$(basename "$(readlink -f "$library")")-gdb.py
    test -f "$printers" || { echo "gdb finds no $printers"; exit 1; }
  done
}

# Makes consumer/every_header.hpp of the headers in a directory, but for those whose library is not here. All that the tree has
# must be there.
include_every_header() {
  for header in "$source"/include/thole/*.h* "$source"/include/thole/detail/*.h*; do
    name=${header#"$source"/include/thole/}
    name=${name%.in}
    test "$way" = subproject || test -e "$1/$name" || { echo "<thole/$name> is not installed"; exit 1; }
    condition=1
    case $name in
    detail/*) continue ;;
    cuda.hpp) condition='__has_include(<cuda_runtime_api.h>)' ;;
    cuda_mr.hpp) condition='__has_include(<cuda/memory_resource>) && __has_include(<cuda/stream_ref>)' ;;
    mpi.hpp) condition='__has_include(<mpi.h>)' ;;
    esac
    printf '#if %s\n#include <thole/%s>\n#endif\n' "$condition" "$name" >>consumer/every_header.hpp
  done
}

case $way in
pkg-config)
  needs pkg-config
  install_thole
  include_every_header "$root/include/thole"
  export PKG_CONFIG_SYSROOT_DIR
  test "$(pkg-config --variable=mimalloc_profile thole)" != ""
  # shellcheck disable=SC2046,SC2086 # both are lists of words
  $compiler -std=c++20 consumer/main.cpp consumer/headers.cpp $(pkg-config --cflags --libs thole) -ldl -o program
  ./program
  # shellcheck disable=SC2046,SC2086
  $CC -std=c99 consumer_c/main.c $(pkg-config --cflags --libs thole) -o program_c
  ./program_c
  ;;
cmake)
  needs cmake
  install_thole
  include_every_header "$root/include/thole"
  # shellcheck disable=SC2086
  CXX=${compiler##* } cmake -G Ninja -S consumer -B out -DCMAKE_PREFIX_PATH="$root" -DCMAKE_BUILD_TYPE=Debug >log 2>&1 ||
    { cat log; exit 1; }
  cmake --build out >log 2>&1 || { cat log; exit 1; }
  out/consumer
  cmake -G Ninja -S consumer_c -B out_c -DCMAKE_PREFIX_PATH="$root" -DCMAKE_BUILD_TYPE=Debug >log 2>&1 ||
    { cat log; exit 1; }
  cmake --build out_c >log 2>&1 || { cat log; exit 1; }
  out_c/consumer
  ;;
meson)
  install_thole
  include_every_header "$root/include/thole"
  export PKG_CONFIG_SYSROOT_DIR
  for consumer in consumer consumer_c; do
    CXX=$compiler meson setup "out_$consumer" "$consumer" --wrap-mode=nofallback >log 2>&1 || { cat log; exit 1; }
    meson compile -C "out_$consumer" >log 2>&1 || { cat log; exit 1; }
    "out_$consumer/consumer"
  done
  ;;
subproject)
  include_every_header "$source/include/thole"
  mkdir consumer/subprojects
  ln -s "$source" consumer/subprojects/thole
  CXX=$compiler meson setup out consumer --force-fallback-for=thole -Ddefault_library=static >log 2>&1 ||
    { cat log; exit 1; }
  if grep -q "Program python3" log; then echo "tests or samples are configured in a subproject"; exit 1; fi
  meson compile -C out >log 2>&1 || { cat log; exit 1; }
  out/consumer
  ;;
*)
  echo "no such way: $way" >&2
  exit 2
  ;;
esac
