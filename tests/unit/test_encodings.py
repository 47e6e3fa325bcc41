"""Texts of unknown encoding: the right characters, or an error with the byte; never other characters."""

import pytest

from retrotune.data.corpora.encodings import decode
from retrotune.data.corpora.records import BadRecordError, BadRecords, numbered_lines
from retrotune.data.datasets.narrativeqa import read_story

PROSE = "“Halt!” she cried — it’s the ferryman’s £5… naïve, œuvre, €9, Ärger, señor"
RUSSIAN = "Лодка ушла вечером"
JAPANESE = "船は夜に出た"


def page(text, declaration):
    return f"<html><head>{declaration}</head><body><p>{text}</p></body></html>"


@pytest.mark.parametrize(
    ("text", "encoding", "name"),
    [
        ("plain ASCII, 1999\x1a", "ascii", "UTF-8"),
        (PROSE, "utf-8", "UTF-8"),
        (PROSE, "utf-8-sig", "UTF-8"),
        (PROSE, "utf-16", "UTF-16"),
        ("\ufeff" + PROSE, "utf-16-be", "UTF-16"),
        (JAPANESE, "utf-32", "UTF-32"),
        (PROSE, "cp1252", "Windows-1252"),
        ("Château, déjà, Übung", "latin-1", "Windows-1252"),
        ("", "utf-8", "UTF-8"),
        (page(RUSSIAN, '<meta charset="windows-1251">'), "cp1251", "Windows-1251"),
        (page(RUSSIAN, "<META HTTP-EQUIV=x CONTENT='text/html; charset=KOI8-R'>"), "koi8-r", "KOI8-R"),
        ('<?xml version="1.0" encoding="Shift_JIS"?>' + page(JAPANESE, ""), "cp932", "CP932"),
        (page(PROSE, "<meta charset=iso-8859-1>"), "cp1252", "Windows-1252"),
        (page(PROSE, "<meta charset=utf-8>"), "cp1252", "Windows-1252"),
        (page(PROSE, "<meta charset=iso-8859-1>"), "utf-8", "UTF-8"),
    ],
)
def test_the_right_text(text, encoding, name):
    assert decode(text.encode(encoding)) == (text.removeprefix("\ufeff"), name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((b"caf\xe9 %c" % n, f"not UTF-8 or Windows-1252 .byte 0x{n:02x} at 5") for n in b"\x81\x8d\x8f\x90\x9d"),
        (b"caf\xe9 \x02", "not UTF-8 or Windows-1252 .* would be character 5"),
        (b"a story\0", "a byte that is in no text.*byte 0x00 at 7"),
        (PROSE.encode("utf-16-le"), "a byte that is in no text"),
        (JAPANESE.encode("iso2022_jp"), "a byte that is in no text.*byte 0x1b at 0"),
        (b"%PDF-1.4\n\x1b\xff\xe3", "a byte that is in no text"),
        (PROSE.encode("utf-16")[:-1], "not UTF-16 .byte 0x"),
        ("a\0b".encode("utf-16"), "not UTF-16 .* would be character 1"),
        (b"\xef\xbb\xbfcaf\xe9", "not UTF-8 .byte 0xe9 at 6"),
        (RUSSIAN.encode() + b"\xff", "UTF-8 mixed with something else .byte 0xff at 34"),
        (PROSE.encode() + PROSE.encode("cp1252"), "UTF-8 mixed with something else"),
        (page(JAPANESE, "<meta charset=x-sjis>").encode("cp932"), "declares an encoding that is not known .x-sjis"),
        (page(RUSSIAN, "<meta charset=utf-7>").encode("cp1251"), "declares an encoding that is not known .utf-7"),
        (page(JAPANESE, "<meta charset=euc-jp>").encode("cp932"), "not UTF-8 or EUC_JP"),
        (page(PROSE, "<meta charset=iso-8859-2>").encode("cp1252"), "not UTF-8 or ISO8859-2"),
    ],
)  # fmt: skip
def test_or_a_bad_record(content, message):
    with pytest.raises(BadRecordError, match=message):
        decode(content)


def test_a_story_is_counted_under_its_encoding(tmp_path):
    bad = BadRecords()
    for number, encoding in enumerate(("utf-8", "cp1252", "utf-16", "cp1252")):
        (tmp_path / f"s{number}.content").write_bytes(PROSE.encode(encoding))
        assert read_story(tmp_path / f"s{number}.content", "Ferry", bad).text == PROSE
    assert bad.notes == {"stories read as Windows-1252": 2, "stories read as UTF-16": 1}


def test_lines_with_nul_are_bad_records(tmp_path):
    (tmp_path / "corpus.txt").write_bytes("ferry\nboat\n".encode("utf-16") + b"oar\n")
    bad = BadRecords(skip=True)
    assert [line for _, line in numbered_lines(tmp_path / "corpus.txt", bad)] == []
    assert bad.reasons == {"not UTF-8": 1, "a NUL byte: no text, or UTF-16": 2}
