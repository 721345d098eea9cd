PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export HF_HUB_OFFLINE = 1

# What depends on the versions of torch, transformers and huggingface-hub. The extras onnx, masks and volumes ask for a
# newer torch, so MONAI is installed without what it asks for, and nothing of ONNX is tried.
FLOOR := .venv-floor
FLOOR_TESTS := tests/hub tests/inference tests/models tests/runtime tests/teacher_cache tests/training

.PHONY: demo test test-floor lint docs clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest

test-floor: $(FLOOR)/.installed
	$(FLOOR)/bin/python -m pytest $(FLOOR_TESTS)

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/python docs/generate_cli.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,lint]"
	touch $@

$(FLOOR)/.installed: setup.cfg constraints-floor.txt
	test -x $(FLOOR)/bin/python || $(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install --quiet -c constraints-floor.txt torch torchvision
	$(FLOOR)/bin/python -m pip install --quiet -c constraints-floor.txt -e ".[compare,tracking,dicom]" \
		pytest pytest-xdist hypothesis einops nibabel
	$(FLOOR)/bin/python -m pip install --quiet -c constraints-floor.txt --no-deps monai
	touch $@

clean:
	rm -rf $(VENV) $(FLOOR) build *.egg-info runs site
