# Every command a person types; CI types the same ones. `make help` lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
# Not $(abspath), which takes a path with a space for two.
# Absolute: an environment elsewhere, as in the image `train`, holds packages only and is everybody's.
SHARED := $(filter /%,$(VENV))
BIN := $(if $(SHARED),,$(CURDIR)/)$(VENV)/bin
# Stages call `python`: it has to be the one of this environment, also in `dvc repro`.
export PATH := $(BIN):$(PATH):$(CURDIR)/tests/e2e/tools/node_modules/.bin:$(CURDIR)/ci/cml/node_modules/.bin:$(CURDIR)/.venv-checks/bin
export DVC_NO_ANALYTICS := 1
# DVC asks who runs it, and a container's user often has a number only.
export LOGNAME ?= $(or $(USER),$(firstword $(shell id -un 2>/dev/null || id -u)))
# Images of Python often set it; each of many short processes would then compile torch anew.
unexport PYTHONDONTWRITEBYTECODE
# A user's `pip config set install.user true` cannot work in an environment.
export PIP_USER := 0

# uv, pip, DVC and others say of it at most that there is no such file, and not which.
CERTIFICATES := SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE AWS_CA_BUNDLE PIP_CERT GIT_SSL_CAINFO
NOWHERE := $(shell for name in $(CERTIFICATES); do [ -z "$${!name}" ] || [ -e "$${!name}" ] || echo $$name; done)
$(if $(NOWHERE),$(warning the file of certificates that $(NOWHERE) names does not exist: correct it, or unset it))

ifdef SHARED
export PYTHONPATH := $(CURDIR)/src:$(CURDIR)
else ifndef NO_SETUP
# Modules of another Python (ROS, Spark, a company's tools) would be imported in place of ours.
unexport PYTHONPATH PYTHONHOME
endif

# What a person or a pipeline says reaches the command as it is: neither make nor the shell expands
# it. A title of a merge request is no code.
GIVEN := MAP URL TOKEN VERSION STAGE REASON FORCE JSON TAG AGAINST EVENT APPLY VALUES DAYS COOL_DOWN PROJECT BRANCH CONTEXT PROMETHEUS PULL_SECRET CLEAN POD_TOKEN SOURCE AREA DATES JOB ID SEARCH
unexport $(GIVEN)
$(foreach name,$(GIVEN),$(eval export GIVEN_$(name) := $$(value $(name))))
# $(call need,NAMES,EXAMPLE): refuse a target without what it needs, in the words of make.
need = @for name in $(1); do given="GIVEN_$$name"; [ -n "$${!given}" ] || { \
  echo "error: $$name is missing: make $@ $(2)" >&2; exit 1; }; done

STATE := artifacts/service

# The extras of pyproject.toml to install. Jobs that only release take fewer.
EXTRAS ?= registry,train,delivery,dev
# The build of torch: cpu (550 MB to download in all), cuda (4.5 GB), or auto, which looks for a GPU.
TORCH ?= auto
# uv, which pip brings along where it is missing, or pip alone, which takes several times as long.
INSTALLER ?= uv
# The name of this file holds what was installed, and where: a copied clone installs its own code.
INSTALLED := $(VENV)/.installed-$(shell (echo $(EXTRAS) $(TORCH) $(if $(SHARED),,'$(CURDIR)'); cat pyproject.toml poetry.lock ci/environment.py) | sha256sum | cut -c1-16)

.PHONY: help setup setup-e2e demo train-sample serve repro report gate challenge compare-splits test-model search search-winner test check test-fast mutants e2e lint lint-report pages audit format \
  models promote rollback retire lineage model-item retention gitlab-setup acceptance-gitlab acceptance-cluster acceptance-grafana \
  check-catalogues left-out experiment experiment-commit experiment-check publish comment verify register image job-image deploy secrets argo-enter argo-leave review review-stop retrain notify \
  submit jobs attempt job-status job-budget job-logs job-cancel job-retry \
  monitor demo-drift demo-stream alertmanager dashboards rules figures \
  bench bench-loop bench-eurosat bench-detection bench-serving bench-drift bench-observing bench-map bench-map-jobs bench-quantize bench-batch bench-stream bench-live bench-routing bench-processes bench-slovenia bench-jobs bench-search lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# An image of your own that has everything sets NO_SETUP=1.
