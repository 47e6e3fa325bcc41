"""Texts put together as tokens: joints between pieces, for tokenizers of all kinds; text that spells special tokens."""

from dataclasses import replace
from random import Random

import pytest
from tokenizer_cases import ADD_BLANKS, KEEP_ENDS, make, wrapped
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from retrotune.data.corpora.records import Document
from retrotune.data.corpora.tokens import chunk_spans
from retrotune.data.datasets import get_spec
from retrotune.data.datasets.base import Example, Passage, Template
from retrotune.prompting.assemble import Assembler
from retrotune.prompting.examples import ExampleEncoder
from retrotune.runtime.log import logger
from retrotune.study.config import Emphasis, PassageLayout
from retrotune.training.sequences import SequenceCollator, SequenceMaker, passage_texts

PASSAGES = [
    Passage("1", "Ada", "Ada Birch was born in Norwick.", 1.0),
    Passage("2", "", "Tom lives in Hull", 0.5),
    Passage("3", "Ada", "In 1952 the old mill stood.", 0.1),
]
ANSWERS = ["Norwick", "7", "1952", "“Ada”", "中文", "🙂 Ada", "(A)", ".5", "é", "'s mill", ", near", "-1", "\u0301x"]
MERGE_JOINTS = {"gpt2", "smollm2", "one long piece", "roberta"}
"""These have other tokens for a blank line before a word than for one at the end of a text; pieces keep the latter."""
MARKS = [
    *["<unk>", "<s>", "</s>", "<pad>", "[UNK]", "[CLS]", "[SEP]", "[PAD]"],
    "<|im_end|>",
    "<|endoftext|>",
    "<eos>",
    "＜/s＞",
]


def encoder(name, variant="base", num_contexts=2, **options):
    layout = PassageLayout(num_contexts=num_contexts, num_neighbors=1, reuse_contexts=True)
    return ExampleEncoder(make(name), get_spec("nq").prompt_of(variant), layout, 512, 32, **options)


def whole_ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("num_contexts", [0, 1, 2])
@pytest.mark.parametrize("variant", ["base", "instruct"])
@pytest.mark.parametrize("name", [*KEEP_ENDS, *ADD_BLANKS])
def test_pieces_joined_are_the_text(name, variant, num_contexts):
    made, spec, tokenizer = encoder(name, variant, num_contexts), get_spec("nq"), make(name)
    for answer in ANSWERS:
        example = Example("q", "Where was Ada Birch born", (answer,))
        item = made.encode(example, PASSAGES, with_answer=True)
        text = spec.prompt(example, PASSAGES[:num_contexts], variant)
        running = whole_ids(tokenizer, text + spec.target(example, variant))
        assert tokenizer.decode(item.prompt_ids) == tokenizer.decode(whole_ids(tokenizer, text))
        if name not in {"t5", "xlm-r", "sentencepiece unigram", "bert"}:  # these change blanks or letters
            assert tokenizer.decode(item.prompt_ids).removeprefix(" ") == text
        if name not in MERGE_JOINTS:
            assert item.prompt_ids + item.answer_ids[:-1] == running
        elif name != "one long piece":
            assert item.answer_ids[:-1] == running[len(running) - len(item.answer_ids) + 1 :]


@pytest.mark.parametrize("name", KEEP_ENDS)
def test_without_blanks_of_the_tokenizer_pieces_are_tokenized_alone(name):
    tokenizer, template = make(name), get_spec("nq").prompt_of("instruct")
    assert Assembler(tokenizer).keeps_ends
    for answer in ANSWERS:
        example = Example("q", f"What is {answer}", (answer,))
        item = encoder(name, "instruct").encode(example, PASSAGES, with_answer=True)
        pieces = [template.system, *map(template.context_piece, PASSAGES[:2]), template.question_piece(example)]
        assert item.prompt_ids == [token for piece in pieces for token in whole_ids(tokenizer, piece)]
        assert item.answer_ids == [*whole_ids(tokenizer, f" {answer}"), tokenizer.eos_token_id]
        assert item.neighbor_ids == [whole_ids(tokenizer, "title: Ada, source: Ada Birch was born in Norwick.")]


