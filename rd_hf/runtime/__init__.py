"""The process around a training: several processes, signals, progress, memory, checkpoints, files."""
