"""Reads one HTTP/1.1 answer from a byte stream, wherever the reads fall. Pure: bytes in, body bytes out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

MAX_HEAD_BYTES = 64 * 1024
MAX_LINE_BYTES = 4096
MAX_KNOWN_HEAD_BYTES = 1024


class BadAnswer(ValueError):
    """The upstream does not speak HTTP/1.1 as it should."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers (names in lower case; of a repeated header the last), and how the body ends: by chunks, after `length` bytes, or
    (neither) with the connection. One Head may belong to many answers: nobody changes it."""

    status: int
    headers: dict[bytes, bytes]
    http_1_1: bool
    chunked: bool
    length: int | None
    keeps: bool


class AnswerParser:
    """Feed it reads until `done`. `head` is None until it is whole; `reusable` says whether the connection can take another request."""

    __slots__ = ("_buffer", "_chunked", "_left", "_trailers", "dirty", "done", "head")

    def __init__(self) -> None:
        self.head: Head | None = None
        self.done = False
        self.dirty = False
        self._buffer = b""
        self._chunked = False
        self._left: int | None = None  # body bytes still to come; None: until the connection closes
        self._trailers = False

    @property
    def started(self) -> bool:
        """Whether any byte of the answer has come."""
        return self.head is not None or bool(self._buffer)

    @property
    def reusable(self) -> bool:
        return self.done and not self.dirty and self.head is not None and self.head.keeps and (self._left is not None or self._chunked)

    def feed(self, data: bytes) -> bytes:
        """The body bytes that `data` holds, without framing. Raises BadAnswer."""
        if self.done:
            self.dirty = True
            return b""
        if self.head is None:
            if not self._buffer:  # the common whole answer: all of it in the first read
                end = data.find(b"\r\n\r\n", 0, MAX_KNOWN_HEAD_BYTES)
                head = _known_head(data[:end]) if end > 0 else None
                if head is not None and head.status == 200 and head.length == len(data) - end - 4:
                    self.head, self._left, self.done = head, 0, True
                    return data[end + 4 :]
            data = self._read_head(data)
            if self.head is None or self.done:
                self.dirty = self.done and bool(data)
                return b""
        if self._chunked:
            return self._read_chunks(data)
        if self._left is None:
            return data
        body, self._left = data[: self._left], self._left - len(data)
        self.done = self._left <= 0
        self.dirty = self._left < 0
        return body

    def one_chunk(self, data: bytes) -> int:
        """Where the body begins when `data` is one whole chunk and nothing else, as servers write it (`%x`, no extension), and the parser
        stands between two chunks; else 0, and `feed` reads it. The parser then stands between two chunks again.

        Worked example: 3 for b"5\r\nhello\r\n".
        """
        if not self._chunked or self._left or self._buffer or self._trailers or self.done:
            return 0
        line_end = data.find(b"\r\n", 0, 18)
        size = len(data) - line_end - 4
        if line_end > 0 and size > 0 and data.endswith(b"\r\n") and data[:line_end] == b"%x" % size:
            return line_end + 2
        return 0

    def end(self) -> bool:
        """The connection has ended: True when that is how this answer ends in order."""
        if self.head is not None and not self.done and self._left is None and not self._chunked:
            self.done = True
        return self.done

    def _read_head(self, data: bytes) -> bytes:
        """Takes the head off; what follows it is returned. Interim answers (1xx) are passed over."""
        data = self._buffer + data
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > MAX_HEAD_BYTES:
                    raise BadAnswer(f"the head of an answer is longer than {MAX_HEAD_BYTES} bytes")
                self._buffer = data
                return b""
            head = (_known_head if end <= MAX_KNOWN_HEAD_BYTES else parse_head)(data[:end])
            data = data[end + 4 :]
            if head.status >= 200:
                break
        self._buffer = b""
        self.head = head
        self._frame(head)
        return data

    def _frame(self, head: Head) -> None:
        if head.status in (204, 304):
            self._left, self.done = 0, True
        elif head.chunked:
            self._chunked, self._left = True, 0
        else:
            self._left = head.length
            self.done = self._left == 0

    def _read_chunks(self, data: bytes) -> bytes:
        """Walks the chunk sizes. `_left` counts the bytes of the open chunk and the CR LF after it."""
        data, self._buffer = self._buffer + data, b""
        position, out = 0, []
        while position < len(data) and not self.done:
            if self._left:
                taken = min(self._left, len(data) - position)
                out.append(data[position : position + min(taken, max(0, self._left - 2))])
                position += taken
                self._left -= taken
                continue
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                self._buffer = data[position:]
                if len(self._buffer) > MAX_LINE_BYTES:
                    raise BadAnswer("a chunk size line has no end")
                return b"".join(out)
            self._read_line(data[position:line_end])
            position = line_end + 2
        self.dirty = position < len(data)
        return out[0] if len(out) == 1 else b"".join(out)

    def _read_line(self, line: bytes) -> None:
        if self._trailers:
            self.done = not line
            return
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise BadAnswer("a chunk size is not a hexadecimal number") from None
        if size < 0:
            raise BadAnswer("a chunk size is negative")
        self._trailers = size == 0
        self._left = size + 2 if size else 0


def parse_head(data: bytes) -> Head:
    """Status line and headers, without the blank line. Raises BadAnswer."""
    first, *lines = data.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    status = rest[:3]
    if not version.startswith(b"HTTP/1.") or len(status) != 3 or not status.isdigit():
        raise BadAnswer("the first line of an answer is not HTTP/1.1")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise BadAnswer("a header line of an answer has no colon")
        headers[name.lower()] = value.strip()
    chunked = headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
    length = headers.get(b"content-length")
    if length is not None and not chunked and not (length.isdigit() and len(length) < 20):
        raise BadAnswer("an answer's content-length is not a number")
    http_1_1 = version == b"HTTP/1.1"
    keeps = http_1_1 and headers.get(b"connection", b"").lower() != b"close"
    return Head(int(status), headers, http_1_1, chunked, None if length is None or chunked else int(length), keeps)


# An engine's answers have the same few heads over and over: what a head says depends on nothing but its bytes.
_known_head = lru_cache(maxsize=256)(parse_head)