@pytest.mark.parametrize("name", [*KEEP_ENDS, *ADD_BLANKS])
def test_cutting_contexts_changes_no_token_of_question_and_answer(name):
    example = Example("q", "Where was Ada Birch born", ("Norwick",))
    made, tokenizer = encoder(name), make(name)
    whole = made.encode(example, PASSAGES, with_answer=True)
    end = len(made.assembler.pieces(["x\n\n", made.template.question_piece(example)])[1])
    gap = made.assembler.go_on(["\n\n"])[0].ids
    for length in range(end + 32, len(whole.prompt_ids) + 32):
        cut = replace(made, max_length=length).encode(example, PASSAGES, with_answer=True)
        kept = cut.prompt_ids[:-end]
        assert cut.prompt_ids[-end:] == whole.prompt_ids[-end:]
        assert cut.answer_ids == whole.answer_ids
        assert kept[: len(kept) - len(gap)] == whole.prompt_ids[: max(len(kept) - len(gap), 0)]
        text = tokenizer.decode(cut.prompt_ids)
        question = tokenizer.decode(whole_ids(tokenizer, made.template.question_piece(example))).removeprefix(" ")
        assert text.endswith(question)
        if kept and name not in {"t5", "xlm-r", "sentencepiece unigram", "bert"}:
            assert text.endswith(f"\n\n{question}"), "no blank between the blank line and the question"


@pytest.mark.parametrize("name", [*KEEP_ENDS, *ADD_BLANKS])
def test_no_special_token_comes_from_text(name):
    tokenizer = make(name)
    forbidden = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    marked = " a ".join(["", *MARKS, ""])
    for mark in (*MARKS, marked, "".join(MARKS)):
        example = Example("q", f"What is {mark}", (mark,), options=(mark, f"{mark}."))
        passages = [Passage("1", mark, f"We put {mark} after it, x{mark}y.", 1.0)] * 2
        template = get_spec("quality").prompt_of("instruct")
        item = replace(
            encoder(name), template=template, max_length=4096, max_new_tokens=900, retrieved_length=900
        ).encode(example, passages, with_answer=True)
        assert item.answer_ids[-1] == tokenizer.eos_token_id
        ids = [*item.prompt_ids, *item.answer_ids[:-1], *item.neighbor_ids[0]]
        assert forbidden.isdisjoint(ids), tokenizer.convert_ids_to_tokens(ids)
        maker = SequenceMaker(tokenizer, 2048, 16, 900, PassageLayout(num_contexts=1, num_neighbors=1))
        neighbors = passage_texts({("d", chunk): passages for chunk in range(99)})
        for sequence in (
            *maker.documents([Document("d", "", mark)], neighbors),
            *maker.chunks([Document("d", "", mark)], neighbors),
        ):
            inside = sequence.ids[: sum(sequence.mask)]
            assert inside[-1] == tokenizer.eos_token_id
            assert forbidden.isdisjoint([*inside[:-1], *sequence.context_ids, *sequence.neighbors[0][0]])
    if name in KEEP_ENDS and name not in {"bert"}:
        assert tokenizer.decode(encoder(name).assembler.begin([marked])[0].ids) == marked


