"""Which verl this package is made for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from tspo.errors import BadInput

MADE_FOR = "0.9."
"""`HandsOverTurns` overrides a method of verl's that is no documented interface; read it anew for another verl."""


def check_verl() -> str:
    """verl's version; raises BadInput where it is not installed or is another than this package is made for."""
    try:
        found = version("verl")
    except PackageNotFoundError:
        raise BadInput("this command needs verl; pip install 'tspo[verl]'") from None
    if not found.startswith(MADE_FOR):
        raise BadInput(f"verl {found} is installed, and tspo is made for {MADE_FOR}x; pip install 'tspo[verl]'")
    return found
