# `make help` lists what there is. Only Python 3.11 or newer and make are needed; everything else goes into .venv.

ENV   ?= focused_mix
SCALE ?= quick
TARGETS ?= random medium

BIN := .venv/bin
HASHED := --quiet --no-deps --universal --python-version 3.11 --generate-hashes --no-annotate

# $(call install,BIN,LOCK): what the lock lists, each file by its hash; then torch, whose dependencies are there, but for CUDA's.
pip = $(1)/python -m pip install --quiet --disable-pip-version-check
define install
	$(call pip,$(1)) --no-deps --require-hashes -r $(2)
	$(call pip,$(1)) -r requirements-torch.txt
	$(call pip,$(1)) --no-deps --no-build-isolation -e .
endef

.DEFAULT_GOAL := help
.PHONY: help demo grid test pythons faults nightly bench costs gpu agents ablation worlds check lab export plots lock audit readme rooms d3rlpy cross-check coverage site

help: ## this list
	@echo "usage: make TARGET [ENV=$(ENV)] [SCALE=$(SCALE)] [PYTHON=python3.x]"
	@echo
	@sed -n 's/^\([a-z][a-z0-9-]*\):[^#]*## \(.*\)/  make \1	\2/p' Makefile | expand -t 20
	@echo
	@echo "The first target that needs it creates .venv and installs requirements.lock into it."

demo: .venv/.ready ## the whole chain: logged data, pretraining, agent, approval, dataset, reports
	$(BIN)/slate-rl demo $(ENV) --scale $(SCALE)

# ENVS=a,b SEEDS=1,2 AGENTS= ALGORITHMS= restrict it (`all`: every one); APPROVAL=auto lets agents collect that nobody has looked at;
# PROFILE=workflow/profiles/slurm submits the jobs; DRY=1 only plans.
option = $(if $($(2)),--$(1) "$($(2))")
grid: .venv/.ready ## whatever is missing of TARGETS="random medium" in many environments, with many seeds; DRY=1: what it costs
	$(BIN)/slate-rl grid $(TARGETS) --scale $(SCALE) $(call option,envs,ENVS) $(call option,seeds,SEEDS) $(call \
	    option,agents,AGENTS) $(call option,algorithms,ALGORITHMS) $(call option,approval,APPROVAL) $(call \
	    option,cores,CORES) $(call option,shards,SHARDS) $(call option,profile,PROFILE) $(if $(STACKED),--stacked) $(if \
	    $(DRY),--dry)

# Small matrices: more threads than one per process only wait for each other.
test: export OMP_NUM_THREADS = 1
test: check ## the repository's own rules, then the tests in nbs/lib, then the pipeline end to end
	$(BIN)/nbdev_test --n_workers 2 --do_print
	$(BIN)/python -m pytest --ignore tests/test_repository.py -n 2 --dist loadfile --durations 10

faults: export OMP_NUM_THREADS = 1
faults: export SLATE_RL_TRIES ?= 5
faults: export SLATE_RL_FAULTS = $(CURDIR)/nbs/results/faults.csv
faults: .venv/.ready ## strike each stage with each fault, five times, and keep what came of it in nbs/results/faults.csv (half an hour)
	rm -f $(SLATE_RL_FAULTS)
	$(BIN)/python -m pytest tests/test_stages.py tests/test_kernels.py -n 2

nightly: export OMP_NUM_THREADS = 1
nightly: export SLATE_RL_TRIES = 50
nightly: export SLATE_RL_FUZZ = 2000
nightly: export SLATE_RL_NIGHTLY = 1
nightly: export SLATE_RL_ENVIRONMENTS = all
nightly: check ## what takes too long for `make test`: 50 kills of each stage, 2,000 damaged files for each reader, a killed grid (two hours)
	$(BIN)/python -m pytest tests/test_stages.py tests/test_kernels.py tests/test_fuzz.py tests/test_environments.py tests/test_grid.py tests/test_examples.py -n 2