def test_bos_and_tokens_that_are_not_special_stay():
    from tokenizers import processors

    tokenizer = make("qwen")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.add_tokens([AddedToken("<tool>", special=False)])
    backend.add_special_tokens(["<|im_end|>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.enable_truncation(5)
    own = type(tokenizer)(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made = replace(encoder("qwen"), tokenizer=own)
    item = made.encode(Example("q", "Is <tool> or <|im_end|> or <s>", ("<tool>",)), PASSAGES, with_answer=True)
    assert item.prompt_ids[0] == own.bos_token_id
    assert own.bos_token_id not in item.prompt_ids[1:]
    assert item.prompt_ids.count(own.convert_tokens_to_ids("<tool>")) == 1
    assert own.convert_tokens_to_ids("<|im_end|>") not in item.prompt_ids
    assert own.decode(item.answer_ids, skip_special_tokens=True) == " <tool>"
    assert own("a <s>")["input_ids"].count(1) == 2, "what others do with the tokenizer is theirs"


def test_a_tokenizer_in_python_is_assembled_too():
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    assert Assembler(tokenizer).begin([]) == []
    made = replace(encoder("qwen"), tokenizer=tokenizer)
    item = made.encode(Example("q", "Is </s> it", ("é",)), PASSAGES[:2], with_answer=True)
    assert tokenizer.decode(item.prompt_ids) == made.template.prompt(Example("q", "Is </s> it", ("é",)), PASSAGES[:2])
    assert tokenizer.eos_token_id not in item.prompt_ids


def test_a_text_that_merges_with_whatever_comes_before_is_a_beginning(caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    words = {"<unk>": 0, "</s>": 1, "▁": 2, "7": 3, "▁mill": 4, "▁old": 5, ".": 6}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    alone = [pre_tokenizers.Split(mark, "isolated") for mark in "7."]
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace("▁", prepend_scheme="always"), *alone])
    assembler = Assembler(wrapped(backend, unk_token="<unk>", eos_token="</s>"))
    monkeypatch.setattr("retrotune.prompting.assemble._ANCHORS", ("\n", "x"))
    assert [found.ids for found in assembler.begin(["7", "mill", "", " old"])] == [[2, 3], [4], [], [5]]
    assert [found.ids for found in assembler.go_on(["7", "mill", "", "old", " old", "7"])] == [
        [3],
        [4],
        [],
        [5],
        [5],
        [3],
    ]
    assert caplog.messages == ["2 texts are taken as beginnings: 'mill' merges with what comes before"]
    assert assembler.begin([]) == assembler.go_on([]) == []


@pytest.mark.parametrize("name", [*KEEP_ENDS, *ADD_BLANKS])
def test_training_cuts_the_chunks_that_neighbors_were_searched_for(name):
    tokenizer = make(name)
    text = "Ada Birch </s> was born\n\nin Norwick <pad> in 1952, 中文 “x”."
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    (spans,) = chunk_spans(backend, [text], 4)
    (encoded,) = Assembler(tokenizer).begin([text])
    chunks = [encoded.offsets[start : start + 4] for start in range(0, len(encoded.ids), 4)]
    assert spans == [(chunk[0][0], chunk[-1][1]) for chunk in chunks]
    (sequence,) = SequenceMaker(tokenizer, 256, 4, 8, PassageLayout()).chunks([Document("d", "", text)], {})
    assert sequence.ids[: len(encoded.ids)] == encoded.ids


@pytest.mark.parametrize("name", [*KEEP_ENDS, *ADD_BLANKS])
def test_pretraining_text_follows_its_contexts(name):
    tokenizer = make(name)
    emphasis = Emphasis(cue="Answer: The answer is", other_weight=0.5)
    neighbors = passage_texts({("d", 0): PASSAGES})
    maker = SequenceMaker(tokenizer, 400, 4, 8, PassageLayout(num_contexts=2, num_neighbors=1), emphasis)
    text = "Question: Where? Answer: The answer is Norwick"
    (made,) = maker.documents([Document("d", "", text)], neighbors)
    (alone,) = maker.documents([Document("other", "", text)], neighbors)
    whole = "".join(f"{context}\n\n" for context in neighbors["d", 0][:2]) + text
    assert alone.ids == [*whole_ids(tokenizer, text), tokenizer.eos_token_id]
    assert tokenizer.decode(made.context_ids + made.ids[:-1]) == tokenizer.decode(whole_ids(tokenizer, whole))
    pieces = Assembler(tokenizer).pieces(["a.", "\n\n", "Q"])
    if whole_ids(tokenizer, "a.\n\nQ") == [token for piece in pieces for token in piece]:
        assert made.context_ids + made.ids[:-1] == whole_ids(tokenizer, whole)
    assert made.neighbors == [[whole_ids(tokenizer, neighbors["d", 0][2])[:8]]]
    for sequence in (made, alone):
        learned = [token for token, weight in zip(sequence.ids, sequence.weights, strict=True) if weight == 1]
        if name != "one long piece":
            assert tokenizer.decode(learned[:-1]).strip().lower() == "norwick"
            assert sequence.ids[sequence.answers[0]] == learned[0]
    bare = SequenceCollator(0, no_passage_share=1.0)([made], Random(0))
    assert bare["input_ids"].tolist() == [alone.ids], "without its contexts the document begins the text"
    assert (made.bare is None) == (made.ids == alone.ids)


def test_a_template_knows_its_fields():
    with pytest.raises(ValueError, match=r"target: \{answer\} must be in it"):
        Template(question="{question}", target=" {text}")
    with pytest.raises(ValueError, match=r"context: \{text\} must be in it; known are \{text\} and \{title\}"):
        Template(question="{question}", context="{source}: {text}")
    for reader in ("nq", "quality", "qmsum"):
        for variant in ("base", "instruct"):
            template = get_spec(reader).prompt_of(variant)
            assert Template.model_validate_json(template.model_dump_json()) == template
            assert template.answer_ends == {"base": "line", "instruct": "blank_line"}[variant]
