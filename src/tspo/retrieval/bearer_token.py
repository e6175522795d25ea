"""The bearer token of a retrieval service, which its server and its clients find in the same places."""

from __future__ import annotations

import os
from pathlib import Path

from tspo.errors import BadInput

TOKEN_VARIABLE = "TSPO_RETRIEVER_TOKEN"


def find_token(file: Path | None = None) -> str | None:
    """The token in `file`, or else in the environment; None where there is neither.

    Raises BadInput where the file cannot be read, or what is there cannot stand in a header.
    """
    if file is None:
        place, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
        if token is None:
            return None
    else:
        place = str(file)
        try:
            token = file.read_text(encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{file}: the token cannot be read ({error.strerror}); name a file that holds it") from None
        except UnicodeDecodeError:
            token = ""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise BadInput(f"{place}: holds no token; it is one line of ASCII letters, digits and signs")
    return token
