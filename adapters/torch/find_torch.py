"""Where PyTorch is, and which C++ ABI it has, on the last two lines; nothing where there is none, or one line that says
what is wrong.

Importing it takes seconds, so that first it is only looked for.
"""

import importlib.util
import pathlib

found = importlib.util.find_spec("torch")
if found is not None and found.origin is not None:
    try:
        import torch
    except Exception as error:  # whatever is wrong with it, thole is built without
        print(f"importing torch fails: {error}".splitlines()[0])
    else:
        print(pathlib.Path(torch.__file__).resolve().parent)
        print(int(getattr(torch, "compiled_with_cxx11_abi", lambda: True)()))
