#!/usr/bin/env python3
"""The dynamic linker sees of libthole.so what thole declares, and nothing that came with it.

    check_symbols.py NM LIBRARY C_HEADER NODE
    check_symbols.py --test

All names are thole's own, with the typeinfo and vtables of its classes, and carry the version NODE; the names of C are
those that the header declares. --test: the check sees what is wrong.
"""

import pathlib
import re
import subprocess
import sys

# In the namespace thole, as names are in the file: functions, also const ones and those with & and &&; typeinfo and vtables.
OF_CPP = re.compile(r"_Z(?:NK?[RO]?|T[ISV]N)5thole")
OF_C = re.compile(r"thole_\w+$")
# What a linker adds to every library.
LINKERS = {"_init", "_fini", "__bss_start", "_edata", "_end"}
# A value, or none for what is absolute; a letter; a name.
LINE = re.compile(r"^[0-9a-f]* *(\w) (.+)$")


def faults(lines, declared, node):
    of_c = set()
    for line in lines:
        kind, full = LINE.match(line).groups()
        name, _, version = full.partition("@@")
        if name == node and kind == "A" or name in LINKERS:
            continue
        if not OF_CPP.match(name) and not OF_C.match(name):
            yield f"{name} is none of thole's names"
        elif version != node:
            yield f"{name} has the version {version or 'none'}, not {node}"
        if OF_C.match(name):
            of_c.add(name)
    for name in sorted(declared - of_c):
        yield f"{name} is declared in the header, and not in the library"
    for name in sorted(of_c - declared):
        yield f"{name} is in the library, and not declared in the header"


def test():
    good = ["0000 T thole_allocate@@V", "0000 T _ZNK5thole10PinnedHeap7collectEv@@V", "0000 V _ZTIN5thole5ErrorE@@V",
            "0000 T _ZN5thole4v0_16Device4cudaEi@@V", "0000 V _ZTVN5thole5ErrorE@@V", "0000 W _ZNO5thole5Graph4moveEv@@V",
            "0000 A V"]
    assert not [*faults(good, {"thole_allocate"}, "V")]
    for line, words in {
        "0000 W _ZNSt6vectorIN5thole6DeviceESaIS1_EE9push_backEv@@V": "none of thole's",
        "0000 W _ZSt14__relocate_a_1IPN5thole6DeviceEET_S2_@@V": "none of thole's",  # it returns a thole::Device*
        "0000 T _ZN6thole25otherEv@@V": "none of thole's",
        "0000 T mi_malloc": "none of thole's",
        "0000 V _ZTVSt6thread@@V": "none of thole's",
        "0000 T _ZNK5thole6Device4lostEv": "has the version none",
        "0000 T _ZNK5thole6Device4lostEv@@W": "has the version W",
        "0000 T thole_other@@V": "not declared in the header",
    }.items():
        found = [*faults(good + [line], {"thole_allocate"}, "V")]
        assert len(found) == 1 and words in found[0], (line, found)
    assert "not in the library" in [*faults(good, {"thole_allocate", "thole_free"}, "V")][0]


def main():
    if sys.argv[1:] == ["--test"]:
        return test()
    nm, library, header, node = sys.argv[1:]
    listed = subprocess.run([nm, "-D", "--defined-only", "--with-symbol-versions", library], check=True,
                            stdout=subprocess.PIPE, text=True).stdout
    declared = set(re.findall(r"THOLE_C_EXPORT[^;(]*?(thole_\w+)\(", pathlib.Path(header).read_text()))
    lines = [line for line in listed.splitlines() if line.strip()]
    if not lines or not declared:
        sys.exit("nothing is listed, or nothing declared")
    sys.exit("\n".join(faults(lines, declared, node)) or 0)


if __name__ == "__main__":
    main()
