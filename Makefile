# All that is needed is GNU make and Python 3.11 or newer; everything else is installed into $(VENV).
#
#   make test                      set up (once), then run the tests but those marked slow
#   make test-slow                 run those marked slow
#   make test ARGS="-k families"   hand options to pytest
#   make demo PYTHON=python3.13    choose the interpreter that $(VENV) is made with

VENV ?= .venv
ARGS ?=

CANDIDATES = $(or $(PYTHON),python3.12 python3.11 python3)
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint clean

help:
	@echo "make demo         fit two real data sets; pictures are written to demo/"
	@echo "make test         run the tests"
	@echo "make test-slow    run those that take minutes: benchmarks, notebooks, processes that are killed"
	@echo "make lint         check format, style and types"
	@echo "make clean        remove $(VENV), caches and what the demo wrote"

demo: $(VENV)/.installed-test
	$(VENV)/bin/python notebooks/demo.py

# Two runs of pytest, since XLA reads its flags once a process: tests/__init__.py says which tests are about what users
# run. One of the two may find nothing to run (status 5), as where ARGS names a file, but not both.
define run-tests
	@status=0; ran=; \
	for flags in cheap default; do \
	    code=0; JAXGMM_TEST_FLAGS=$$flags $(VENV)/bin/python -m pytest --numprocesses auto --dist loadfile \
	        --no-loadscope-reorder -m $(1) $(ARGS) || code=$$?; \
	    case $$code in 0) ran=yes ;; 5) ;; 2 | 130) exit $$code ;; *) ran=yes; status=$$code ;; esac; \
	done; \
	if [ -z "$$ran" ]; then echo "No test was run. Those marked slow: make test-slow" >&2; exit 5; fi; \
	exit $$status
endef

test: $(VENV)/.installed-test
	$(call run-tests,'not slow')

test-slow: $(VENV)/.installed-test
	$(call run-tests,slow)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m pyright --pythonpath $(VENV)/bin/python

# Trying a candidate beats looking for its name: a version manager's shim may be there and refuse to run.
$(VENV)/bin/python:
	@for python in $(CANDIDATES); do \
	    if "$$python" -c '$(NEW_ENOUGH)' 2>/dev/null; then \
	        echo "Creating $(VENV) with $$("$$python" --version)"; \
	        exec "$$python" -m venv $(VENV); \
	    fi; \
	done; \
	echo "No Python 3.11 or newer among: $(CANDIDATES). Name one with make PYTHON=/path/to/python" >&2; \
	exit 1

# A stamp is written when an installation has succeeded, so a second run sets up nothing.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	@touch $@

clean:
	rm -rf $(VENV) demo build dist jaxgmm.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
