"""Small tokenizers of the kinds that released models have, trained on a few lines."""

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from retrotune.models.convert.tokenizers import read_sentencepiece

LINES = [
    "title: Ada, source: Ada Birch was born in Norwick in 1952.\n\n",
    "title: Tom, source: Tom lives in Hull, near the old mill.\n\n",
    "Question: Where was Ada Birch born? Answer: The answer is Norwick",
    "User: Answer the following question with a short span. Who? (A) one (B) two\n\nAssistant: The answer is 1952",
] * 8
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
NAMED = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
BYTES = [f"<0x{number:02X}>" for number in range(256)]
BLANK = "▁"


def wrapped(tokenizer: Tokenizer, **named: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **(named or NAMED))


def byte_level(pattern: str = GPT2, digits: bool = False, prefix: bool = False, regex: bool = True):
    """GPT-2's kind: bytes, no blanks of its own unless `prefix`."""
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if regex else []
    single = [pre_tokenizers.Digits(True)] if digits else []
    tokenizer = Tokenizer(models.BPE())
    if prefix:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*single, *split, last])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return wrapped(tokenizer)


def sentence_bpe(scheme: str, special_bytes: bool = False):
    """Llama 2's kind as released (`prepend`, a normalizer) and as transformers writes it (`first`), Gemma's (`never`).

    `special_bytes`: its tokens for bytes are marked as special, as in some converted files.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", BLANK)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(BLANK, "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*SPECIAL, *BYTES], show_progress=False)
    tokenizer.train_from_iterator([f" {line}" for line in LINES], trainer)
    plain = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.pre_tokenizer = None
    if scheme == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
        tokenizer.decoder = decoders.Sequence([*plain, decoders.Strip(" ", 1, 0)])
    elif scheme == "never":
        tokenizer.decoder = decoders.Sequence(plain)
    else:
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(BLANK, prepend_scheme=scheme, split=False)
        tokenizer.decoder = decoders.Sequence([*plain, decoders.Strip(" ", 1, 0)])
    values = json.loads(tokenizer.to_str())
    if not special_bytes:
        values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] in SPECIAL]
    return wrapped(Tokenizer.from_str(json.dumps(values)))


def unigram(words_first: bool):
    """T5's kind: white space is one blank, none stands at the ends; `words_first`, XLM-R's: split at blanks before."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    space = pre_tokenizers.Metaspace(BLANK, prepend_scheme="always")
    first = [pre_tokenizers.WhitespaceSplit()] if words_first else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, space])
    tokenizer.decoder = decoders.Metaspace(BLANK, prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    strip = normalizers.Strip(True, True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), strip])
    return wrapped(tokenizer)


def wordpiece():
    """BERT's kind: lower case, words and punctuation apart."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    named = {"unk_token": "[UNK]", "cls_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=list(named.values()), show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return wrapped(tokenizer, **named)


def sentencepiece(kind: str, **options):
    """A SentencePiece model, converted."""
    import sentencepiece as spm

    with tempfile.TemporaryDirectory() as folder:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter([*LINES, "< / s > u n k x y 0 A"]), model_prefix=f"{folder}/m", vocab_size=400,
            model_type=kind, byte_fallback=kind == "bpe", hard_vocab_limit=False, minloglevel=2, pad_id=3, **options,
        )  # fmt: skip
        return read_sentencepiece(Path(folder, "m.model"))


KEEP_ENDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "gpt2": byte_level,
    "qwen": lambda: byte_level(QWEN),
    "llama3": lambda: byte_level(LLAMA3),
    "smollm2": lambda: byte_level(digits=True),
    "one long piece": lambda: byte_level(regex=False),
    "gemma": lambda: sentence_bpe("never"),
    "bert": wordpiece,
}
"""Tokenizers whose pieces are the same alone and in running text."""
ADD_BLANKS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "roberta": lambda: byte_level(prefix=True),
    "llama2": lambda: sentence_bpe("prepend"),
    "llama2, bytes marked special": lambda: sentence_bpe("prepend", special_bytes=True),
    "llama2, metaspace first": lambda: sentence_bpe("first"),
    "metaspace always": lambda: sentence_bpe("always"),
    "t5": lambda: unigram(words_first=False),
    "xlm-r": lambda: unigram(words_first=True),
    "sentencepiece bpe": lambda: sentencepiece(
        "bpe", remove_extra_whitespaces=False, normalization_rule_name="identity"
    ),
    "sentencepiece unigram": lambda: sentencepiece("unigram"),
}
"""Tokenizers that put a blank before each text, some of which drop others."""


@cache
def make(name: str) -> PreTrainedTokenizerFast:
    return {**KEEP_ENDS, **ADD_BLANKS}[name]()
