"""Where passages can be searched: an index folder, a retrieval service, a search engine of the web."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from tspo.errors import BadInput
from tspo.retrieval.base import Retriever
from tspo.retrieval.call_settings import CallSettings
from tspo.retrieval.index_folder import MANIFEST
from tspo.retrieval.remote import RemoteRetriever

_SEARXNG = "searxng+"
_SERPER = "serper://"
IN_PYTHON = "python:"
"""Begins the place of a retriever that is an object of a Python program; the name of its class follows."""


def is_remote(place: str) -> bool:
    """Whether `place` is not a folder's path: http(s)://.., searxng+http(s)://.., serper://, or python:CLASS."""
    return place.startswith(("http://", "https://", f"{_SEARXNG}http://", f"{_SEARXNG}https://", _SERPER, IN_PYTHON))


def open_place(
    place: str, *, encoder: str | None = None, reranker: str | None = None, checksums: bool = False
) -> Retriever:
    """The retriever at `place`, opened with the options of `open_index` where it is a folder.

    Raises BadInput where there is none, or where an option is not for such a place.
    """
    if is_remote(place):
        for name, given in (("encoder", encoder), ("reranker", reranker), ("checksums", checksums)):
            if given:
                raise BadInput(f"--{name} is for an index folder, not for {place}; leave it out")
        return open_remote(place)
    from tspo.retrieval.open_index import open_index

    return open_index(place, encoder=encoder, reranker=reranker, checksums=checksums)


def open_remote(place: str, settings: CallSettings | None = None) -> RemoteRetriever:
    """The retriever at a place that `is_remote`; raises BadInput for an address that is none, and for python:CLASS."""
    if place.startswith(IN_PYTHON):
        raise BadInput(
            f"rollout.retriever: {place} is an object of the Python program that began the run; go on there, or name "
            "an index folder or a service"
        )
    if importlib.util.find_spec("httpx") is None:
        raise BadInput(f"{place}: searching over HTTP needs httpx; pip install 'tspo[serve]'")
    if place.startswith(_SEARXNG):
        from tspo.retrieval.web_search import SearxNGRetriever

        return SearxNGRetriever(place.removeprefix(_SEARXNG), settings)
    if place.startswith(_SERPER):
        from tspo.retrieval.web_search import SERPER, SerperRetriever

        if place != _SERPER:
            raise BadInput(f"{place}: Serper has one address; say {_SERPER}")
        return SerperRetriever(SERPER, settings)
    from tspo.retrieval.client import HTTPRetriever

    return HTTPRetriever(place, settings)


def identity_of(place: str, retriever: Retriever) -> str:
    """What tells the answers of `retriever`, opened at `place`, from those of any other index or service."""
    if isinstance(retriever, RemoteRetriever):
        return retriever.identity()
    try:
        # the manifest holds the checksums of all else
        return hashlib.sha256((Path(place) / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"{place}: the index's manifest cannot be read ({error.strerror}); build it again") from None
