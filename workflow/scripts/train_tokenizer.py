from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import TrainTokenizerParams
from retrotune.training.tokenizer import train_tokenizer

with stage_log(snakemake.log[0]):
    train_tokenizer(TrainTokenizerParams.of(snakemake.params.uses), snakemake.params.root, snakemake.output[0])
