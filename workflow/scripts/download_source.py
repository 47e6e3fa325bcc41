from retrotune.preparing.download import download_source
from retrotune.runtime.files import write_json
from retrotune.runtime.lifecycle import stage_log
from retrotune.study.stages import DownloadSourceParams

with stage_log(snakemake.log[0]):
    files = download_source(DownloadSourceParams.of(snakemake.params.uses), snakemake.params.root)
    write_json(snakemake.output[0], {"files": [str(file) for file in files]})