setup: $(if $(NO_SETUP),,$(INSTALLED)) ## install everything into .venv (idempotent)

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "error: Python 3.11, 3.12 or 3.13 is needed, this is " + sys.version.split()[0] + ": make setup PYTHON=python3.11")'
	@# The programs of a copied or moved environment start the Python of the first folder.
	@made=$$(. '$(BIN)/activate' 2>/dev/null && echo "$$VIRTUAL_ENV"); if [ -z '$(SHARED)' ] && [ -n "$$made" ] && ! [ "$$made" -ef '$(VENV)' ]; then \
	  echo "setup: $(VENV) was made for $$made: it is made anew"; rm -rf '$(VENV)'; fi
	@'$(BIN)/python' -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv '$(VENV)' || { \
	  echo "error: no virtual environment could be made: on Debian or Ubuntu, apt-get install python3-venv"; exit 1; }
	@'$(BIN)/python' ci/environment.py '$(EXTRAS)' --torch '$(TORCH)' --installer '$(INSTALLER)' $(if $(SHARED),--shared)
	@rm -f '$(VENV)'/.installed-* && touch '$@'
	@echo "setup: done"

# What tests and benchmarks need beyond Python, from Debian: Chromium for the page, wrk and hey for
# load, what the story of `make e2e` runs (images, a registry), what `make monitor` starts, PostgreSQL,
# a Slurm of two nodes.
E2E_PACKAGES := chromium wrk hey rsync buildah podman runc skopeo docker-registry mmdebstrap \
  netavark aardvark-dns iptables catatonit prometheus prometheus-alertmanager prometheus-node-exporter \
  prometheus-pushgateway postgresql postgresql-postgis procps curl \
  slurmctld slurmd slurm-client munge
# Debian starts these when it installs them, and would take the ports of `make monitor`.
E2E_DAEMONS := docker-registry postgresql prometheus prometheus-alertmanager prometheus-node-exporter \
  prometheus-pushgateway slurmctld slurmd munge
E2E_TOOLS := tests/e2e/tools/node_modules/.package-lock.json
CML := ci/cml/node_modules/.package-lock.json
CHECKS := .venv-checks/.installed-$(shell sha256sum ci/checks.txt | cut -c1-16)
STAC := .venv-stac/.installed-$(shell sha256sum ci/stac.txt | cut -c1-16)

setup-e2e: setup $(E2E_TOOLS) $(CML) $(CHECKS) $(STAC) ## install what the end-to-end tests and benchmarks need (Debian or Ubuntu, root)
	@missing=$$(for name in $(E2E_PACKAGES); do \
	  dpkg-query --show --showformat '$${db:Status-Status}' "$$name" 2>/dev/null | grep -qx installed || echo "$$name"; \
	done); \
	if [ -z "$$missing" ]; then exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "setup-e2e: installing" $$missing; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null || exit; \
	  daemons=$$(echo "$$missing" | grep -xF $(E2E_DAEMONS:%=-e %)); \
	  if [ -d /run/systemd/system ] && [ -n "$$daemons" ]; then systemctl disable --quiet --now $$daemons; fi; \
	else \
	  echo "setup-e2e: not root, or no apt-get: tests that need these are skipped and counted:" $$missing; \
	fi

# gitlab-ci-local, and kustomize where no kubectl has one. No install script runs.
$(E2E_TOOLS): tests/e2e/tools/package-lock.json
	@if command -v npm >/dev/null; then \
	  echo "setup-e2e: installing gitlab-ci-local" && npm install --prefix tests/e2e/tools --no-save --ignore-scripts --no-audit --no-fund --silent && touch $@; \
	else echo "setup-e2e: no npm: the story of make e2e is skipped and counted"; fi

