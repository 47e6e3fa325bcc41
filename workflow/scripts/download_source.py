from retrotune.preparing.download import download_source
from retrotune.files import write_json
from retrotune.log import stage_log

with stage_log(snakemake.log[0]):
    files = download_source(snakemake.wildcards.download, snakemake.params.folder)
    write_json(snakemake.output[0], {"files": [str(file) for file in files]})
