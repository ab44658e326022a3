"""The model hub: what a repository holds at a pinned revision, and its files by range.

The huggingface_hub library gives the endpoint, the token from its usual places (never logged or written here), the HTTP session with
its offline switch, and its error classes. Its downloader is not used: version 2.4.0 writes each attempt under a new random name and
removes it on failure, so a cut 5 GB file starts from zero in the next run, and it compares sizes only, never a checksum
(file_download.py: `_download_to_tmp_and_move`, `http_get`). Nor is its API client, whose user agent first asks the hub for a list of
coding agents to look for on this machine (utils/_detect_agent.py).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
from huggingface_hub import constants, get_session, get_token, hf_hub_url, hf_raise_for_status
from huggingface_hub import errors as hub_errors

from services.provision.errors import AccessDeniedError, DamagedError, NotFoundError, ProvisionError, UnreachableError
from services.provision.transfer import Patience, RangeIgnoredError, TryAgainError, WantedFile

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
MAX_LISTING_BYTES = 32 * 2**20
MAX_FILES = 5000
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEX_SHA1 = re.compile(r"[0-9a-f]{40}")
_RETRY_STATUSES = (408, 429, 500, 502, 503, 504)


def offline() -> bool:
    """Whether the user switched the network off (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE), now or when the library was imported."""
    switch = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return constants.is_offline_mode() or switch.upper() in constants.ENV_VARS_TRUE_VALUES


def endpoint() -> str:
    """HF_ENDPOINT or the library's own default. Raises ProvisionError when it is no http(s) address."""
    address = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
        raise ProvisionError(f"HF_ENDPOINT is {address[:200]!r}, which is no http(s) address. Correct it or unset it.")
    return address


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit: every file, also those that will never be fetched."""

    commit: str
    files: tuple[WantedFile, ...]


@dataclass(frozen=True, slots=True)
class Hub:
    """One repository of the hub. Makes no request until asked."""

    repository: str
    patience: Patience = field(default_factory=Patience)
    endpoint: str = field(default_factory=endpoint)

    def __post_init__(self) -> None:
        if not REPOSITORY.fullmatch(self.repository):
            raise ProvisionError(f"{self.repository[:200]!r} is not the name of a repository: write owner/name.")

    def listing(self, revision: str) -> Listing:
        """One attempt to list the files at `revision`. Raises TryAgainError for what may pass, else a ProvisionError."""
        url = f"{self.endpoint}/api/models/{self.repository}/revision/{quote(revision, safe='')}"
        with self._request(url, {"params": {"blobs": "true"}}) as response:
            content = bytearray()
            for block in self._blocks(response):
                content += block
                if len(content) > MAX_LISTING_BYTES:
                    raise ProvisionError(f"The hub's list of {self.repository} is longer than {MAX_LISTING_BYTES:,} bytes. Refused.")
        try:
            return _parse_listing(json.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            raise ProvisionError(
                f"{self.endpoint} answered with no usable file list for {self.repository} ({reason}). Is HF_ENDPOINT a model hub?"
            ) from None

    def source(self, commit: str) -> _HubSource:
        """The repository's files at `commit`, for transfer.fetch."""
        return _HubSource(self, commit)

    @contextmanager
    def open(self, commit: str, name: str, offset_bytes: int, length_bytes: int | None = None) -> Iterator[Iterator[bytes]]:
        """The bytes of one file from `offset_bytes`, all or `length_bytes` of them."""
        headers = {"Accept-Encoding": "identity"}  # a compressed answer has other offsets
        if offset_bytes or length_bytes is not None:
            last = "" if length_bytes is None else str(offset_bytes + length_bytes - 1)
            headers["Range"] = f"bytes={offset_bytes}-{last}"
        url = hf_hub_url(self.repository, name, revision=commit, endpoint=self.endpoint)
        with self._request(url, {"headers": headers}) as response:
            if "Range" in headers and not _starts_at(response, offset_bytes):
                raise RangeIgnoredError
            yield self._blocks(response)

    @contextmanager
    def _request(self, url: str, options: dict[str, Any]) -> Iterator[httpx2.Response]:
        """A streamed GET whose every failure is a TryAgainError or a ProvisionError."""
        if offline():
            raise UnreachableError(
                f"{self.repository} is needed from the hub, and offline mode is on (HF_HUB_OFFLINE). "
                "Unset it, or fetch the weights once on a machine with a network and copy the cache folder."
            )
        headers = {"User-Agent": "rigserve", **_authorization(), **options.pop("headers", {})}
        timeout = httpx2.Timeout(self.patience.read_s, connect=self.patience.connect_s)
        try:
            with get_session().stream("GET", url, headers=headers, timeout=timeout, **options) as response:
                hf_raise_for_status(response)
                if url.startswith("https:") and response.url.scheme != "https":
                    raise ProvisionError(f"The hub sent {self.repository} on to an unencrypted address. Refused.")
                yield response
        except hub_errors.HfHubHTTPError as error:
            raise self._explain(error) from None
        except (httpx2.TransportError, httpx2.TooManyRedirects, hub_errors.OfflineModeIsEnabled) as error:
            raise self._unreachable(error) from None

    def _blocks(self, response: httpx2.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_bytes()  # as they come: what waits for a full block is lost with the connection
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> TryAgainError:
        detail = f": {error}"[:200] if str(error) else ""
        return TryAgainError(f"the connection to {self.endpoint} failed ({type(error).__name__}{detail})")

    def _explain(self, error: hub_errors.HfHubHTTPError) -> Exception:
        """What a refusal by the hub means and what to do about it.

        1. Gated (or 403).  2. Repository, revision or file unknown.  3. 401.  4. May pass: 408, 416, 429, 5xx.  5. Anything else.
        """
        status = error.response.status_code
        page = f"{self.endpoint}/{self.repository}"
        if isinstance(error, hub_errors.GatedRepoError) or status == 403:  # 1
            return AccessDeniedError(
                f"{self.repository} is gated: its owner wants its terms accepted. Open {page} in a browser, accept them, "
                "then give this machine a token of that account: run `hf auth login` or set HF_TOKEN."
            )
        if isinstance(error, hub_errors.RevisionNotFoundError):  # 2
            return NotFoundError(f"{self.repository} has no such revision. The catalogue's pin may be out of date: see {page}.")
        if isinstance(error, hub_errors.RemoteEntryNotFoundError):
            return NotFoundError(f"{self.repository} no longer has a file that the catalogue names. See {page}.")
        if isinstance(error, hub_errors.RepositoryNotFoundError) or status in (401, 404):  # 2, 3: the hub answers 401 for both
            return AccessDeniedError(
                f"The hub shows no repository {self.repository} to this machine: it is private or gone, or the token is wrong. "
                f"See {page}; for a private one run `hf auth login` or set HF_TOKEN."
            )
        if status == 416:  # 4
            return RangeIgnoredError()
        if status in _RETRY_STATUSES:
            return TryAgainError(f"the hub answered {status}", _retry_after_s(error.response))
        return ProvisionError(f"The hub answered {status} for {self.repository}. See {page}.")  # 5


def _authorization() -> dict[str, str]:
    """The token from the library's usual places (HF_TOKEN, `hf auth login`), checked here: HTTP libraries quote what they can't send."""
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token is None:
        return {}
    if not token.isascii() or not token.isprintable():
        raise AccessDeniedError("The hub token holds characters that no token has. Write it again: `hf auth login`, or correct HF_TOKEN.")
    return {"Authorization": f"Bearer {token}"}


@dataclass(frozen=True, slots=True)
class _HubSource:
    hub: Hub
    commit: str

    def __call__(self, name: str, offset_bytes: int) -> AbstractContextManager[Iterator[bytes]]:
        return self.hub.open(self.commit, name, offset_bytes)


def _starts_at(response: httpx2.Response, offset_bytes: int) -> bool:
    """Whether this answer begins where it was asked to: 206 and Content-Range says so (RFC 9110, 14.4)."""
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset_bytes}-")