pythons: .venv/.ready ## the tests with each of PYTHONS="python3.12 python3.13", in fresh clones: rows in nbs/results/pythons.csv (half an hour each)
	$(BIN)/python tests/pythons.py $(PYTHONS)

# Processes that tests start are counted too: `sitecustomize` is what Python imports first.
COVERAGE = env PYTHONPATH=$(CURDIR)/.venv/coverage $(BIN)/python -m coverage
coverage: export OMP_NUM_THREADS = 1
coverage: .venv/.ready ## which lines of the package the tests run: a row for each room in nbs/results/coverage.csv (half an hour)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --target .venv/coverage coverage==7.17.5
	echo 'import coverage; coverage.process_startup()' > .venv/coverage/sitecustomize.py
	$(COVERAGE) erase
	printf '%s\n' nbs/lib/*/*.ipynb nbs/studies/*.ipynb | xargs -n 1 -P 2 $(COVERAGE) run tests/cover.py
	$(COVERAGE) run -m pytest --ignore tests/test_repository.py -n 2 --dist loadfile
	$(COVERAGE) combine --quiet
	$(COVERAGE) json --quiet -o .venv/coverage.json
	$(BIN)/python tests/cover.py .venv/coverage.json nbs/results/coverage.csv

worlds: export OMP_NUM_THREADS = 1
worlds: .venv/.ready ## measure params/worlds.yaml again: the returns that tables are read against (half an hour)
	$(BIN)/python -c "from offline_slate_rl.play.worlds import measure_worlds; measure_worlds()"

check: .venv/.ready ## ruff; package and README match the notebooks, imports go down, every test gets run
	$(BIN)/ruff check offline_slate_rl nbs tests
	$(BIN)/python -m pytest -q tests/test_repository.py

agents: export OMP_NUM_THREADS = 1
agents: .venv/.ready ## train the agents of params/agent_study.yaml and keep their rows in nbs/results (hours; ITEMS=table.pt)
	$(BIN)/python -c "from offline_slate_rl.studies.agents import run_study; print(run_study(items='$(ITEMS)'))"

d3rlpy: .venv-d3rlpy/.ready ## the README's lines with d3rlpy, in an environment of its own; needs `make demo` before
	@.venv-d3rlpy/bin/python -c "from offline_slate_rl.studies.cross_check import readme_lines; print(readme_lines())" > .venv-d3rlpy/lines.py
	cat .venv-d3rlpy/lines.py
	.venv-d3rlpy/bin/python .venv-d3rlpy/lines.py

cross-check: export OMP_NUM_THREADS = 1
cross-check: .venv-d3rlpy/.ready ## train d3rlpy's algorithms and ours on the dataset at DATA, and keep their rows (half an hour)
	@test -f "$(DATA)" || { echo "DATA is no file: '$(DATA)'. Give a dataset: make cross-check DATA=outputs/quick/offline_datasets/....h5" >&2; exit 2; }
	.venv-d3rlpy/bin/python -c "from offline_slate_rl.studies.cross_check import cross_check; cross_check('$(DATA)')"
	$(BIN)/python -c "from offline_slate_rl.studies.cross_check import our_side; our_side('$(DATA)')"

ablation: export OMP_NUM_THREADS = 1
ablation: .venv/.ready ## train the variants of params/ablation.yaml and keep their rows in nbs/results (hours)
	$(BIN)/python -c "from offline_slate_rl.studies.ablation import ablate; print(ablate())"

bench: export OMP_NUM_THREADS = 1
bench: .venv/.ready ## how fast this is on one core: a table, and the rows in outputs/bench/latest.json
	$(BIN)/python -c "from offline_slate_rl.pipeline.bench import bench; bench()"

gpu: .venv/.ready ## on a CUDA GPU: does it agree with the CPU, and how fast is it; rows in outputs/bench/gpu.json (five minutes)
	$(BIN)/python -c "from offline_slate_rl.studies.gpu import gpu; gpu()"

costs: export OMP_NUM_THREADS = 1
costs: .venv/.ready ## how time and memory grow with items, slates, users, episodes: nbs/results/costs.csv (some minutes)
	$(BIN)/python -c "from offline_slate_rl.studies.costs import measure_costs; measure_costs()"

lab: .venv/.ready ## JupyterLab, on copies of the notebooks of nbs/ in outputs/lab, so that your runs change nothing here
	$(BIN)/python -c "from offline_slate_rl.pipeline.lab import lab; lab()"

export: .venv/.ready ## clean the notebooks and write offline_slate_rl/ from them
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export

plots: .venv/.ready ## run the notebooks of nbs/lib and nbs/studies, and keep what they show
	$(BIN)/python -c "from offline_slate_rl.pipeline.readme import keep_outputs; keep_outputs()"
	$(BIN)/nbdev_clean

lock: .venv/.ready ## the hashes of requirements.lock and requirements-d3rlpy.lock, from the .in files
	$(BIN)/uv pip compile $(HASHED) requirements.in --output-file requirements.lock
	$(BIN)/uv pip compile $(HASHED) requirements-d3rlpy.in --output-file requirements-d3rlpy.lock

audit: .venv/.ready ## known vulnerabilities of the versions in the lock files; what licences everything has, in nbs/results/licences.csv
	$(BIN)/uv tool run pip-licenses==5.5.5 --python $(BIN)/python --format csv --output-file nbs/results/licences.csv
	$(BIN)/uv tool run pip-audit==2.10.1 --disable-pip --no-deps --strict -r requirements.lock -r requirements-d3rlpy.lock

readme: .venv/.ready ## write README.md from nbs/index.ipynb
	$(BIN)/python -c "from offline_slate_rl.pipeline.readme import write_readme; print(write_readme())"

site: .venv/.ready ## the documentation: outputs/site/html/index.html, with every report that is there (two minutes; nothing is run)
	$(BIN)/python -c "from offline_slate_rl.pipeline.site import build_site; print(build_site())"

rooms: .venv/.ready ## draw the picture of who imports whom, for CONTRIBUTING.md
	$(BIN)/python -c "from offline_slate_rl.pipeline.readme import write_rooms; print(write_rooms())"

# A name on the PATH is no proof: pyenv leaves shims of versions that are not enabled, Debian a Python without venv. Each candidate
# is run. A python3 newer than the lock was made for comes last, before giving up.
.venv/.ready: requirements.lock requirements-torch.txt pyproject.toml
	@rm -f $@
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    found=; \
	    for python in $(if $(PYTHON),"$(PYTHON)",python3:13 python3.13 python3.12 python3.11 python3); do \
	        newest=$${python#*:}; python=$${python%:*}; \
	        [ "$$newest" = 13 ] || newest=99; \
	        if "$$python" -c "import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $$newest))" >/dev/null 2>&1; \
	        then found=$$python; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "No usable Python found: $(if $(PYTHON),$(PYTHON) is not,none of python3 python3.13 python3.12 python3.11 is) version 3.11 or newer with the venv module. Install one (on Debian and Ubuntu: apt install python3-venv) or name it: make PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	    echo "Creating .venv with $$found ($$("$$found" --version))"; \
	    "$$found" -m venv --clear .venv || exit 1; \
	fi
	@echo "Installing requirements.lock into .venv (a few minutes, once)"
	$(call install,$(BIN),requirements.lock)
	$(BIN)/python -m pip check
	@touch $@

# d3rlpy pins an old Gymnasium, so it gets an environment of its own, made with the Python of .venv.
.venv-d3rlpy/.ready: .venv/.ready requirements-d3rlpy.lock requirements-torch.txt
	@rm -f $@
	$(BIN)/python -m venv --clear .venv-d3rlpy
	@echo "Installing requirements-d3rlpy.lock into .venv-d3rlpy (some minutes, once)"
	$(call install,.venv-d3rlpy/bin,requirements-d3rlpy.lock)
	@touch $@
