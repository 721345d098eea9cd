"""`rd-hf compare`: compares RD and DRD with other methods under one protocol."""