def _retry_after_s(response: httpx2.Response) -> float | None:
    """Retry-After in seconds, or the reset time of the hub's RateLimit header (t=...)."""
    asked = response.headers.get("Retry-After", "")
    if asked.isdigit():
        return float(asked)
    reset = re.search(r"\bt=(\d{1,6})\b", response.headers.get("RateLimit", "")) if response.status_code == 429 else None
    return float(reset[1]) if reset else None


def _parse_listing(answer: dict[str, Any]) -> Listing:
    """The hub's own JSON: {"sha", "siblings": [{"rfilename", "size", "blobId", "lfs": {"sha256", "size"}}]}."""
    if not _HEX_SHA1.fullmatch(answer["sha"]):
        raise ValueError("the commit is not 40 hex digits")
    siblings = answer["siblings"]
    if len(siblings) > MAX_FILES:
        raise DamagedError(f"A repository of {len(siblings):,} files is refused: the limit is {MAX_FILES:,}.")
    return Listing(answer["sha"], tuple(_parse_file(sibling) for sibling in siblings))


def _parse_file(sibling: dict[str, Any]) -> WantedFile:
    lfs = sibling.get("lfs") or {}
    size_bytes, sha256, git_sha1 = sibling["size"], lfs.get("sha256"), sibling.get("blobId")
    if type(size_bytes) is not int or size_bytes < 0:
        raise ValueError("a file without a size")
    if sha256 is not None and not _HEX_SHA256.fullmatch(sha256):
        raise ValueError("a sha256 that is none")
    if sha256 is None and not _HEX_SHA1.fullmatch(git_sha1 or ""):
        raise ValueError("a file without a checksum")
    return WantedFile(str(sibling["rfilename"]), size_bytes, sha256, None if sha256 else git_sha1)
