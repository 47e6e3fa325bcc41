"""Tokenizers that come with checkpoints, written so that `AutoTokenizer` loads them without remote code.

SentencePiece models (NVIDIA's among them) become a `tokenizer.json` with the same ids. What is unusual there: nothing
is split before the model, because pieces may span words; names of control and byte pieces in a text are plain
characters, as for `sentencepiece`; begin and end of text are added by whoever wants them, as in Megatron.
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from retrotune.errors import DataError, ModelError
from retrotune.runtime.files import read_json
from retrotune.study.model_folders import broken_link

MAX_BYTES = 1 << 28
"""No tokenizer is larger; NVIDIA's has 4 MB."""

SPACE = "▁"
END_PIECES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")
"""What ends a text where a tokenizer does not say it."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
UNIGRAM, BPE = 1, 2
NEVER = -1e9
"""Score of pieces that no text may become: the sum of any ordinary pieces is better, though unknown ones are not."""

EXTENDING = Regex(r"(?<=[\s\S])(?=[\p{M}\x{200C}\x{200D}\x{FF9E}\x{FF9F}\x{1F3FB}-\x{1F3FF}\x{E0020}-\x{E007F}\n])")
BREAK = "\ufff0"
"""Before which characters a grapheme goes on, and an unassigned character that ends it."""

PROBES = (
    "", "Hello world", " a  b   c ", "The year 1969, 3.14 and 10,000!", "line\nline\n\n\tindented", "naïve cafe\u0301",
    "Привет, мир", "日本語のテキスト", "مرحبا", "👩\u200d🚀🙂", "def f(x):\n    return x**2", "x</s>y<s><unk><0x0A>",
    "\u2581\u00a0z", "<extra_id_0>System",
)  # fmt: skip
"""Texts on which a converted SentencePiece model is compared with `sentencepiece` itself."""


def write_tokenizer(source: Path, out: Path) -> dict[str, Any]:
    """Write the tokenizer at `source` into folder `out`; `vocab_size`, `bos_token_id`, `eos_token_id`, `pad_token_id`.

    `source`: a folder with a Hugging Face tokenizer or one SentencePiece model, or one file: `tokenizer.json`, a
    SentencePiece `.model`, a `.gguf`. What ends a text is what the tokenizer says, else its piece of `END_PIECES`
    (Megatron's eod is the same); it also pads where there is no padding piece, as in Megatron. Raises `ModelError`
    naming the file for tokenizers that are damaged, need remote code, or are of a kind that is not reproduced exactly.
    """
    source, out = Path(source), Path(out)
    original = _opened(source)
    out.mkdir(parents=True, exist_ok=True)
    _plain(original).save_pretrained(out)
    written = _loaded(out, lambda: _auto(out))
    for text in PROBES:
        expected, found = original(text)["input_ids"], written(text)["input_ids"]
        if expected != found:
            raise ModelError(f"{source}: {text!r} is {expected}, but {found} once written; it cannot be converted")
    return {
        "vocab_size": len(written),
        "bos_token_id": written.bos_token_id,
        "eos_token_id": written.eos_token_id,
        "pad_token_id": written.pad_token_id,
    }


def _opened(source: Path) -> Any:
    if source.is_dir():
        if problem := broken_link(source):
            raise ModelError(problem)
        if any((source / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json")):
            return _hugging_face(source)
        found = sorted(source.glob("*.model"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise ModelError(f"{source}: no tokenizer.json, and not one SentencePiece model but {names}; name the file")
        source = found[0]
    if not source.is_file():
        raise ModelError(f"{source}: no such tokenizer")
    if source.suffix == ".gguf":
        return _loaded(source, lambda: _gguf(source))
    if source.stat().st_size > MAX_BYTES:
        raise ModelError(f"{source}: {source.stat().st_size} bytes are no tokenizer (at most {MAX_BYTES})")
    if source.suffix == ".json":
        return PreTrainedTokenizerFast(tokenizer_object=_loaded(source, lambda: Tokenizer.from_file(str(source))))
    return read_sentencepiece(source)


def _hugging_face(folder: Path) -> Any:
    for file in folder.glob("*.json"):
        if file.stat().st_size > MAX_BYTES:
            raise ModelError(f"{file}: {file.stat().st_size} bytes are no tokenizer (at most {MAX_BYTES})")
    config = folder / "tokenizer_config.json"
    if config.is_file():
        try:
            values = read_json(config, allow_nan=True)
        except DataError as error:
            raise ModelError(str(error)) from error
        if not isinstance(values, dict) or values.get("auto_map"):
            raise ModelError(
                f"{config}: names code of its own (auto_map), which is never run; remove the key if tokenizer.json "
                "holds all of the tokenizer"
            )
    return _loaded(folder, lambda: _auto(folder))


def _gguf(file: Path) -> Any:
    """A GGUF's tokenizer without the pieces that transformers adds to it: the model has no embeddings for them."""
    from gguf import GGUFReader

    theirs = _auto(file.parent, gguf_file=file.name)
    size = len(GGUFReader(file).fields["tokenizer.ggml.tokens"].data)
    values = json.loads(theirs.backend_tokenizer.to_str())
    kept = [token for token in values["added_tokens"] if token["id"] < size]
    foreign = {token["content"] for token in values["added_tokens"]} - {token["content"] for token in kept}
    values["added_tokens"] = kept
    named = {name: getattr(theirs, name) for name in theirs.SPECIAL_TOKENS_ATTRIBUTES}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(values)),
        chat_template=theirs.chat_template,
        **{name: token for name, token in named.items() if isinstance(token, str) and token not in foreign},
    )


