# make setup | demo | test | fuzz | lint | clean      (see README.md)
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz lint format clean

BIN := .venv/bin
# Options of the demo, e.g. make demo BAG=drive.mcap RIG=nuscenes MODEL=cmx-b0-lidar-untrained
DEMO_OPTIONS := $(if $(BAG),--bag "$(BAG)") $(if $(RIG),--rig "$(RIG)") $(if $(MODEL),--model "$(MODEL)") \
	$(if $(DETECTOR),--detector "$(DETECTOR)") $(if $(ENGINE),--engine "$(ENGINE)") $(if $(OUT),--out "$(OUT)") $(if $(RATE),--rate "$(RATE)")

help:
	@echo "make setup   install everything into .venv (the other targets do that by themselves)"
	@echo "make demo    play a bag through the fusion node; BAG= RIG= MODEL= DETECTOR= ENGINE= OUT= RATE="
	@echo "make test    all checks and tests; SLOW=1: large networks, too"
	@echo "make fuzz    damaged messages, bags, configuration and weights; INPUTS= SEED="
	@echo "make lint    format, lint and types only"
	@echo "make clean   remove .venv and everything that was built; results in out/ stay"

setup:
	@scripts/setup.sh

demo: setup
	@$(BIN)/mm-perception demo $(DEMO_OPTIONS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(if $(SLOW),SLOW=$(SLOW)) $(BIN)/python -m pytest $(PYTEST_OPTIONS)

fuzz: setup
	$(BIN)/mm-perception fuzz --inputs $(or $(INPUTS),100000) --seed $(or $(SEED),0)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Only what the tools themselves mark as theirs: colcon's folders hold COLCON_IGNORE, caches CACHEDIR.TAG, and a
# virtual environment of scripts/setup.sh its .made-by-setup.
clean:
	@[ ! -e .venv ] || scripts/setup.sh --remove
	@for folder in build install log; do if [ -e $$folder/COLCON_IGNORE ]; then rm -rf $$folder; fi; done
	@for folder in .mypy_cache .pytest_cache .ruff_cache; do if [ -e $$folder/CACHEDIR.TAG ]; then rm -rf $$folder; fi; done
	rm -rf mm_perception.egg-info .hypothesis
	find mm_perception test launch -name __pycache__ -type d -prune -exec rm -rf {} +
