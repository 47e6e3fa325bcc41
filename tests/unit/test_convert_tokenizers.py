"""Tokenizers written for converted models: the ids and texts of sentencepiece and of the original."""

import functools
import io
import json
import random

import pytest
from gguf import GGUFWriter, TokenType
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer, sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from retrotune.errors import ModelError
from retrotune.models.convert.tokenizers import MAX_BYTES, read_sentencepiece, write_tokenizer
from retrotune.models.loading import load_tokenizer
from retrotune.models.retro.configuration import RetroConfig

SENTENCES = [
    "The river runs past the old mill, and the miller's daughter counts 12 boats in 1969.",
    "def forward(self, hidden): return self.norm(hidden + 3.14)",
    "naïve café, déjà vu, Straße, ½ litre, x² = 4, the ﬁrst ﬂight",
    "Привет, мир: как дела сегодня?",
    "日本語のテキストです。東京 タワー",
    "مرحبا بالعالم كيف حالك",
    "한국어 문장 하나",
    "wait --- what ===== is that ....... !!!",
    "<html> a / b </html> 0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz",
]
KINDS = {
    "unigram": {"model_type": "unigram"},
    "unigram, bytes": {"model_type": "unigram", "byte_fallback": True},
    "unigram, folded": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc_cf"},
    "unigram, identity": {"model_type": "unigram", "byte_fallback": True, "normalization_rule_name": "identity"},
    "unigram, symbols": {"model_type": "unigram", "byte_fallback": True, "user_defined_symbols": "<extra_id_0>,<x>"},
    "bpe": {"model_type": "bpe"},
    "bpe, bytes": {"model_type": "bpe", "byte_fallback": True},
    "bpe, spaces kept": {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "split_digits": True,
        "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True,
    },
    "bpe, no prefix": {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "add_dummy_prefix": False,
        "remove_extra_whitespaces": False, "split_by_whitespace": False,
    },
    "bpe, symbols": {"model_type": "bpe", "byte_fallback": True, "user_defined_symbols": "<extra_id_0>,<x>"},
}  # fmt: skip
IDENTITY = [name for name, options in KINDS.items() if options.get("normalization_rule_name") == "identity"]
NAMES = ["<s>", "</s>", "<unk>", "<0x0A>"]
FRAGMENTS = [
    " ", "   ", "\n", "\n\n\n", "\t", "\r\n", "\u2581", "\u00a0", "\u3000", "\u200b", "\u200d", "\ufeff", "\x07",
    "e\u0301", "e\u0302\u0301", "e\u0323\u0302", "²\u200d", "½", "ﬁ", "Ａ", "ｶ\uff9e", "ｸ\uff9f", "\u2126", "\ufffd",
    "\u1112\u1161\u11ab", "👩\u200d🚀", "🙂", "🇩🇪", "1\ufe0f\u20e3", "1🏻", "שָׁלוֹם", "வணக்கம்", "ที่", "ẞ", "İ",
    "aaaaa", "=====", "2026", "<extra_id_0>", "<x>", "<extra_id_0", "Hello", " world",
]  # fmt: skip


