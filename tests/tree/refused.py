"""Whether the first thing that a compiler says of <thole/thole.hpp> in C++17 is what it lacks: refused.py INCLUDES COMPILER..."""

import re
import subprocess
import sys

includes, *compiler = sys.argv[1:]
directories = ["-I" + directory for directory in includes.split(":")]
said = subprocess.run(
    [*compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", *directories, "-"],
    input="#include <thole/thole.hpp>\n",
    capture_output=True,
    text=True,
)
first = re.search(r"error: .*", said.stderr)
print(said.stderr if first is None else first.group())
sys.exit(0 if first is not None and "thole needs C++20: compile with -std=c++20 or newer" in first.group() else 1)
