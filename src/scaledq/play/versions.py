"""What decides, besides seed and actions, what an environment shows: the versions to write down."""

import hashlib
from functools import cache
from importlib import metadata


@cache
def _rom_digest(name: str) -> str:
    from scaledq.core import atari as words
    from scaledq.play import atari

    return hashlib.md5(atari.rom_path(words.parse(name)[0]).read_bytes()).hexdigest()


def versions(name: str) -> dict[str, str]:
    """By name: the emulator's and its ROM's (MD5, as ALE lists them), or gymnasium's, of a task.

    Raises:
      TaskError: no such game, or ale-py or its ROM is not installed.
    """
    kind, colon, _ = name.partition(":")
    if colon and kind in ("gym", "toy"):
        return {"gymnasium": metadata.version("gymnasium")} if kind == "gym" else {}
    digest = _rom_digest(name)
    return {"ale-py": metadata.version("ale-py"), "ROM": digest}