# A registry that lacks CML is asked for it alone before its 280 packages are downloaded.
$(CML): ci/cml/package-lock.json
	@if npm view --silent @dvcorg/cml version >/dev/null 2>&1 && echo "setup-e2e: installing CML" \
	  && npm ci --prefix ci/cml --silent; then touch $@; \
	else echo "setup-e2e: no npm, or CML is not in its registry: the tests with the real CML are skipped and counted"; fi

# Linters whose dependencies collide with ours.
$(CHECKS): ci/checks.txt
	@echo "setup-e2e: installing the linters of manifests and images into .venv-checks"
	@test -x .venv-checks/bin/python || $(PYTHON) -m venv .venv-checks
	@.venv-checks/bin/python -m pip install --quiet --disable-pip-version-check --requirement ci/checks.txt
	@rm -f .venv-checks/.installed-* && touch $@

# The catalogue of a story, whose dependencies collide with ours too.
$(STAC): ci/stac.txt
	@echo "setup-e2e: installing a STAC API into .venv-stac"
	@test -x .venv-stac/bin/python || $(PYTHON) -m venv .venv-stac
	@if .venv-stac/bin/python -m pip install --quiet --disable-pip-version-check --requirement ci/stac.txt; then \
	  rm -f .venv-stac/.installed-* && touch $@; \
	else echo "setup-e2e: it cannot be installed: the story with a real catalogue is skipped and counted"; fi

# What `make demo TASK=segmentation` changes in params.yaml.
SEGMENTATION := model.task=segmentation model.network=unet model.width=16 train.class_weights=0.5
# And of `make demo TASK=detection`, of which docs/benchmarks.md says how they were chosen.
DETECTION := model.task=detection model.network=unet-half model.width=16 train.epochs=25 train.batch_size=16 \
  train.progressive=false train.patience=0 train.brightness=0.3
INSTANCES := $(patsubst model.task=%,model.task=instances,$(DETECTION))
CHANGED := $(if $(filter segmentation,$(TASK)),$(SEGMENTATION))$(if $(filter detection,$(TASK)),$(DETECTION))$(if $(filter instances,$(TASK)),$(INSTANCES))
TRAIN := $(if $(CHANGED),dvc exp run $(CHANGED:%=--set-param %),dvc repro)

demo: setup ## train on the embedded sample, then serve (or TASK=segmentation, TASK=detection, TASK=instances, or EUROSAT=path/to/EuroSAT_RGB.zip)
	@python -m service serve --check # before the training, not after it
	@$(MAKE) --no-print-directory train-sample
	@rm -f $(STATE)/wanted.json $(STATE)/served.json
	@$(MAKE) --no-print-directory serve

train-sample: setup ## the first half of the demo: pull the sample, train, evaluate, report
	@git rev-parse --git-dir >/dev/null || { echo "error: DVC and the report need a Git repository that this user owns: git clone instead of an unpacked download, or see what Git says above"; exit 1; }
ifeq ($(TASK),segmentation)
	@python -m pipeline.ingest synthetic-scenes
else ifeq ($(TASK),detection)
	@python -m pipeline.ingest synthetic-harbour
else ifeq ($(TASK),instances)
	@python -m pipeline.ingest synthetic-harbour --masks
else ifdef TASK
	@echo "error: TASK=$(TASK): use segmentation, detection or instances, or leave it out for classification" >&2; exit 1
else ifdef EUROSAT
	@python -m pipeline.ingest eurosat --path '$(EUROSAT)'
else
	@dvc pull data.dvc
endif
	@python -m pipeline.params
	@set -o pipefail; PYTHONUNBUFFERED=1 $(TRAIN) | sed --unbuffered -e '/^Use `dvc push`/d' -e '/^To track the changes/,/core.autostage/d'
	@python -m pipeline.report --against HEAD
ifndef TASK
	@dvc metrics diff --all --no-path --targets reports/metrics.json -- HEAD
endif
	@echo
	@echo "The report is reports/report.md. To change a parameter and compare:"
	@echo "  dvc exp run --set-param train.epochs=12 && dvc exp show --only-changed"
	@$(if $(CHANGED),echo "Back to classification: git checkout -- . && dvc pull")

