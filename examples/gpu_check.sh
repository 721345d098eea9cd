#!/bin/bash
# bash examples/gpu_check.sh
#
# Checks rd_hf on the GPU of this machine in at most eight minutes: first the tests that need one (results as on the CPU,
# other precisions, torch.compile, the cache, two processes on one GPU), then a table of throughput, waiting for data and
# memory. Ends with the code of the first part that failed. Environment: PYTHON (by default python3).
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
export HF_HUB_OFFLINE=1 PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}

"$python" - <<'PYTHON' || exit 1
import torch

if not torch.cuda.is_available():
    raise SystemExit("There is no GPU. RD_HF_GPU_TESTS_ON_CPU=1 pytest -n 0 tests/gpu tries the tests on the CPU.")
print(torch.cuda.get_device_name(), "- torch", torch.__version__)
PYTHON

timeout 270 "$python" -m pytest -n 0 -q -m gpu tests/gpu
tests=$?
timeout 200 "$python" examples/gpu_check.py "$@"
table=$?
if [ "$tests" -ne 0 ]; then exit "$tests"; fi
exit "$table"
