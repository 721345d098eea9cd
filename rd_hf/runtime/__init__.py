"""The process around a training: several processes, signals, memory, checkpoints."""