def train(folder, **options):
    draw = random.Random(0)
    words = [word for sentence in SENTENCES for word in sentence.split(" ")]
    texts = SENTENCES * 5 + [" ".join(draw.choices(words, k=draw.randint(3, 15))) for _ in range(300)]
    stream = io.BytesIO()
    settings = {"vocab_size": 600, "hard_vocab_limit": False, "character_coverage": 0.999, "minloglevel": 2} | options
    SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=stream, **settings)
    file = folder / "tokenizer.model"
    file.write_bytes(stream.getvalue())
    return file


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """kind -> (kind, sentencepiece's own, ours as loaded from a written folder)."""

    @functools.cache
    def make(kind):
        folder = tmp_path_factory.mktemp("tokenizer")
        file = train(folder, **KINDS[kind])
        RetroConfig(cross_attention_layers=[]).save_pretrained(folder / "out")
        facts = write_tokenizer(file, folder / "out")
        reference = SentencePieceProcessor(model_file=str(file))
        size = reference.get_piece_size()
        assert facts == {"vocab_size": size, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        return kind, reference, load_tokenizer(folder / "out")

    return make


@pytest.fixture(params=KINDS)
def pair(request, opened):
    return opened(request.param)


def assert_same(pair, text):
    name, reference, ours = pair
    expected, found = reference.encode(text), ours(text)["input_ids"]
    if expected != found and name.startswith("unigram"):  # equally probable segmentations are told apart by rounding
        assert sum(map(reference.get_score, found)) == pytest.approx(sum(map(reference.get_score, expected)), abs=1e-3)
        assert reference.decode(found) == reference.decode(expected)
        return
    assert found == expected
    if reference.unk_id() not in expected:
        assert ours.decode(found) == reference.decode(expected)


def test_ids_and_texts_are_sentencepieces(pair):
    draw = random.Random(1)
    fragments = FRAGMENTS if pair[0] == "bpe, symbols" else FRAGMENTS + NAMES  # a known difference
    for _ in range(1500):
        parts = [
            draw.choice(fragments) if draw.random() < 0.5 else draw.choice(SENTENCES)[draw.randrange(30) :][:25]
            for _ in range(draw.randrange(1, 8))
        ]
        assert_same(pair, "".join(parts))


@pytest.mark.parametrize("kind", IDENTITY)
@given(text=st.text(max_size=40))
def test_without_normalization_any_text_has_sentencepieces_ids(opened, kind, text):
    assert_same(opened(kind), text)


@pytest.mark.parametrize("kind", ["bpe, spaces kept", "bpe, no prefix"])
def test_texts_come_back_where_nothing_is_normalized(opened, kind):
    _, _, ours = opened(kind)
    for text in [*FRAGMENTS, *SENTENCES]:
        assert ours.decode(ours(text)["input_ids"]) == text.replace("\u2581", " ")


def test_special_pieces_are_skipped_and_pieces_keep_their_ids(pair):
    _, reference, ours = pair
    ids = reference.encode("the river")
    assert ours.decode([1, *ids, 2, 2], skip_special_tokens=True) == reference.decode(ids)
    assert ours.convert_ids_to_tokens(range(len(ours))) == reference.id_to_piece(list(range(len(ours))))


def test_offsets_are_those_of_the_text(pair):
    _, _, ours = pair
    text = "the river runs"
    encoding = ours(text, return_offsets_mapping=True)
    assert encoding["offset_mapping"][-1][1] == len(text)


def test_a_model_that_names_no_end_ends_with_its_end_piece(tmp_path):
    file = train(tmp_path, eos_id=-1, bos_id=-1, user_defined_symbols="<|endoftext|>")
    facts = write_tokenizer(file, tmp_path / "out")
    end = SentencePieceProcessor(model_file=str(file)).piece_to_id("<|endoftext|>")
    assert (facts["bos_token_id"], facts["eos_token_id"], facts["pad_token_id"]) == (None, end, end)


def test_a_padding_piece_of_its_own_is_kept(tmp_path):
    assert write_tokenizer(train(tmp_path, pad_id=3), tmp_path / "out")["pad_token_id"] == 3


@pytest.mark.parametrize("kind", ["word", "char"])
def test_other_kinds_are_refused_by_name(tmp_path, kind):
    file = train(tmp_path, model_type=kind)
    with pytest.raises(ModelError, match=r"tokenizer\.model: model_type=") as caught:
        read_sentencepiece(file)
    assert "unigram and BPE" in str(caught.value)


def test_damaged_models_name_the_file(tmp_path):
    file = train(tmp_path)
    whole = file.read_bytes()
    for content in (b"", b"no model at all", whole[: len(whole) // 2], whole[5:], bytes(range(256))):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=r"tokenizer\.model"):
            write_tokenizer(file, tmp_path / "out")
    proto = sentencepiece_model_pb2.ModelProto.FromString(whole)
    proto.normalizer_spec.precompiled_charsmap = proto.normalizer_spec.precompiled_charsmap[:1000]
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=r"tokenizer\.model"):
        write_tokenizer(file, tmp_path / "out")
    with open(file, "wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(ModelError, match="are no tokenizer"):
        write_tokenizer(file, tmp_path / "out")


@pytest.fixture
def hugging_face(tmp_path):
    """A byte-level BPE tokenizer that begins texts, in a folder that says Llama."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|turn|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    folder = tmp_path / "source"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {"bos_token": special[0], "eos_token": special[1], "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(values | {"chat_template": "{{ messages }}"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder, tokenizer


def test_hugging_face_folders_keep_their_ids(hugging_face, tmp_path):
    folder, original = hugging_face
    RetroConfig(cross_attention_layers=[]).save_pretrained(tmp_path / "out")
    facts = write_tokenizer(folder, tmp_path / "out")
    assert facts == {"vocab_size": 400, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    ours = load_tokenizer(tmp_path / "out")
    for text in [*SENTENCES, *FRAGMENTS, "a<|turn|>b"]:
        assert ours(text)["input_ids"] == original.encode(text).ids
        assert ours.decode(ours(text)["input_ids"], skip_special_tokens=True) == text.replace("<|turn|>", "")
    assert ours.chat_template == "{{ messages }}"


def test_a_tokenizer_json_alone_ends_with_its_end_piece(hugging_face, tmp_path):
    folder, original = hugging_face
    facts = write_tokenizer(folder / "tokenizer.json", tmp_path / "out")
    assert (facts["eos_token_id"], facts["pad_token_id"]) == (1, 1)
    RetroConfig(cross_attention_layers=[]).save_pretrained(tmp_path / "out")
    assert load_tokenizer(tmp_path / "out")(SENTENCES[0])["input_ids"] == original.encode(SENTENCES[0]).ids


def test_a_gguf_gives_its_tokenizer(hugging_face, tmp_path):
    folder, original = hugging_face
    values = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"] for token in values["added_tokens"]}
    writer = GGUFWriter(str(tmp_path / "tiny.gguf"), "llama")
    writer.add_name("tiny")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([original.id_to_token(number) for number in range(400)])
    writer.add_token_types([TokenType.CONTROL if number in special else TokenType.NORMAL for number in range(400)])
    writer.add_token_merges([" ".join(pair) for pair in values["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    facts = write_tokenizer(tmp_path / "tiny.gguf", tmp_path / "out")
    assert facts == {"vocab_size": 400, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    RetroConfig(cross_attention_layers=[]).save_pretrained(tmp_path / "out")
    ours = load_tokenizer(tmp_path / "out")
    for text in SENTENCES:
        assert ours(text, add_special_tokens=False)["input_ids"] == original.encode(text, add_special_tokens=False).ids
    (tmp_path / "noise.gguf").write_bytes(b"GGUF" + bytes(99))
    with pytest.raises(ModelError, match=r"noise\.gguf"):
        write_tokenizer(tmp_path / "noise.gguf", tmp_path / "out")


def test_folders_without_a_usable_tokenizer_say_why(hugging_face, tmp_path):
    folder, _ = hugging_face
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | {"auto_map": {"AutoTokenizer": ["code.T", None]}})
    )
    with pytest.raises(ModelError, match="auto_map"):
        write_tokenizer(folder, tmp_path / "out")
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json:1"):
        write_tokenizer(folder, tmp_path / "out")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text('{"model": {}}')
    for source in (folder, folder / "tokenizer.json"):
        with pytest.raises(ModelError, match=str(source)):
            write_tokenizer(source, tmp_path / "out")
    with pytest.raises(ModelError, match="no such tokenizer"):
        write_tokenizer(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="not one SentencePiece model but none"):
        write_tokenizer(tmp_path / "empty", tmp_path / "out")


def test_a_folder_with_one_sentencepiece_model_is_read(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    train(folder, byte_fallback=True)
    assert write_tokenizer(folder, tmp_path / "out")["eos_token_id"] == 2
