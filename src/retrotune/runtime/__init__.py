"""Runtime: how a stage begins and ends, its log, files, signals, devices, Slurm, processes and forks. No torch."""