serve: setup ## serve the bundle in model/ on http://127.0.0.1:8000 (SERVICE_PORT=..., see docs/service.md)
	@python -m service serve --with-key

repro: setup ## run the stages whose inputs changed
	@test -d data || { echo "error: data/ is missing: get the sample with 'dvc pull', or bring your own with 'python -m pipeline.ingest'"; exit 1; }
	@python -m pipeline.params
	@dvc repro

report: setup ## write reports/report.md (AGAINST=main)
	@python -m pipeline.report --against="$${GIVEN_AGAINST:-main}"

gate: setup ## judge the model: exit 1 when it misses a floor (AGAINST=main)
	@python -m pipeline.gate --against="$${GIVEN_AGAINST:-main}"

challenge: setup ## compare the model with that of a revision on chips that neither was trained on (AGAINST=main)
	@python -m pipeline.challenge --against="$${GIVEN_AGAINST:-main}"

compare-splits: setup ## train once more on a random split, and show in the report how much it would flatter
	@python -m pipeline.compare_splits

test-model: setup ## run the tests of the model in tests.yaml: exit 1 when the gate would be closed
	@python -m pipeline.model_tests --strict

# Data and chips of a search, pulled and made where they are missing.
define CHIPS
@test -d data || python -m delivery.dvc pull data.dvc
@dvc repro --quiet preprocess
endef

search: setup ## try the parameters of search.yaml, or go on with it: WORKERS=2 (SEARCH=other.yaml)
	$(CHIPS)
	@python -m pipeline.search run --workers='$(if $(findstring command line,$(origin WORKERS)),$(WORKERS),1)' --file="$${GIVEN_SEARCH:-search.yaml}"

search-winner: setup ## train the best of the search, hold it to its score, compare it, commit it
	$(CHIPS)
	@test -d model || dvc pull --quiet train evaluate 2>/dev/null || echo "search: the model from before is not stored, and trained again"
	@python -m pipeline.search winner

# Tests wait for the programs that they start: one more than cores; two more are no faster.
WORKERS := $(shell expr $$(nproc) + 1)

test: setup ## run the tests
	@pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 10 --ignore tests/e2e

check: setup ## run the tests of what a team changes: parameters, data, remotes, manifests
	@pytest --quiet --tb=line tests/project

test-fast: setup ## run the tests that start no program and train nothing, in a minute
	@pytest --numprocesses $(WORKERS) --dist loadfile --durations 10 --ignore tests/e2e -m "not system"

mutants: setup ## change core modules in small ways, and show the changes that no test notices
	@command -v mutmut >/dev/null || { echo "error: mutmut is not installed: pip install mutmut==3.8.1"; exit 1; }
	@mutmut run --max-children 1 && mutmut results

e2e: setup ## run the whole story: merge request, report, merge, release, rollout
	@pytest --numprocesses $(WORKERS) --dist loadfile --durations 15 tests/e2e

