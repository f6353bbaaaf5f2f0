# aurl: `make song` makes music, `make test` proves everything. The environment is made on the way, once.

VENV := .venv
PY := $(VENV)/bin/python
# the first Python that is new enough and can make an environment; 3.11 is the one the pinned versions were tested with
FIND_PYTHON = for p in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; exit 0; }; done
PINS := settings.ini setup.py constraints.txt .ci/venv.py

.PHONY: help song test lab docs prepare run dev clean
.SUFFIXES:

help: ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

song: $(VENV)/.run ## learn from real music and write new music; args="minutes=2 data=FOLDER" changes how
	@$(VENV)/bin/aurl song $(args)

test: $(VENV)/.dev ## every notebook, run and check; args="-k vocab" for a part
	@$(PY) -m pytest $(args)

lab: $(VENV)/.dev ## JupyterLab on the notebooks
	@cd nbs && ../$(VENV)/bin/jupyter lab $(args)

docs: $(VENV)/.dev ## the documentation as a site that works from its files
	@$(PY) docs/build.py --out _docs $(args)

prepare: $(VENV)/.dev ## before you push: export, clean, README, test
	@$(VENV)/bin/nbdev_export
	@$(VENV)/bin/nbdev_clean
	@if [ -f docs/readme.py ]; then $(PY) docs/readme.py; fi
	@$(PY) -m pytest $(args)

run: $(VENV)/.dev ## execute one notebook in place: make run nb=nbs/400_tokens.vocab.ipynb
	@test -n "$(nb)" || { echo 'say which: make run nb=nbs/400_tokens.vocab.ipynb'; exit 1; }
	@cd "$(dir $(nb))" && "$(CURDIR)/$(VENV)/bin/jupyter" execute --inplace --timeout=1800 "$(notdir $(nb))"
	@$(VENV)/bin/nbdev_clean --fname "$(nb)"

dev: $(VENV)/.dev ## only the environment, with everything for development

clean: ## remove the environment and what was built
	rm -rf $(VENV) build dist _docs _proc *.egg-info

$(VENV)/.python: .ci/venv.py
	@python=$$($(FIND_PYTHON)); test -n "$$python" || { \
		echo 'aurl: no Python 3.11 or newer with venv was found; install one (Debian, Ubuntu: sudo apt install python3 python3-venv; macOS: brew install python@3.11) or say make PYTHON=/path/to/python'; exit 1; }; \
	"$$python" .ci/venv.py $(VENV) python
	@touch $@

$(VENV)/.run: $(VENV)/.python $(PINS)
	@$(PY) .ci/venv.py $(VENV) run
	@touch $@

$(VENV)/.dev: $(VENV)/.python $(PINS)
	@$(PY) .ci/venv.py $(VENV) dev
	@touch $@ $(VENV)/.run
