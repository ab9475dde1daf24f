"""Whether Doxygen knows something of every public name: check_docs.py [--wants NAME] DOXYGEN DOXYFILE HEADER...

Moving and copying do what C++ says and need no words; nor does what is in a namespace `detail`. With --wants it is the other
way round: that name, and no other, must be missed. DOXYGEN is empty where there is none.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

# Of a class X: X(X&&), X(const X&), and the assignments.
SPECIAL = re.compile(r"Member (?:(\w+)\((?:const )?\1 ?&|operator=\()")
# What Doxygen 1.9.4 says of a specialisation in std, which has no documentation of its own.
KNOWN = re.compile(r"Internal inconsistency: scope for class std::is_error_code_enum")


def complaints(doxygen, doxyfile, headers):
    with tempfile.TemporaryDirectory() as work:
        log = pathlib.Path(work, "warnings")
        settings = pathlib.Path(doxyfile).read_text() + "\n".join(
            [
                "",
                "INPUT = " + " ".join(headers),
                "USE_MDFILE_AS_MAINPAGE =",
                f"OUTPUT_DIRECTORY = {work}",
                f"WARN_LOGFILE = {log}",
                "GENERATE_HTML = NO",
                "GENERATE_XML = YES",
            ]
        )
        subprocess.run([doxygen, "-"], input=settings, text=True, check=True)
        lines = log.read_text().splitlines()
    return sorted({line for line in lines if not SPECIAL.search(line) and not KNOWN.search(line)})


def main(arguments):
    wanted = None
    if arguments[0] == "--wants":
        wanted = arguments[1]
        arguments = arguments[2:]
    doxygen, doxyfile, *headers = arguments
    if not doxygen:
        print("Doxygen is not here: skipped")
        return 77
    found = complaints(doxygen, doxyfile, headers)
    print("\n".join(found))
    if wanted is not None:
        return 0 if len(found) == 1 and f" {wanted}()" in found[0] else 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
