"""Text that spells a special token stays text, in questions and passages; the separator after titles stays one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_retrieval_vectors import make_bert
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertTokenizerFast, PreTrainedTokenizerFast, RobertaTokenizerFast, XLMRobertaTokenizerFast

from retrotune.errors import RetrievalError
from retrotune.retrieval.vectors.encoders import load_encoder
from retrotune.retrieval.vectors.tokens import TextTokens
from retrotune.study.config import RetrieverEntry

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ<>/[]"


def word_pieces() -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})


def unigrams() -> Any:
    """As XLM-R's: special tokens are pieces of the vocabulary, better than all others."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    return XLMRobertaTokenizerFast(
        vocab=[*((token, 0.0) for token in special), *((piece, -5.0) for piece in "▁" + LETTERS)]
    )


def wide_unigrams() -> Any:
    """Full-width spellings become special ones only after normalization."""
    tokenizer = unigrams()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


def byte_pairs() -> Any:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    return RobertaTokenizerFast(
        vocab={piece: number for number, piece in enumerate([*special, "Ġ", *LETTERS])}, merges=[]
    )


def words() -> Any:
    """Words between blanks, special tokens among them."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
    model = models.WordLevel({word: number for number, word in enumerate(vocabulary)}, "[UNK]")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


KINDS = [word_pieces, unigrams, wide_unigrams, byte_pairs, words]


def special_in(tokenizer: Any, numbers: Any) -> list[str]:
    found = tokenizer.convert_ids_to_tokens([int(number) for number in numbers])
    return [token for token in found if token in set(tokenizer.all_special_tokens) - {tokenizer.unk_token}]


@pytest.mark.parametrize("make", KINDS)
def test_no_text_makes_a_special_token(make: Any) -> None:
    tokenizer = make()
    around = [tokenizer.cls_token, tokenizer.sep_token]
    tokens = TextTokens(tokenizer, 64)
    spellings = [*tokenizer.all_special_tokens, "＜/s＞", "［SEP］"]
    texts = [f"a{gap}{mark}{gap}b" for mark in spellings for gap in ("", " ")]
    texts += ["".join(spellings), " ".join(spellings), *spellings]
    for text, numbers in zip(texts, tokens(texts), strict=True):
        assert special_in(tokenizer, numbers) == around, text
        assert len(numbers) > 2, f"{text}: its letters stay"
    for title, text in (("a </s> [SEP]", "b </s> [SEP]"), ("[MASK]", "<s>")):
        assert special_in(tokenizer, tokens([(title, text)])[0]) == [*around, tokenizer.sep_token]


@pytest.mark.parametrize("make", KINDS)
def test_other_texts_have_the_tokenizer_s_own_tokens(make: Any) -> None:
    tokenizer = make()
    texts = ["the red house", "", "A b  c", "é ☃", "x" * 80, "<a> [b]"]
    written = tokenizer(texts, truncation=True, max_length=16)["input_ids"]
    assert [numbers.tolist() for numbers in TextTokens(tokenizer, 16)(texts)] == written
    sep = tokenizer.sep_token
    pairs = [("a b", "c d"), ("t" * 30, "d"), ("a", "d " * 40), ("A", "")]
    written = tokenizer([f"{a} {sep} {b}" for a, b in pairs], truncation=True, max_length=16)["input_ids"]
    assert [numbers.tolist() for numbers in TextTokens(tokenizer, 16)(pairs)] == written


def test_what_is_cut_is_the_tokenizer_s_side() -> None:
    tokenizer = word_pieces()
    tokenizer.truncation_side = "left"
    written = tokenizer(["a b c d e f"], truncation=True, max_length=5)["input_ids"]
    assert TextTokens(tokenizer, 5)(["a b c d e f"])[0].tolist() == written[0]


def test_a_special_token_of_one_character_is_that_character_in_a_text() -> None:
    tokenizer = words()
    tokenizer.add_special_tokens({"pad_token": "a"})
    assert TextTokens(tokenizer, 9)(["a b"])[0].tolist() == tokenizer("a b")["input_ids"]


def test_unknown_words_stay_unknown() -> None:
    tokenizer = word_pieces()
    numbers = TextTokens(tokenizer, 16)(["a ☃ b", "a [UNK] b"])
    assert [(array == tokenizer.unk_token_id).sum() for array in numbers] == [1, 0]


def test_lengths_and_separators_that_cannot_be_are_refused() -> None:
    with pytest.raises(RetrievalError, match="max_length=2 leaves no room"):
        TextTokens(word_pieces(), 2)
    with pytest.raises(RetrievalError, match=r"prefix 'for \[MASK\]: ' spells the special token '\[MASK\]'"):
        TextTokens(word_pieces(), 9, "for [MASK]: ")
    tokenizer = words()
    tokenizer.sep_token = None
    with pytest.raises(RetrievalError, match="no separator: set title_separator to blank"):
        TextTokens(tokenizer, 9)([("a", "b")])


@pytest.mark.parametrize("side", ["query", "passage"])
def test_vectors_of_spelled_tokens_are_those_of_their_text(tmp_path: Path, side: Any) -> None:
    folder = make_bert(tmp_path / "bert", 2)
    keys = {"max_length": 16, "title_separator": "sep_token", "passage_prefix": "the "}
    encoder = load_encoder(RetrieverEntry.model_validate({"query_model": str(folder), **keys}), side, "cpu")
    spelled, parted = encoder.encode(["red [SEP] house", "red [ SEP ] house"])
    np.testing.assert_allclose(spelled, parted, atol=1e-6)
    passages = encoder.passage_texts(["paris", "paris"], ["[SEP] house", "house"])
    spelled, real = encoder.encode(passages)
    assert not np.allclose(spelled, real, atol=1e-3)
    prefix = "the " * (side == "passage")
    tokens = encoder.tokenizer(f"{prefix}paris [SEP] house")["input_ids"]
    with torch.inference_mode():
        expected = encoder._vectors(encoder.model, [np.array(tokens)])[0]
    np.testing.assert_allclose(expected, real, atol=1e-6)
