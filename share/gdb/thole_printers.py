"""Shows thole's handles in gdb as what they stand for: their elements, who holds the memory, what the device still does.

gdb loads it with libthole.so where both are installed below the prefix that gdb was built for; else say
`source .../share/gdb/auto-load/.../libthole.so.*-gdb.py`. It reads memory and calls nothing in the program, so that it works
on a core dump, too (which has no elements, unless ArenaOptions::in_core_dumps was set). What lies behind a handle is shown
where the library's own debugging information is there.
"""

import re

import gdb
import gdb.printing

# BorrowState's word in <thole/detail/borrow_state.hpp>.
READERS = 0x7FFFFFFF
GRAPH_SHIFT = 31
HANDLE = 1 << 62
WRITER = 1 << 63


def members(value):
    """The members of a value, its bases' first; none of a class that gdb has no definition of."""
    for field in value.type.strip_typedefs().fields():
        if field.is_base_class:
            yield from members(value[field])
        elif not field.artificial and hasattr(field, "bitpos"):
            yield value[field]


def atomic(value):
    """What a std::atomic of a number holds."""
    for member in members(value):
        return atomic(member) if member.type.strip_typedefs().code == gdb.TYPE_CODE_STRUCT else int(member)
    return int(value)


def span(value):
    """The pointer and the size of a span, wherever it keeps them."""
    pointer = size = None
    for member in members(value):
        kind = member.type.strip_typedefs()
        if kind.code == gdb.TYPE_CODE_PTR:
            pointer = member
        elif kind.code == gdb.TYPE_CODE_INT:
            size = int(member)
        elif kind.code == gdb.TYPE_CODE_STRUCT:
            inner_pointer, inner_size = span(member)
            pointer = inner_pointer if pointer is None else pointer
            size = inner_size if size is None else size
    return pointer, size


def pointee(shared):
    """What a std::shared_ptr points to, or None."""
    pointer = shared["_M_ptr"]
    return pointer.dereference() if int(pointer) != 0 else None


def known(value):
    """Whether gdb knows what the class looks like."""
    try:
        return len(value.type.strip_typedefs().fields()) != 0
    except TypeError:
        return False


def counted(count, what):
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def holders(block):
    """Who holds a block, in words."""
    word = atomic(block["holders"]["word_"])
    words = []
    if word & WRITER:
        words.append("a BorrowMut lives")
    elif word & READERS:
        words.append(counted(word & READERS, "Borrow") + (" lives" if word & READERS == 1 else " live"))
    graphs = (word & (HANDLE - 1)) >> GRAPH_SHIFT
    if graphs:
        words.append(counted(graphs, "graph") + (" keeps it" if graphs == 1 else " keep it"))
    if not word & HANDLE:
        words.append("the buffer has been dropped")
    if atomic(block["used"]):
        words.append("used by streams")
    return words


class Elements:
    """A handle to elements of pinned memory: `block_` and `span_`."""

    def __init__(self, value):
        self.value = value
        self.pointer, self.size = span(value["span_"])

    def children(self):
        for index in range(self.size or 0):
            yield f"[{index}]", (self.pointer + index).dereference()

    def display_hint(self):
        return "array"

    def text(self, name):
        if not self.size:
            return f"{name}, empty"
        words = [f"{name} of {self.size} at {int(self.pointer):#x}"]
        if int(self.value["block_"]) != 0:
            words += holders(self.value["block_"].dereference())
        return ", ".join(words)


class Buffer(Elements):
    def to_string(self):
        name = f"PinnedBuffer<{self.value.type.strip_typedefs().template_argument(0)}>"
        return self.text(name) if self.value["valid_"] else f"{name}, moved from"


class Borrow(Elements):
    def to_string(self):
        element = self.value.type.strip_typedefs().template_argument(0)
        is_const = element != element.unqualified()
        return self.text(f"{'Borrow' if is_const else 'BorrowMut'}<{element.unqualified()}>")


class Shared:
    """A handle that shares something: `member` is its std::shared_ptr."""

    def __init__(self, value, name, member):
        self.value, self.name, self.member = value, name, member

    def to_string(self):
        inner = pointee(self.value[self.member])
        if inner is None:
            return f"{self.name}, moved from"
        handles = int(self.value[self.member]["_M_refcount"]["_M_pi"]["_M_use_count"])
        words = [f"{self.name} {int(inner.address):#x}", f"known {handles} times" if handles != 1 else "known once"]
        if known(inner):
            try:
                words += self.inside(inner)
            except (gdb.error, KeyError, TypeError):
                pass  # another version of the library
        return ", ".join(words)


class Heap(Shared):
    def __init__(self, value):
        super().__init__(value, "PinnedHeap", "core_")

    def inside(self, handle):
        heap = handle["heap_"].dereference()
        return [f"on the arena {int(handle['arena_']['_M_ptr']):#x}", f"aligned to {int(heap['alignment_'])}",
                f"{counted(atomic(heap['in_flight_']), 'block')} in flight"]


class Arena(Shared):
    def __init__(self, value):
        super().__init__(value, "PinnedArena", "core_")

    def inside(self, arena):
        heaps = arena["heaps_"]["_M_impl"]
        return [counted(int(heaps["_M_finish"] - heaps["_M_start"]), "heap")]


class Stream(Shared):
    def __init__(self, value):
        super().__init__(value, value.type.strip_typedefs().name.split("::")[-1], "timeline_")

    def inside(self, timeline):
        return [f"number {int(timeline['id_'])}", str(timeline["kind_"]).split("::")[-1],
                f"{atomic(timeline['completed_'])} of {atomic(timeline['issued_'])} uses are known to be done"]


PRINTERS = [("PinnedBuffer<.*>", Buffer), ("detail::BasicBorrow<.*>", Borrow), ("PinnedHeap", Heap),
            ("PinnedArena", Arena), ("Stream(?:Ref)?", Stream)]


def collection():
    printers = gdb.printing.RegexpCollectionPrettyPrinter("thole")
    for name, printer in PRINTERS:
        printers.add_printer(name, rf"^thole::(?:v\d+_\d+::)?{name}$", printer)
    return printers


gdb.printing.register_pretty_printer(gdb.current_objfile(), collection(), replace=True)
