"""Byte-level BPE tokenizers trained on corpora of the study."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrotune.errors import ModelError, TrainingError
from retrotune.preparing.documents import count_bad, read_corpus
from retrotune.runtime.files import atomic_write, write_json
from retrotune.runtime.log import logger, progress
from retrotune.study.stages import TrainTokenizerParams

PAD, EOS = "<pad>", "<eos>"


def train_tokenizer(params: TrainTokenizerParams, root: str | Path, out_json: str | Path) -> None:
    """Train byte-level BPE on all documents of the corpora below `root` and write tokenizers' JSON to `out_json`.

    The same corpora give the same file. Any text can be encoded, as the 256 bytes are always pieces; ids 0 and 1 are
    `<pad>` and `<eos>`. `manifest.json` beside it says how many pieces there are, what they were learned from, and what
    was left out. Raises `TrainingError` if `vocab_size` leaves no room for bytes and special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    corpora, vocab_size = params.corpora, params.vocab_size
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + 2:
        raise TrainingError(
            f"vocab_size={vocab_size} is below the {len(alphabet)} bytes and 2 special tokens: raise it"
        )

    bad, documents = count_bad(corpora), dict.fromkeys(corpora, 0)

    def texts() -> Iterator[str]:
        for name, entry in corpora.items():
            for document in read_corpus(entry, root, bad[name]):
                documents[name] += 1
                yield f"{document.title}\n{document.text}" if document.title else document.text

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(progress(texts(), "documents read"), trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        logger.warning("the corpora give only %d pieces of %d", tokenizer.get_vocab_size(), vocab_size)
    with atomic_write(out_json) as temporary:
        tokenizer.save(str(temporary))
    manifest = {
        "params": params.recorded(),
        "vocab_size": tokenizer.get_vocab_size(),
        "documents": documents,
        "bad_records": {name: records.summary() for name, records in bad.items()},
    }
    write_json(Path(out_json).with_name("manifest.json"), manifest)
    logger.info("%s: %d pieces, learned from %d documents", out_json, manifest["vocab_size"], sum(documents.values()))


def wrap_tokenizer(tokenizer_json: str | Path, max_length: int | None = None) -> Any:
    """A trained tokenizer as transformers' `PreTrainedTokenizerFast`, with pad and eos named.

    Its `save_pretrained(folder)` makes `AutoTokenizer.from_pretrained(folder)` work. Raises `ModelError` if the file is
    missing or damaged.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    if not Path(tokenizer_json).is_file():
        raise ModelError(f"{tokenizer_json}: no such tokenizer; train it first")
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_json))
    except Exception as error:  # tokenizers raises bare Exception for damaged files
        raise ModelError(f"{tokenizer_json}: damaged ({error}); delete it and train it again") from error
    length = {} if max_length is None else {"model_max_length": max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False, **length
    )
