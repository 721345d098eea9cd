PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What pip does with one core, for tests too.
COMPILE := $(BIN)/python -m compileall -qq -x '/tests?/'
TIMM_VENV := .venv-timm
TIMM_BIN := $(TIMM_VENV)/bin
TIMM_STAMP := $(TIMM_VENV)/.installed
# What timm, open_clip and torchvision change: their models, image processors, stages, exports, and what others load.
TIMM_TESTS := tests/with_timm tests/data/test_pixels.py tests/data/test_whole_image.py tests/export/test_export.py \
	tests/inference/test_model_names.py tests/invariant tests/models/test_stages.py tests/students/test_student_zoo.py \
	tests/test_without_rd_hf.py tests/training/test_models_in_hand.py
# Pages in Debian's chromium. npm fetches the packages of JavaScript that the tests need.
BROWSER := $(VENV)/browser
BROWSER_STAMP := $(BROWSER)/.installed
BROWSER_PACKAGES := axe-core@4.14.1 \
	$$(sed -n 's/^PACKAGE, VERSION = "\(.*\)", "\(.*\)"/\1@\2/p' rd_hf/exports/web/runtime.py)

export HF_HUB_OFFLINE = 1

# What depends on the versions of transformers and huggingface-hub.
FLOOR := .venv-floor
FLOOR_TESTS := tests/hub tests/inference tests/models tests/runtime tests/teacher_cache tests/training

.PHONY: demo test test-floor test-timm test-browser lint docs clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest --ignore=tests/browser

test-floor: $(FLOOR)/.installed
	$(FLOOR)/bin/python -m pytest $(FLOOR_TESTS)

test-timm: $(TIMM_STAMP)
	$(TIMM_BIN)/python -m pytest $(TIMM_TESTS)

test-browser: $(BROWSER_STAMP)
	$(BIN)/python -m pytest --numprocesses=0 tests/browser

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/python docs/generate_cli.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch
	$(COMPILE) -j 1 $(VENV)/lib/python*/site-packages/torch || true & \
		$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[test,lint]"; status=$$?; wait; exit $$status
	$(COMPILE) -j 0 $(VENV)/lib || true
	touch $@

$(FLOOR)/.installed: setup.cfg constraints-floor.txt
	test -x $(FLOOR)/bin/python || $(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install --quiet -c constraints-floor.txt torch torchvision
	$(FLOOR)/bin/python -m pip install --quiet -c constraints-floor.txt -e ".[test]"
	touch $@

# PyPI's torchvision runs with PyPI's torch only: `===` leaves out a build for CPUs that is at hand
$(TIMM_STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(TIMM_BIN)/python || $(PYTHON) -m venv $(TIMM_VENV)
	$(TIMM_BIN)/python -m pip install --quiet torch===$$(sed -n "s/^torch==//p" constraints.txt)
	$(TIMM_BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,timm,open-clip]"
	touch $@

$(BROWSER_STAMP): $(STAMP) Makefile rd_hf/exports/web/runtime.py
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,browser]"
	mkdir -p $(BROWSER)
	for package in $(BROWSER_PACKAGES); do \
		name=$(BROWSER)/$${package%@*} && rm -rf $$name && mkdir $$name && \
		file=$$(npm pack --silent --pack-destination $(BROWSER) $$package) && \
		tar -xzf $(BROWSER)/$$file -C $$name --strip-components=1 || exit 1; done
	touch $@

clean:
	rm -rf $(VENV) $(FLOOR) $(TIMM_VENV) build *.egg-info runs site
