"""What takes long, or costs something, said in words to whoever asked to be told (`on_progress`)."""

from __future__ import annotations


class Caution(str):
    """A progress text that is a warning: a node logs it at WARN, a command prints it as any other."""

    __slots__ = ()
