"""The multipart form of an edit (RFC 7578), as OpenAI's SDKs send it: its text fields as JSON would have them, and its files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from services.gateway.body import shown_name
from services.gateway.image_fields import NUMBERS, TRUE_OR_FALSE, WHOLE_NUMBERS
from services.wire.errors import InvalidValue
from services.wire.images import MAX_UPLOAD_BYTES

MAX_PARTS = 64
MAX_HEADER_BYTES = 4096
MAX_TEXT_BYTES = 32 * 1024  # 4,000 characters of four bytes take half of it
FILES = {"image": "image", "image[]": "image", "mask": "mask"}
_WHOLE = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?", re.ASCII)


@dataclass(slots=True)
class Form:
    """`fields` as a JSON body would hold them; `files` as (image or mask, bytes), in the order they came."""

    fields: dict[str, Any] = field(default_factory=dict)
    files: list[tuple[str, bytes]] = field(default_factory=list)


def is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def read_form(body: bytes, content_type: str) -> Form:
    """`body` is whole and within its limit already. Raises InvalidValue."""
    said = Message()
    said["content-type"] = content_type
    boundary = said.get_param("boundary")
    if not isinstance(boundary, str) or not 1 <= len(boundary) <= 70 or not boundary.isascii():  # RFC 2046, 5.1.1
        raise InvalidValue("The Content-Type of a form must name its boundary, of 1 to 70 characters.", param="content-type")
    reader = _Reader()
    parser = MultipartParser(boundary.encode("ascii"), reader.callbacks())  # type: ignore[arg-type]
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise InvalidValue("The body is not a valid multipart/form-data form.") from None
    if not reader.ended:
        raise InvalidValue("The form is cut off: its closing boundary is missing.")
    return reader.form


class _Reader:
    """What the parser tells, gathered within limits."""

    def __init__(self) -> None:
        self.form = Form()
        self.ended = False
        self._parts = 0
        self._name, self._value = bytearray(), bytearray()
        self._headers: dict[str, str] = {}
        self._data = bytearray()

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin, "on_part_data": self._part_data, "on_part_end": self._end_part,
            "on_header_field": self._header_name, "on_header_value": self._header_value, "on_header_end": self._header_end,
            "on_end": self._end,
        }  # fmt: skip

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidValue(f"The form has more than {MAX_PARTS} parts.")
        self._headers, self._data = {}, bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._bound()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._bound()

    def _bound(self) -> None:
        if len(self._name) + len(self._value) > MAX_HEADER_BYTES or len(self._headers) > 16:
            raise InvalidValue("A part of the form has too many or too long headers.")

    def _header_end(self) -> None:
        self._headers[self._name.decode("latin1").lower()] = self._value.decode("utf8", "replace")
        self._name, self._value = bytearray(), bytearray()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _end(self) -> None:
        self.ended = True

    def _end_part(self) -> None:
        """1. A part without a name. 2. A picture. 3. A file that nobody asked for. 4. Text."""
        disposition = Message()
        disposition["content-disposition"] = self._headers.get("content-disposition", "")
        name = disposition.get_param("name", header="content-disposition")
        if not isinstance(name, str) or not name:  # 1
            raise InvalidValue("Every part of the form needs a name in its Content-Disposition.")
        if name in FILES:  # 2
            kind = FILES[name]
            if len(self._data) > MAX_UPLOAD_BYTES:
                raise InvalidValue(f"{kind} has {len(self._data):,} bytes; at most {MAX_UPLOAD_BYTES:,} are taken.", param=kind)
            self.form.files.append((kind, bytes(self._data)))
        elif disposition.get_param("filename", header="content-disposition") is not None:  # 3
            raise InvalidValue(f"{shown_name(name)} is a file; only image and mask may be files.", param=shown_name(name))
        else:  # 4
            self._text(name)

    def _text(self, name: str) -> None:
        said = shown_name(name)
        if len(self._data) > MAX_TEXT_BYTES:
            raise InvalidValue(f"{said} is longer than {MAX_TEXT_BYTES} bytes.", param=said)
        if name in self.form.fields:
            raise InvalidValue(f"{said} stands twice in the form.", param=said)
        try:
            value = self._data.decode("utf8")
        except UnicodeDecodeError:
            raise InvalidValue(f"{said} is not UTF-8 text.", param=said) from None
        self.form.fields[name] = as_json(name, value)


def as_json(name: str, value: str) -> Any:
    """A form's text as the type that the field has; left as it is where it isn't one, for the field's own check to refuse."""
    if name in WHOLE_NUMBERS and _WHOLE.fullmatch(value):
        return int(value)
    if name in NUMBERS and _NUMBER.fullmatch(value):
        return float(value)
    if name in TRUE_OR_FALSE and value in ("true", "false"):
        return value == "true"
    return value