# Spelled by codespell, which also refuses the phrases of ci/words.txt.
PROSE := README.md CONTRIBUTING.md $(wildcard docs/*.md)

lint: setup ## check format, style, types, spelling, and who imports whom
	@black --check --quiet . || (echo "error: not formatted: make format"; exit 1)
	@mypy & types=$$!; flake8 && lint-imports --no-cache && codespell $(PROSE); style=$$?; \
	wait $$types && exit $$style

lint-report: setup ## lint, and write artifacts/code-quality.json for GitLab
	@python ci/code_quality.py $(MAKE) --no-print-directory lint

pages: setup $(CHECKS) ## build the site of docs, experiments and plots in public/
	@python -m delivery.pages

audit: $(CHECKS) ## look for known holes in what is installed, and lint the Dockerfile
	@.venv-checks/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off
	@.venv-checks/bin/hadolint Dockerfile

format: setup ## format the code
	@black --quiet .

# The registry: versions and stages are tags (docs/registry.md).

models: setup ## show versions of the model, their stages and metrics (JSON=1)
	@python -m delivery.registry models $(if $(value JSON),--json)

promote: setup ## let a stage serve a version: VERSION=v1.2.0 STAGE=production (FORCE=1 REASON='...')
	$(call need,VERSION STAGE,VERSION=v1.2.0 STAGE=production)
	@python -m delivery.registry promote $(if $(value FORCE),--force) --reason="$$GIVEN_REASON" -- "$$GIVEN_VERSION" "$$GIVEN_STAGE"

rollback: setup ## let a stage serve what it served before: STAGE=production (VERSION=v1.0.0 REASON='...')
	$(call need,STAGE,STAGE=production)
	@python -m delivery.registry rollback --to="$$GIVEN_VERSION" --reason="$$GIVEN_REASON" -- "$$GIVEN_STAGE"

retire: setup ## let a version go nowhere any more: VERSION=v1.2.0 (REASON='...')
	$(call need,VERSION,VERSION=v1.2.0)
	@python -m delivery.registry retire --reason="$$GIVEN_REASON" -- "$$GIVEN_VERSION"

lineage: setup ## follow a version, or a map, to data, parameters, merge request and stages: VERSION=v1.2.0, or MAP=map.json (JSON=1)
	$(if $(value MAP),,$(call need,VERSION,VERSION=v1.2.0))
	@python -m delivery.registry lineage $(if $(value JSON),--json) -- "$${GIVEN_MAP:-$$GIVEN_VERSION}"

model-item: setup ## describe a version for STAC catalogues of models, in artifacts/model.stac.json: VERSION=v1.2.0
	$(call need,VERSION,VERSION=v1.2.0)
	@python -m delivery.model_item -- "$$GIVEN_VERSION"

retention: setup ## list tags of experiments older than DAYS=90 whose merge request is closed or merged (APPLY=1 deletes them)
	@python -m delivery.retention --days="$${GIVEN_DAYS:-90}" $(if $(value APPLY),--apply)

gitlab-setup: setup ## show what a GitLab project lacks (APPLY=1 makes it, VALUES=file, URL=https://..., PROJECT=team/name, POD_TOKEN=file)
	@python -m delivery.gitlab_setup $(if $(value APPLY),--apply) $(if $(value VALUES),--values="$$GIVEN_VALUES") $(if $(value POD_TOKEN),--pod-token="$$GIVEN_POD_TOKEN") --url="$$GIVEN_URL" --project="$$GIVEN_PROJECT"

acceptance-gitlab: setup ## play a merge request on your own GitLab: URL=https://gitlab.example.com/team/name (GITLAB_TOKEN=...)
	$(call need,URL,URL=https://gitlab.example.com/team/name)
	@GITLAB_TOKEN="$${GITLAB_TOKEN:-$$GIVEN_TOKEN}" python -m delivery.acceptance.gitlab -- "$$GIVEN_URL"

acceptance-cluster: setup ## play a rollout on a cluster of yours: CONTEXT=kind-kind VERSION=v1.2.0 (PROMETHEUS=http://..., PULL_SECRET=config.json, CLEAN=namespace)
	$(call need,CONTEXT,CONTEXT=kind-kind VERSION=v1.2.0)
	@python -m delivery.acceptance.cluster --version="$$GIVEN_VERSION" --prometheus="$$GIVEN_PROMETHEUS" --clean="$$GIVEN_CLEAN" $(if $(value PULL_SECRET),--pull-secret="$$GIVEN_PULL_SECRET") -- "$$GIVEN_CONTEXT"

acceptance-grafana: setup ## import the dashboards into your own Grafana and ask each panel: URL=https://grafana.example.com (GRAFANA_TOKEN=..., SOURCE=name, CLEAN=folder)
	$(call need,URL,URL=https://grafana.example.com)
	@GRAFANA_TOKEN="$${GRAFANA_TOKEN:-$$GIVEN_TOKEN}" python -m delivery.acceptance.grafana --source="$$GIVEN_SOURCE" --clean="$$GIVEN_CLEAN" -- "$$GIVEN_URL"

# What the jobs in templates/ call.

left-out: setup ## show which parts of the pipeline are not set up
	@python -m delivery.left_out

experiment: setup ## train what a merge request proposes, and store the model
	@python -m delivery.experiment

experiment-commit: setup ## commit what was trained to the branch of the merge request
	@python -m delivery.experiment commit

experiment-check: setup ## check that the model of the bot's commit is stored; train nothing
	@python -m delivery.experiment check

comment: setup ## post the report to the merge request (AGAINST=origin/main)
	@python -m delivery.comment --against="$${GIVEN_AGAINST:-origin/main}"

verify: setup ## hold dvc.lock, this commit and the DVC remote together
	@python -m delivery.verify

register: setup ## give this commit's model a version, and push its tag
	@mkdir -p artifacts
	@python -m delivery.dvc pull model
	@tag=$$(python -m delivery.registry register --ci-skip) && echo "$${tag:+VERSION=}$${tag:-OUTDATED=1}" | tee artifacts/release.env

# In the pipeline of a commit that a newer one has overtaken: `register` gave it no version.
ifdef OUTDATED
publish image deploy:
	@echo "left out: a newer version is registered"
else
publish: setup ## show a version in GitLab's model registry and releases: VERSION=landcover@v1.2.0
	$(call need,VERSION,VERSION=landcover@v1.2.0)
	@python -m delivery.registry find -- "$$GIVEN_VERSION" >/dev/null
	@python -m delivery.dvc pull model
	@python -m delivery.tracking -- "$$GIVEN_VERSION"
	@python -m delivery.release_notes -- "$$GIVEN_VERSION"

image: setup ## build, scan and push the service's image with its model: VERSION=landcover@v1.2.0
	$(call need,VERSION,VERSION=landcover@v1.2.0)
	@python -m delivery.registry find -- "$$GIVEN_VERSION" >/dev/null
	@python -m delivery.dvc pull model
	@python -m delivery.image build --version="$$GIVEN_VERSION"
	@python -m delivery.image scan
	@python -m delivery.image push

deploy: setup ## roll a version out: STAGE=staging VERSION=landcover@v1.2.0, or TAG=landcover#staging#3
	$(if $(value TAG),,$(call need,STAGE VERSION,STAGE=staging VERSION=landcover@v1.2.0))
	@if [ -n "$$GIVEN_TAG" ]; then python -m delivery.deploy --tag="$$GIVEN_TAG"; \
	else python -m delivery.deploy --version="$$GIVEN_VERSION" -- "$$GIVEN_STAGE"; fi
endif

job-image: setup ## build and push an image in which jobs install nothing: TORCH=cpu, or cuda for training
	@python -m delivery.image build --target train --build-arg KUBECTL_MIRROR="$$KUBECTL_MIRROR" --build-arg TORCH='$(or $(filter cpu cuda,$(TORCH)),$(error say which torch it has: make job-image TORCH=cpu, or TORCH=cuda))'
	@python -m delivery.image push

render: setup ## write objects of Kubernetes to artifacts/manifests: STAGE=staging VERSION=v1.2.0, STAGE=setup or review (BRANCH=rendered commits them)
	$(call need,STAGE,STAGE=staging VERSION=landcover@v1.2.0)
	@[ -z "$$GIVEN_VERSION" ] || python -m delivery.registry find -- "$$GIVEN_VERSION" >/dev/null
	@python -m delivery.rollout.render --version="$$GIVEN_VERSION" --branch="$$GIVEN_BRANCH" -- "$$GIVEN_STAGE"

secrets: setup ## write the secrets of a stage's pods into the cluster: STAGE=staging (VALUES=file; else secrets.sops.env of the overlay)
	$(call need,STAGE,STAGE=staging)
	@python -m delivery.rollout.secrets $(if $(value VALUES),--values="$$GIVEN_VALUES") -- "$$GIVEN_STAGE"

argo-enter: setup ## hand a stage from its Deployment to Argo Rollouts, without an outage: STAGE=production
	$(call need,STAGE,STAGE=production)
	@python -m delivery.rollout.switch enter -- "$$GIVEN_STAGE"

argo-leave: setup ## hand it back: STAGE=production
	$(call need,STAGE,STAGE=production)
	@python -m delivery.rollout.switch leave -- "$$GIVEN_STAGE"

review: setup ## serve the candidate of a merge request under its own name
	@python -m delivery.review start

review-stop: setup ## end that
	@python -m delivery.review stop

retrain: setup ## train again on what ci/ingest.txt brings, and propose the result (COOL_DOWN=24)
	@python -m delivery.retrain --cool-down="$${GIVEN_COOL_DOWN:-24}"

# Work for engines that a team has (docs/jobs.md).

submit: setup ## queue a job, and answer its id: JOB=jobs/train.yaml
	$(call need,JOB,JOB=jobs/train.yaml)
	@python -m jobs submit -- "$$GIVEN_JOB"

jobs: setup ## list jobs, where they stand, and why they wait (JSON=1)
	@python -m jobs list $(if $(value JSON),--json)

attempt: setup ## run an attempt of a job, as GitLab's runners do: JOBS_ATTEMPT
	@python -m jobs.attempt

job-budget: setup ## show the GPU minutes of the month, of people and merge requests: used, held, left
	@python -m jobs budget

job-status: setup ## show a job: its history, parameters, result: ID=17 (JSON=1)
	$(call need,ID,ID=17)
	@python -m jobs status $(if $(value JSON),--json) -- "$$GIVEN_ID"

job-logs: setup ## print the log of a job until it ends: ID=17
	$(call need,ID,ID=17)
	@python -m jobs logs --follow -- "$$GIVEN_ID"

job-cancel: setup ## cancel a job: ID=17
	$(call need,ID,ID=17)
	@python -m jobs cancel -- "$$GIVEN_ID"

job-retry: setup ## try a job again that failed, was cancelled or timed out: ID=17
	$(call need,ID,ID=17)
	@python -m jobs retry -- "$$GIVEN_ID"

# Watching the model (docs/monitoring.md).

monitor: setup ## watch the service of this machine: Prometheus, Alertmanager, node-exporter (SERVICE_PORT=...)
	@python -m monitoring.local

demo-stream: setup ## a Kafka broker, two workers, a camera over data/ and the page with live frames (after make demo, which trains)
	@test -d model || { echo "error: model/ is missing: make demo trains one, Ctrl-C ends it" >&2; exit 1; }
	@python -m service.stream.demo

demo-drift: setup ## send changed images until the alert ModelDrift fires (beside make demo and make monitor)
	@python -m monitoring.local.demo_drift

alertmanager: setup ## write artifacts/monitoring/alertmanager.yml from ALERT_... (docs/monitoring.md)
	@python -m monitoring.alerts.alertmanager

dashboards: setup ## write Grafana's dashboards from the tables in monitoring/dashboards
	@python -m monitoring.dashboards

rules: setup ## write Prometheus' configuration and rules from monitoring/alerts/templates, and check them
	@python -m monitoring.alerts.rules
	@if command -v promtool >/dev/null; then promtool check rules monitoring/prometheus/rules/*.yml; fi

figures: setup ## push how long this pipeline took, and when its tokens end
	@python -m delivery.training_metrics main

notify: setup ## tell the team: EVENT=released
	$(call need,EVENT,EVENT=released)
	@python -m delivery.notify "$$GIVEN_EVENT"

bench: setup ## measure the demo and the training loop
	@python -m benchmarks.demo
	@python -m benchmarks.training_loop

bench-loop: setup setup-e2e ## measure what a merge request costs beside its training
	@python -m benchmarks.loop

bench-eurosat: setup ## train on real EuroSAT in artifacts/bench/eurosat (EUROSAT=path/to/EuroSAT_RGB.zip)
	@python -m benchmarks.eurosat --path '$(or $(EUROSAT),$(error say where it is: make bench-eurosat EUROSAT=path/to/EuroSAT_RGB.zip))'

bench-detection: setup ## train on real ships of a folder in COCO's format, split by port (SHIPS=path/to/ships)
	@python -m benchmarks.detection --path '$(or $(SHIPS),$(error say where they are: make bench-detection SHIPS=path/to/ships))'

bench-slovenia: setup ## train on a small real scene with a label map, folds of blocks (SLOVENIA=path/to/slovenia)
	@python -m benchmarks.slovenia --path '$(or $(SLOVENIA),$(error say where it is: make bench-slovenia SLOVENIA=path/to/slovenia))'

bench-serving: setup setup-e2e ## measure the service beside bare ONNX Runtime and its peers (10 minutes)
	@python -m benchmarks.serving

bench-drift: setup ## measure false alarms and detection of drift (EUROSAT=path/to/EuroSAT_RGB.zip)
	@python -m benchmarks.drift --path '$(or $(EUROSAT),$(error say where it is: make bench-drift EUROSAT=path/to/EuroSAT_RGB.zip))'

bench-observing: setup ## measure what watching the model costs a request
	@python -m benchmarks.observing

check-catalogues: setup ## ask the public catalogues of Sentinel-2, and fetch a small band of each (AREA=... DATES=...)
	@ask() { python -m pipeline.ingest sentinel2 --area="$${GIVEN_AREA:-14.45,46.03,14.55,46.08}" \
	  --dates="$${GIVEN_DATES:-2025-06}" --catalogue "$$@"; }; \
	failed=; for name in earth-search planetary-computer copernicus; do \
	  ask $$name --dry-run && ask $$name --bands B01 --resolution 60 --into artifacts/catalogues/$$name \
	  || failed="$$failed $$name"; \
	done; [ -z "$$failed" ] || { echo "error: these failed:$$failed" >&2; exit 1; }

bench-map: setup ## measure a scene's map beside bare ONNX Runtime (BUNDLE=folder of a segmentation model, SCENE=scene.tif)
	@python -m benchmarks.map --bundle '$(or $(BUNDLE),model)' $(if $(SCENE),--scene '$(SCENE)')

bench-map-jobs: setup setup-e2e ## measure maps by HTTP and on the page, and /predict beside them (BUNDLE=folder SCENE=scene.tif)
	@python -m benchmarks.map_jobs --bundle '$(or $(BUNDLE),model)' $(if $(SCENE),--scene '$(SCENE)')

bench-quantize: setup ## measure int8 beside float32 on the trained model (PROJECT=folder of another project)
	@python -m benchmarks.quantize $(if $(PROJECT),--project '$(PROJECT)')

bench-batch: setup ## measure a batch of images beside bare ONNX Runtime (BUNDLE=folder of a model)
	@python -m benchmarks.batch $(if $(BUNDLE),--bundle '$(BUNDLE)')

bench-stream: setup ## measure a worker of the stream, and the latency that Kafka adds to HTTP's (BUNDLE=folder of a model)
	@python -m benchmarks.stream $(if $(BUNDLE),--bundle '$(BUNDLE)')

bench-live: setup ## measure how old live frames are, and the memory of those who serve them (after make demo, which trains)
	@python -m benchmarks.live

bench-processes: setup ## measure training with one and two processes (wall time: on two idle cores)
	@python -m benchmarks.processes

bench-routing: setup ## simulate traffic that learns: regret beside an equal split, floor, guard rails, cost of a choice
	@python -m benchmarks.routing

bench-jobs: setup ## measure jobs: from submit to running, and a list of 1,000
	@python -m benchmarks.jobs

bench-search: setup ## measure a search: its own cost a trial, two workers beside one, pruning (SEEDS=3)
	@python -m benchmarks.search --seeds '$(or $(SEEDS),3)'

lock: ## refresh poetry.lock and constraints.txt (needs Poetry 2 with poetry-plugin-export)
	@poetry lock
	@poetry export --all-extras --without-hashes --format constraints.txt --output constraints.txt
	@# torch pins its CUDA libraries itself, and the export names some twice.
	@sed -i -E '/^(nvidia-(cu|nccl|nv)|triton|cuda-)/d' constraints.txt

clean: ## delete what can be made again (data/ and DVC's cache are kept)
	@rm -rf '$(VENV)' artifacts model reports/pictures reports/report.md reports/comment.md reports/report.html .mypy_cache .pytest_cache
	@find src service monitoring tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
