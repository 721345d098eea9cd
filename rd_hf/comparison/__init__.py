"""`rd-hf compare`: every method a reader will name beside RD and DRD, under one protocol."""
