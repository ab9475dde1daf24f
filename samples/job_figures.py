#!/usr/bin/env python3
"""Prints the figures of one run of the main job (its --json) as parts of the link, a line each, with what they should be."""

import json
import pathlib
import sys

said = json.loads(pathlib.Path(sys.argv[1]).read_text())
ways = {way["way"]: way for way in said["comparison"]}
if not ways:
    sys.exit(f"not compared: {said.get('not_compared')}")
link = ways["link"]["gigabytes_per_second"]
mapping = ways["mapping"]["gigabytes_per_second"]
ours = ways.get("thole", ways["thole_unchecked"])
mode, check = said["mode"], said["check"]


def claim(what, figure, target=None):
    outcome = "" if target is None else f" | at least {target:g} | {'met' if figure >= target else 'MISSED'}"
    print(f"claim: {mode}, check {check}: {what} | {figure:.3f}{outcome}")


for way in ways.values():
    print(f"  {way['name']:<44} {way['gigabytes_per_second']:7.2f} GB/s  {way['gigabytes_per_second'] / link:5.2f} of the link")
on_gpu = said["backend"] == "cuda"
print(f"  the run itself {said['gigabytes_per_second']:.2f} GB/s; {said['threads']} threads, {said['window']} pieces of "
      f"{said['chunk_bytes'] >> 10} KiB on their way; pinned {said['pinned_bytes'] / 2**20:.0f} MiB; "
      f"made ready in {said['preparing_seconds'] * 1e3:.0f} ms; {'; '.join(said['notes']) or 'no notes'}")
if mode == "load":
    claim("part of the link", ours["gigabytes_per_second"] / link, (0.95 if check == "none" else 0.85) if on_gpu else None)
    claim("times a copy from a mapping", ours["gigabytes_per_second"] / mapping, 4 if on_gpu else None)
else:
    claim("part of the link, both ways at once", ours["gigabytes_per_second"] / link)
    claim("GB/s (552d489 did 1.0 to 1.3 on an H100)", ours["gigabytes_per_second"], 5 * 1.3 if on_gpu else None)
claim("GiB under the 128 MiB of pinned bytes", (2**27 - said["pinned_bytes"]) / 2**30, 0)
