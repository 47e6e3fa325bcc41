#!/usr/bin/env bash
# Snakemake as a job, so that nothing runs on the login node. Arguments are Snakemake's:
#   sbatch --partition=long profiles/slurm-head/head.sh --configfile config/paper.yaml
#SBATCH --job-name=retrotune-head
#SBATCH --time=1-00:00:00
#SBATCH --cpus-per-task=1
#SBATCH --mem=2000
#SBATCH --requeue
# ten minutes before the time limit the head cancels its jobs, which save, and goes back into the queue
#SBATCH --signal=B:USR1@600
#SBATCH --output=/dev/null
#SBATCH --open-mode=append
# Job control: without it background processes ignore SIGINT, which is what makes Snakemake cancel its jobs.
set -u -m
mkdir -p logs/slurm
exec >> "logs/slurm/head-$SLURM_JOB_ID.log" 2>&1
job=$SLURM_JOB_ID
PATH="$PWD/.venv/bin:$PATH"

snakemake_() { snakemake --profile slurm --profile profiles/slurm-head "$@"; }

again=false
trap 'again=true; kill -INT -- "-$head"' USR1
trap 'kill -INT -- "-$head"' TERM
snakemake_ "$@" &
head=$!
# a trap ends `wait` early
while true; do
    wait "$head"
    status=$?
    kill -0 "$head" 2> /dev/null || break
done
if $again && [ "$status" -ne 0 ]; then
    echo "Requeued: the time limit came near."
    # Slurm ends this script then; one that ends by itself at that moment can pass for failed, so its SIGTERM is ignored
    trap '' TERM USR1
    scontrol requeue "$job" && sleep 300
fi
exit "$status"
