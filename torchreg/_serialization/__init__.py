"""The file format: tensors as safetensors, everything else as JSON in the header.

A file is a valid `safetensors <https://github.com/huggingface/safetensors>`_ file: 8 bytes with the
length of the header, the header in JSON, the tensors. The ``__metadata__`` of the header has one
entry, ``torchreg``, a JSON object with the version of the format, a SHA-256 digest of the file,
and a record. :mod:`~torchreg._serialization.container` reads and writes these bytes, and
:mod:`~torchreg._serialization.atomic_write` replaces a file as a whole.

A :class:`Writer` turns Python values into JSON and tensors, a :class:`Reader` turns them back
(:mod:`~torchreg._serialization.codecs` has one function per type). Modules are described layer by
layer (:mod:`~torchreg._serialization.module_spec`). A file holds no code: it names classes and
functions, which an :class:`ImportAllowlist` resolves. Those of torch and torchreg are looked up
in a table, and nothing else is imported unless the caller allows it.
"""

from torchreg._serialization.allowlist import ImportAllowlist, builtin_objects, import_path
from torchreg._serialization.atomic_write import remove_leftovers, write_atomically
from torchreg._serialization.codecs import UnwritableError
from torchreg._serialization.container import (
    FORMAT,
    pack,
    read_bytes,
    read_file,
    unpack,
    write_file,
)
from torchreg._serialization.known_layers import CONSTANTS, CONTAINERS, LAYERS, LINKS
from torchreg._serialization.module_spec import (
    describe,
    needs_network,
    read_link,
    read_module,
    write_module,
    write_network,
)
from torchreg._serialization.placeholder import Unserialized
from torchreg._serialization.values import Reader, Writer

__all__ = [
    "CONSTANTS",
    "CONTAINERS",
    "FORMAT",
    "LAYERS",
    "LINKS",
    "ImportAllowlist",
    "Reader",
    "Unserialized",
    "UnwritableError",
    "Writer",
    "builtin_objects",
    "describe",
    "import_path",
    "needs_network",
    "pack",
    "read_bytes",
    "read_file",
    "read_link",
    "read_module",
    "remove_leftovers",
    "unpack",
    "write_atomically",
    "write_file",
    "write_module",
    "write_network",
]
