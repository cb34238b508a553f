"""A fitted network as a plain PyTorch script, which rebuilds, trains and draws it.

``writing`` puts a script together from its sections, those of ``network``, ``loss`` and
``training`` with what ``text`` has ready, and ``files`` lays its files beside it; all of them
are told by a ``recipe`` what to write. ``layers`` and ``source`` turn modules and values into
expressions, ``definitions`` finds the code of the user's that they need, and ``layout`` breaks
the lines.
"""

from torchreg.export.script.writing import check_path, write_script

__all__ = ["check_path", "write_script"]
