"""Write the names in TensorRT's Python bindings: python tests/backends/tensorrt_names.py WHEEL > names_of_tensorrt_11.txt

The bindings are one shared library that does not load without a GPU's driver; its classes, methods and values stand in it as
C strings. Wheels: pip download --no-deps tensorrt-cu13-bindings==VERSION.
"""

import re
import sys
import zipfile

_NAME = re.compile(rb"(?<=\x00)[A-Za-z_][A-Za-z0-9_]{3,48}(?=\x00)")


def names(wheel: str) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        library = next(name for name in archive.namelist() if name.endswith("/tensorrt.so"))
        found = {match.decode() for match in _NAME.findall(archive.read(library))}
    return sorted(name for name in found if not name.startswith(("_Z", "cxa", "__")))


if __name__ == "__main__":
    print("\n".join(names(sys.argv[1])))
