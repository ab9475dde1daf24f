"""Finds what a header declares and a source of another name defines.

A header's source has its name: lib/heap/collect.hpp and lib/heap/collect.cpp; include/thole/heap.hpp and the heap.cpp of
any folder of lib/. A header whose definitions are in several files names them in a line of its own:

    // Defined in: run.cpp, capture.cpp

They stand in the header's folder; a public header's may be anywhere. This reads text, not C++: what stands at namespace
level, functions and the classes that methods belong to, with their namespaces; anonymous namespaces are left out.
"""

import collections
import re

NOISE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|^\s*#(?:\\\n|[^\n])*|\[\[.*?\]\]', re.S | re.M)
DEFINED_IN = re.compile(r"^\s*// Defined in: (.+)$", re.M)
FUNCTION = re.compile(r"((?:\w+\s*::\s*)*)(operator\s*(?:\(\s*\)|[^\s\w(]+|[\w\s]+)|~?\w+)\s*\(")
CLASS = re.compile(r"(?:class|struct|union)\s+(?:[A-Z_]+\s+|alignas\s*\([^)]*\)\s*)*([\w:]+)\s*(?:final\b\s*)?(?::(?!:).*)?$", re.S)
NO_FUNCTION = {"catch", "if", "for", "while", "switch", "static_assert", "requires", "decltype", "alignas", "noexcept"}


def without_template_arguments(text):
    """Foo<T, (N > 1)>::bar and template <class T> lose their brackets; operators keep theirs."""
    text = re.sub(r"operator\s*(<=>|<<=?|>>=?|->\*?|<=?|>=?)", lambda m: "operator" + m[1].translate({60: "l", 62: "g"}), text)
    before = None
    while before != text:
        before, text = text, re.sub(r"<[^<>;{}]*>", " ", text)
    return re.sub(r"\btemplate\b", " ", text)


def statements(text):
    """Yields (namespaces, head, end) for what stands at namespace level; end is "{" or ";"."""
    text = without_template_arguments(NOISE.sub(" ", text))
    text = re.sub(r"\bnamespace\s+(\w+)::inline\s+\w+", r"namespace \1", text)  # an inline namespace has no name of its own
    scopes, head, position = [], "", 0
    while position < len(text):
        letter = text[position]
        position += 1
        if letter not in "{};":
            head += letter
            continue
        head = head.strip()
        if letter == "}":
            if scopes:
                scopes.pop()
        elif opened := letter == "{" and re.fullmatch(r"(?:inline\s+)?namespace\b\s*([\w:]*)|extern", head):
            scopes.append(opened[1] if opened[1] is not None else None)
        else:
            if "" not in scopes:
                yield "::".join(scope for scope in scopes if scope), head, letter
            if letter == "{":  # a body: past its end
                depth = 1
                while depth and position < len(text):
                    depth += {"{": 1, "}": -1}.get(text[position], 0)
                    position += 1
        head = ""


def joined(*parts):
    return "::".join(part for part in parts if part)


def function_of(head):
    """(scope, name) of the function that the head declares or defines, or None."""
    found = FUNCTION.search(head)
    if found is None or found[2] in NO_FUNCTION or re.match(r"(using|typedef|friend|static|enum)\b|[,:]", head):
        return None
    if "=" in head[: found.start()]:
        return None
    return re.sub(r"\s", "", found[1]).rstrip(":"), re.sub(r"\s", "", found[2])


def read(file):
    """What a file declares or defines at namespace level: its classes, and its functions as (namespaces, scope, name)."""
    classes, declared, defined = set(), set(), set()
    for namespaces, head, end in statements(file.read_text()):
        if end == "{" and (found := CLASS.match(head)):
            classes.add(joined(namespaces, found[1]))
        elif function := function_of(head):
            (defined if end == "{" or head.endswith("= default") else declared).add((namespaces, *function))
    return classes, declared, defined


def elsewhere(root):
    """{(header, source): names}: what the source defines and the header, of another name, declares."""
    files = sorted(file for folder in ("include", "lib") for file in (root / folder).rglob("*.[hc]pp"))
    contents = {file: read(file) for file in files}
    classes, functions = collections.defaultdict(set), collections.defaultdict(set)
    for file, (made, declared, _) in contents.items():
        if file.suffix == ".hpp":
            for name in made:
                classes[name].add(file)
            for namespaces, scope, name in declared:
                functions[joined(namespaces, scope, name)].add(file)

    def belongs(header, file):
        if header == file:
            return True
        if "include" not in header.relative_to(root).parts and file.parent != header.parent:
            return False
        named = ", ".join(DEFINED_IN.findall(header.read_text()))
        return file.name in named.split(", ") or (file.suffix == ".cpp" and file.stem == header.stem)

    found = collections.defaultdict(list)
    for file, (made, _, defined) in contents.items():
        for namespaces, scope, name in sorted(defined):
            parts = scope.split("::") if scope else []
            owners = [joined(namespaces, *parts[:count]) for count in range(1, len(parts) + 1)]
            if any(owner in made for owner in owners):
                continue
            full_name = joined(namespaces, scope, name)
            headers = next((classes[owner] for owner in owners if owner in classes), functions.get(full_name, set()))
            if not any(belongs(header, file) for header in headers):
                for header in headers:
                    found[header.relative_to(root).as_posix(), file.relative_to(root).as_posix()].append(full_name)
    return found
