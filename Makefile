# Every target sets up what it needs: a virtual environment with the pinned versions, and headless OpenGL.
#   make quickstart [TASK=PushT] [SEED=1] [OUT=folder]     the whole loop, minutes on two cores; ends with a report
#   make results                              draws README's table of results anew
#   make test                                 lint, types, tests
#   make docs                                 builds the documentation as a site in site/
#   make mutants                              plants each error of tests/mutants/errors.toml and sees that its tests fail
# and, each in an environment of its own:
#   make test-external                        the adapter's tests with the environments of other packages
#   make test-mujoco4                         the tasks' tests on the next MuJoCo
#   make test-interop                         other tools read what we write, and write what we read: stable-worldmodel, Minari, OGBench, datasets

PYTHON ?= python3
VENV := .venv
EXTERNAL := .venv-external
INTEROP := .venv-interop
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
GL := $(VENV)/.gl

.PHONY: quickstart results test docs mutants test-external test-interop lint types format install clean

quickstart: $(INSTALLED) $(GL)
	$(BIN)/worldmodel quickstart $(if $(TASK),--task "$(TASK)") $(if $(SEED),--seed "$(SEED)") $(if $(OUT),--out "$(OUT)")

results: $(INSTALLED)
	$(BIN)/worldmodel results docs/results/worlds/single.json --page README.md

test: lint types $(GL)
	$(BIN)/python -m pytest

# Every warning is an error; the variable silences an advertisement.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo site/index.html

# 44 of the 207 took 20 minutes on one of two cores, both busy. A few of them, drawn by the commit, are part of make test.
mutants: $(INSTALLED) $(GL)
	$(BIN)/python -m tests.mutants.run

# In an environment of its own: what the extra installs is no part of the pinned set that everything else runs with.
test-external: $(GL)
	@$(EXTERNAL)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(EXTERNAL)
	$(EXTERNAL)/bin/python -m pip install --quiet -c constraints.txt torch
	$(EXTERNAL)/bin/python -m pip install --quiet -c constraints.txt -e '.[test,external,ray]'
	$(EXTERNAL)/bin/python -m pytest -rs tests/envs/adapter/test_packages.py tests/envs/adapter/test_task.py tests/datasets/collection/test_ray.py

# Our pins go in last: stable-worldmodel asks for others, and runs with these. (LeRobot needs an environment
# of its own: tests/interop/test_lerobot.py says how.)
test-interop: $(GL)
	@$(INTEROP)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet -c constraints.txt torch
	$(INTEROP)/bin/python -m pip install --quiet 'stable-worldmodel[env,format]==0.1.1' ogbench==1.2.2 'minari[arrow,hdf5]==0.5.4'
	$(INTEROP)/bin/python -m pip install --quiet -c constraints.txt -e '.[data,test]'
	$(INTEROP)/bin/python -m pytest -rs tests/interop

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tasks on the next MuJoCo, in an environment of its own; the pinned one stays (packages that test-external installs need it).
test-mujoco4: $(GL)
	$(PYTHON) -m venv $(VENV)-mujoco4
	sed 's/^mujoco==.*/mujoco==4.0.0/' constraints.txt > $(VENV)-mujoco4/constraints.txt
	$(VENV)-mujoco4/bin/python -m pip install --quiet -c $(VENV)-mujoco4/constraints.txt -e '.[test]'
	$(VENV)-mujoco4/bin/python -m pytest tests/envs --ignore=tests/envs/test_physics_drift.py
	-$(VENV)-mujoco4/bin/python -m pytest --tb=line tests/envs/test_physics_drift.py # what MuJoCo changed, which may be something

install: $(INSTALLED) $(GL)

clean:
	rm -rf $(VENV) $(VENV)-* build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("worldmodel needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.11")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs,test]'
	@touch $@

# Written only once drawing works, so that it is tried again where it does not; the tests then name what is missing.
$(GL): $(INSTALLED)
	@bash .ci/setup_gl.sh $(BIN)/python && touch $@ || true
