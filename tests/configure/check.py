#!/usr/bin/env python3
"""Configures the tree with one mimalloc after another, real or pretended, and looks at what Meson says.

    check.py SOURCE_ROOT COMPILER...
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

# MI_MALLOC_VERSION, the options given, and what must be said: the chosen profile's figures, or why not.
CASES = [
    (194, {}, ["profile          : dev", "alignment          : 4194304"]),
    (209, {}, ["profile          : slice", "alignment          : 33554432", "version          : 20009"]),
    (224, {"mimalloc_profile": "slice"}, ["profile          : slice"]),
    (3208, {}, ["profile          : v3", "alignment          : 65536", "version          : 30208"]),
    (30403, {"mimalloc_profile": "v3"}, ["alignment          : 65536", "version          : 30403"]),
    (30600, {}, ["profile          : v3", "alignment          : 268435456"]),
    (206, {}, ["ERROR: Problem encountered: mimalloc 2.0.6 cannot be used"]),
    (3001, {}, ["ERROR: Problem encountered: mimalloc 3.0.1 cannot be used", "corrupts"]),
    (3105, {}, ["ERROR: Problem encountered: mimalloc 3.1.5 cannot be used", "threads"]),
    (30302, {}, ["ERROR: Problem encountered: mimalloc 3.3.2 cannot be used", "#1287"]),
    (40000, {}, ["ERROR: Problem encountered: mimalloc 4.0.0 cannot be used"]),
    (209, {"mimalloc_profile": "v3"}, ["ERROR: Problem encountered: mimalloc_profile is v3", "mimalloc 2.0.9 needs the profile slice"]),
    (30600, {"mimalloc_profile": "slice"}, ["ERROR: Problem encountered: mimalloc_profile is slice", "mimalloc 3.6.0 needs the profile v3"]),
]


def configure(source, compiler, folder, version, options):
    """What `meson setup` prints with a mimalloc that says it is of this version."""
    root = folder / f"mimalloc-{version}"
    for part in ("include", "lib"):
        (root / "usr" / part).mkdir(parents=True, exist_ok=True)
    (root / "usr/include/mimalloc.h").write_text(f"#define MI_MALLOC_VERSION {version}\n")
    (root / "usr/lib/libmimalloc.so.2").touch()
    build = tempfile.mkdtemp(dir=folder)
    options = {"mimalloc_root": root, "tests": "false", "samples": "false", "benchmarks": "false", "cuda": "disabled",
               **options}
    return subprocess.run(["meson", "setup", build, source, *(f"-D{name}={value}" for name, value in options.items())],
                          env={**os.environ, "CXX": " ".join(compiler)}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def main():
    source, *compiler = sys.argv[1:]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for version, options, said in CASES:
            result = configure(source, compiler, pathlib.Path(folder), version, options)
            must_fail = said[0].startswith("ERROR")
            printed = re.sub(" +", " ", result.stdout)
            missing = [text for text in said if re.sub(" +", " ", text) not in printed]
            good = not missing and (result.returncode != 0) == must_fail
            wrong += not good
            print("ok " if good else "BAD", version, options, said[0])
            if not good:
                print(f"  it ended with {result.returncode} and did not say {missing}:\n{result.stdout}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
