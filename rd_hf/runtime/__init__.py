"""What surrounds the training loop: processes, signals, progress, memory, checkpoints and files."""
