import json

from retrotune.config import CorpusEntry, TokenizerEntry
from retrotune.log import stage_log
from retrotune.training.tokenizer import train_tokenizer

with stage_log(snakemake.log[0]):
    train_tokenizer(
        {name: CorpusEntry(**entry) for name, entry in json.loads(snakemake.params.corpora).items()},
        snakemake.params.root,
        TokenizerEntry.model_validate_json(snakemake.params.tokenizer).vocab_size,
        snakemake.output[0],
    )
