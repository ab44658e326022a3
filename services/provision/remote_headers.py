"""The headers of a hub repository's weights, by range requests: what sizing needs to judge a model that nobody has downloaded.

`RemoteFolder` is a `Files` of services.sizing.checkpoint, so its readers work on a repository as they do on a local folder. Of a
safetensors file of any size a few hundred KB travel, of a GGUF file its vocabulary too (some MB); a bound ends what goes on asking.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.provision.errors import NotFoundError, ProvisionError, UnreachableError
from services.provision.hub import Hub, Listing
from services.provision.hub_weights import list_with_patience
from services.provision.progress import ProgressSink, silent
from services.provision.safety import is_allowed
from services.provision.transfer import Patience, RangeIgnoredError, TryAgainError, patiently

# The beginning of a file is fetched in one piece: a safetensors header is asked for in two steps, its length and itself.
FIRST_BYTES = 64 * 1024
MAX_TOTAL_BYTES = 256 * 2**20


class RemoteFolder:
    """A repository at one commit, read a range at a time. Not for whole files: `max_total_bytes` bounds what one value ever fetches."""

    def __init__(
        self, repository: str, revision: str = "main", *, patience: Patience | None = None, progress: ProgressSink = silent,
        max_total_bytes: int = MAX_TOTAL_BYTES,
    ) -> None:
        """Lists the repository. Raises a ProvisionError when that fails."""
        self._hub = Hub(repository, patience or Patience())
        listing: Listing = list_with_patience(self._hub, revision, progress)
        self.commit = listing.commit
        self.fetched_bytes = 0
        self._max_total_bytes = max_total_bytes
        self._sizes = {file.name: file.size_bytes for file in listing.files if is_allowed(file.name)}
        self._beginnings: dict[str, bytes] = {}

    def sizes(self) -> Mapping[str, int]:
        """Relative name -> bytes, of the files that may be read at all (no pickles, no code)."""
        return self._sizes

    def read(self, name: str, offset: int, length: int) -> bytes:
        """A range of one listed file, shorter only at its end. Raises a ProvisionError."""
        if name not in self._sizes:
            raise NotFoundError(f"{self._hub.repository} has no file {name[:200]!r} that may be read.")
        length = min(length, self._sizes[name] - offset)
        if length <= 0 or offset < 0:
            return b""
        if offset + length <= FIRST_BYTES:
            if name not in self._beginnings:
                self._beginnings[name] = self._fetch(name, 0, min(FIRST_BYTES, self._sizes[name]))
            return self._beginnings[name][offset : offset + length]
        return self._fetch(name, offset, length)

    def _fetch(self, name: str, offset: int, length: int) -> bytes:
        if self.fetched_bytes + length > self._max_total_bytes:
            raise ProvisionError(
                f"Reading the headers of {self._hub.repository} would take more than {self._max_total_bytes:,} bytes. "
                "No real repository needs that: the file that asks for it is damaged or hostile."
            )
        try:
            content = patiently(lambda: self._fetch_once(name, offset, length), self._hub.patience, lambda text: None)
        except TryAgainError as error:
            raise UnreachableError(f"The header of {name} could not be read: {error}. Check the network and try again.") from None
        except RangeIgnoredError:
            raise ProvisionError(f"{self._hub.endpoint} sends {name} only as a whole, so its header can't be read alone.") from None
        self.fetched_bytes += len(content)
        return content

    def _fetch_once(self, name: str, offset: int, length: int) -> bytes:
        content = bytearray()
        with self._hub.open(self.commit, name, offset, length) as blocks:
            for block in blocks:
                content += block
                if len(content) >= length:
                    break
        if len(content) < length:
            raise TryAgainError(f"{name} ended after {len(content):,} of {length:,} bytes")
        return bytes(content[:length])