def _auto(folder: Path, **options: Any) -> Any:
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **options)


def _loaded(place: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ModelError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for damaged files
        raise ModelError(f"{place}: no usable tokenizer ({error}); fetch it again") from error


def _plain(tokenizer: Any) -> Any:
    """The same tokenizer without its family's class, and with a piece that ends a text and one that pads."""
    if not tokenizer.is_fast:
        raise ModelError(f"{tokenizer.name_or_path}: {type(tokenizer).__name__} has no tokenizer.json form")
    options = {
        name: tokenizer.init_kwargs[name]
        for name in ("model_max_length", "padding_side", "truncation_side", "split_special_tokens")
        if name in tokenizer.init_kwargs
    }
    named = {name: getattr(tokenizer, name) for name in tokenizer.SPECIAL_TOKENS_ATTRIBUTES}
    if named["eos_token"] is None:
        pieces = tokenizer.get_vocab()
        named["eos_token"] = next((piece for piece in END_PIECES if piece in pieces), None)
    if named["pad_token"] is None:
        named["pad_token"] = named["eos_token"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        chat_template=tokenizer.chat_template,
        clean_up_tokenization_spaces=False,
        **options,
        **{name: token for name, token in named.items() if isinstance(token, str)},
    )


def read_sentencepiece(file: Path) -> PreTrainedTokenizerFast:
    """A SentencePiece model (unigram or BPE, with or without byte fallback) whose ids are those of `sentencepiece`.

    Known to differ: a combining mark after a ligature or another character that normalization takes apart; in unigram
    models, segmentations of equal probability, among which float32 rounding chooses in `sentencepiece`; in BPE models
    with user-defined symbols, the name of a control piece that stands alone between two of them. Raises `ModelError`
    for a damaged file, for word and character models, and if `PROBES` do not get the ids that `sentencepiece` gives.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
        reference = SentencePieceProcessor(model_proto=proto.SerializeToString())
        assert len(proto.pieces) == reference.get_piece_size()
    except (DecodeError, RuntimeError, ValueError, OSError, AssertionError) as error:
        raise ModelError(f"{file}: damaged, or no SentencePiece model ({error}); fetch it again") from error
    composes = reference.normalize("e\u0301").endswith("é")
    tokenizer = _loaded(file, lambda: _converted(file, proto, composes))
    ids = {name: getattr(reference, f"{name}_id")() for name in ("bos", "eos", "pad", "unk")}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        **{f"{name}_token": proto.pieces[number].piece for name, number in ids.items() if number >= 0},
    )
    for text in PROBES:
        expected, found = reference.encode(text), wrapped(text)["input_ids"]
        if expected != found:
            raise ModelError(f"{file}: {text!r} is {expected} for sentencepiece, but {found} once converted")
    return wrapped


def _converted(file: Path, proto: Any, composes: bool) -> Tokenizer:
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    unread = {
        "treat_whitespace_as_suffix": trainer.treat_whitespace_as_suffix,
        "escape_whitespaces=False": not rules.escape_whitespaces,
        "unused pieces in a BPE model": trainer.model_type == BPE
        and any(piece.type == UNUSED for piece in proto.pieces),
        f"model_type={trainer.model_type}": trainer.model_type not in (UNIGRAM, BPE),
    }
    if refused := [name for name, found in unread.items() if found]:
        raise ModelError(f"{file}: {', '.join(refused)} is not read; known are unigram and BPE with spaces as prefixes")
    tokenizer = Tokenizer(_unigram(proto) if trainer.model_type == UNIGRAM else _bpe(proto))
    tokenizer.normalizer = normalizers.Sequence(list(_normalizers(rules, composes)))
    symbols = sorted((piece.piece for piece in proto.pieces if piece.type == USER_DEFINED), key=len, reverse=True)
    if symbols and trainer.model_type == BPE:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, symbols))), "isolated")
    decoding = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if rules.add_dummy_prefix or rules.remove_extra_whitespaces:
        decoding.append(decoders.Strip(" ", MAX_BYTES if rules.remove_extra_whitespaces else 1, 0))
    tokenizer.decoder = decoders.Sequence(decoding)
    tokenizer.add_special_tokens(
        [
            AddedToken(piece.piece, special=True, normalized=False)
            for piece in proto.pieces
            if piece.type in (UNKNOWN, CONTROL)
        ]
    )
    return tokenizer


def _normalizers(rules: Any, composes: bool) -> Iterable[Any]:
    if rules.precompiled_charsmap:
        # `Precompiled` maps a short grapheme by its first character alone and loses the others: give it single
        # characters, and compose them afterwards.
        yield normalizers.Replace(EXTENDING, BREAK)
        yield normalizers.Precompiled(rules.precompiled_charsmap)
        yield normalizers.Replace(BREAK, "")
        if composes:
            yield normalizers.NFC()
    if rules.remove_extra_whitespaces:
        yield normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), "")
        yield normalizers.Replace(Regex(" {2,}"), " ")
    if rules.add_dummy_prefix:
        yield normalizers.Prepend(SPACE)
    yield normalizers.Replace(" ", SPACE)


def _unigram(proto: Any) -> models.Unigram:
    best = max((piece.score for piece in proto.pieces if piece.type == NORMAL), default=0.0)

    def score(piece: Any) -> float:
        if piece.type == USER_DEFINED:  # sentencepiece's own way to prefer them
            return len(piece.piece.encode()) * best - 0.1
        return piece.score if piece.type == NORMAL else NEVER

    return models.Unigram(
        [(piece.piece, score(piece)) for piece in proto.pieces],
        unk_id=_unknown(proto),
        byte_fallback=proto.trainer_spec.byte_fallback,
    )


def _bpe(proto: Any) -> models.BPE:
    """Any two pieces that make a third may merge; the third's score says when."""
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(scores, key=lambda piece: -scores[piece])
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return models.BPE(
        {piece.piece: number for number, piece in enumerate(proto.pieces)},
        merges,
        unk_token=proto.pieces[_unknown(proto)].piece,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
        ignore_merges=any(piece.type == USER_DEFINED for piece in proto.pieces),
    )


def _unknown(proto: Any) -> int:
    return next(number for number, piece in enumerate(proto.pieces) if piece.type == UNKNOWN)
