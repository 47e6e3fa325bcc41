"""Texts whose encoding nobody wrote down: the right text, or a bad record that names the byte."""

import codecs
import re

from retrotune.data.corpora.records import BadRecordError

MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
"""Byte-order marks, the encodings that they say, and their names for people."""

WINDOWS = "cp1252"
AS_BROWSERS = {
    "ascii": WINDOWS, "iso8859-1": WINDOWS, "iso8859-9": "cp1254",
    "gb2312": "gbk", "shift_jis": "cp932", "euc_kr": "cp949",
}  # fmt: skip
"""Declared encodings that stand for a larger one, as in the WHATWG's Encoding Standard."""

DECLARED = re.compile(
    rb"""(?i)<meta\s[^>]*?\bcharset\s*=\s*["']?\s*([\w:.-]+)|<\?xml\s[^>]*?\bencoding\s*=\s*["']([\w:.-]+)"""
)
HEAD = 4096
"""Bytes of a page in which its encoding is looked for; browsers look at 1024."""

ASCII = bytes(range(128))
FOREIGN = re.compile(rb"[\0\x1b]")
"""Bytes of other things than text: of UTF-16 without a mark and of archives, of encodings that switch (ISO-2022-JP)."""

CONTROLS = re.compile("[\x00-\x08\x0e-\x19\x1b-\x1f\x7f-\x9f]")
"""What a decoded text does not hold if its encoding was guessed right; an old end-of-file mark (0x1a) it may hold."""

MIXED_SHARE = 0.1
"""More sequences of UTF-8 than this, per byte that is none, are no accident, as `ß«` in Windows-1252 is one."""


def decode(content: bytes) -> tuple[str, str]:
    """(text, name of its encoding): what a byte-order mark says, UTF-8, what a page declares, Windows-1252.

    Latin-1 is not among them: it gives a text for any bytes. Raises `BadRecordError` with a byte and its place for
    what is none of these, for mixtures, and for what is no text.
    """
    for mark, marked, name in MARKS:
        if content.startswith(mark):
            return _decoded(content, marked, name, re.compile("\0")).removeprefix("\ufeff"), name
    if foreign := FOREIGN.search(content):
        raise BadRecordError(
            f"a byte that is in no text, as of UTF-16 or an archive ({_byte(content, foreign.start())})"
        )
    try:
        return content.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError as error:
        broken = _byte(content, error.start)
    encoding = _declared(content)
    if encoding is None:
        seen = content.decode("utf-8", "replace")
        others = seen.count("\ufffd")
        if sum(character > "\x7f" for character in seen) - others > MIXED_SHARE * others:
            raise BadRecordError(f"UTF-8 mixed with something else ({broken})")
        encoding = WINDOWS
    name = f"Windows-{encoding[2:]}" if encoding.startswith("cp125") else encoding.upper()
    return _decoded(content, encoding, f"UTF-8 or {name}", CONTROLS), name


def _decoded(content: bytes, encoding: str, name: str, wrong: re.Pattern[str]) -> str:
    """The text, which must not have a character that is `wrong`; `BadRecordError` otherwise."""
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadRecordError(f"not {name} ({_byte(content, error.start)})") from error
    if found := wrong.search(text):
        raise BadRecordError(f"not {name} ({found[0]!r} would be character {found.start()} of the text)")
    return text


def _byte(content: bytes, at: int) -> str:
    return f"byte 0x{content[at]:02x} at {at}"


def _declared(content: bytes) -> str | None:
    """Python's name of the encoding that a web page declares; None where that says nothing about bytes above 127.

    Raises `BadRecordError` if it is not known: the page would be read as something else.
    """
    found = DECLARED.search(content[:HEAD])
    if found is None:
        return None
    label = (found[1] or found[2]).decode("ascii")
    try:
        encoding = codecs.lookup(label).name
        encoding = AS_BROWSERS.get(encoding, encoding)
        if encoding in (WINDOWS, "utf-8", "utf-16"):  # said by templates, whatever the page is written in
            return None
        known = ASCII.decode(encoding) == ASCII.decode("ascii")  # as the declaration was read
    except (LookupError, ValueError):
        known = False
    if not known:
        raise BadRecordError(f"not UTF-8, and declares an encoding that is not known ({label})")
    return encoding
