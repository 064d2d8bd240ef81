# make demo    classify a photograph with the model that comes along; IMAGE=... another one, WEIGHTS=... with those
# make test    the tests of the package with the light extras: neither PyTorch nor PaddlePaddle
# make test-all   all tests: also training, the exporter, and other projects' clients and libraries
# make environments   those that 'make test-all' needs beside .venv; may run beside others
# make test-extra   the slowest tests, and those with large libraries: examples, clusters, timm
# make coverage   how much of the package its tests run
# make native   build ghostzoo's own engine, test it, and install it into .venv (needs a C++ compiler)
# make lowest  the quick tests with the lowest versions that pyproject.toml allows; make opencv, those of images with each
#              OpenCV from there on
# make audit   known vulnerabilities and licences of what the container installs
# make figures  all measurements that README.md and docs/ quote, on an idle machine, and write them there, with
#              DATA=folder with the two tars of CONTRIBUTING.md; make measure, the same where the peers are there
# make docs    the documentation as a site, in site/
# make pictures   those of the documentation, and what the tutorial shows (needs Chromium and npm); DATA=folder with
#              the tars of CONTRIBUTING.md: also those of the evaluation
# make lint    ruff, mypy and the layers of imports
# make peers   fetch transformers.js and TypeScript for the tests on Node.js (needs npm)
# make web     what the web page runs models with in the browser: 'make wasm', and onnxruntime-web (needs npm)
# make wasm    build ghostzoo's own engine for the browser, as WebAssembly
# make npm     the package for JavaScript, in dist/ (needs npm)
# make lock    choose the newest versions of what the server needs, with their hashes, for the container
# make sbom    write what the server consists of, as CycloneDX, to dist/
# make base-image, make image   name the container's base by its digest; build the container on it (needs Docker)
# Each makes the virtual environments that it needs, with nox: noxfile.py says how, pyproject.toml what is in them.

# The first interpreter that is there and new enough.
PYTHON ?= $(or $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(if $(shell \
	$(name) -c 'import sys; sys.exit(sys.hexversion < 0x30b0000)' 2>/dev/null && echo yes),$(name)))),python3)

NOX := .venv-nox/bin/nox
RUNTIME := .venv/bin/ghostzoo
RELEASE := .venv-release/installed.json
WEB := ghostzoo/serve/page/vendor
NPM := ghostzoo/serve/page/ghostzoo
PEERS := tests/hub/node/node_modules
# Without npm the tests of the web page and those on Node are skipped, saying so.
NODE := $(if $(shell command -v npm),web peers)

DOCKER ?= docker
BASE ?= python:3.13-slim
# Such as python:3.13-slim@sha256:...; 'make base-image' writes it to the Dockerfile.
BASE_IMAGE ?= $(shell sed -n 's/^ARG BASE_IMAGE=//p' Dockerfile)
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' ghostzoo/_version.py)

IMAGE ?= examples/chelsea.png
MODEL ?= $(patsubst %_pretrained.pdparams,%,$(notdir $(WEIGHTS)))

# One pip at a time fills an environment.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: demo test test-all test-extra coverage docs pictures environments lowest opencv audit figures lint native wasm npm web peers bench-peers clean lock sbom base-image image

ifeq ($(WEIGHTS),)
demo: $(RUNTIME)
	.venv/bin/ghostzoo predict "$(IMAGE)"
else
demo: $(RUNTIME)
	.venv/bin/ghostzoo convert --model "$(MODEL)" --weights "$(WEIGHTS)" --out "bundles/$(MODEL)" --overwrite
	.venv/bin/ghostzoo predict "$(IMAGE)" --model "bundles/$(MODEL)"
endif

# Without a C++ compiler the native engine is not built, and its tests are skipped, saying so.
test: $(NOX) $(NODE)
	$(NOX) --session native test

# 'make test test-all' runs nothing twice. Every part runs, and the last lines say how each ended.
test-all: $(NOX) $(NODE)
	$(NOX) --session $(if $(filter test,$(MAKECMDGOALS)),,native test) interop hub1 training exporters

# What takes large libraries or minutes: CI runs it, apart from the rest.
test-extra: $(NOX)
	$(NOX) --session extra examples clusters timm

coverage: $(NOX) $(NODE)
	$(NOX) --session coverage

native: $(NOX)
	$(NOX) --session native

lint: $(NOX)
	$(NOX) --session lint

TEST_DATA := cifar10-test-dev.tar

pictures: $(NOX) web
	$(NOX) --session pictures $(if $(wildcard $(DATA)/$(TEST_DATA)),-- --data $(DATA)/$(TEST_DATA))

docs lowest opencv audit environments: $(NOX)
	$(NOX) --session $@

bench-peers: $(NOX)
	$(NOX) --session bench_peers

DATA ?= .
# What measures, and what is measured: 'make measure FIGURES="graph folder"' takes these two alone.
MEASURING ?= .venv/bin/python
FIGURES ?= quantized graph layers end_to_end stages startup overhead folder serve-embedded serve-x0_5 serve-x1_0 memory soak
OPTIONS_quantized = --calibration $(DATA)/cifar10-train.tar --data $(DATA)/$(TEST_DATA)
OPTIONS_graph = $(foreach width,x0_5 x1_0 x1_3,--model GhostNet_$(width))
OPTIONS_layers = --model GhostNet_x1_3 --batch 1 --batch 8
OPTIONS_serve-embedded = --seconds 3
OPTIONS_serve-x0_5 = --seconds 3 --model .bench-models/GhostNet_x0_5/bundle
OPTIONS_serve-x1_0 = --seconds 3 --model .bench-models/GhostNet_x1_0/bundle

.PHONY: measure
figures: bench-peers measure

measure: $(FIGURES:%=measure-%)
	$(MEASURING) -m benchmarks.figures

measure-%:
	$(MEASURING) benchmarks/$(firstword $(subst -, ,$*)).py --out benchmarks/results/$*.json $(OPTIONS_$*)

peers: $(PEERS)/.package-lock.json

$(PEERS)/.package-lock.json: tests/hub/node/package-lock.json
	cd tests/hub/node && npm ci --ignore-scripts --no-audit --no-fund

web: $(WEB)/LICENSE $(NPM)/ghostzoo.wasm

wasm: $(NPM)/ghostzoo.wasm

npm: $(NPM)/ghostzoo.wasm
	mkdir -p dist && npm pack --pack-destination dist ./$(NPM)

$(NPM)/ghostzoo.wasm: native/CMakeLists.txt native/cmake/zig.cmake $(wildcard native/src/* native/include/ghostzoo/*) | $(NOX)
	$(NOX) --session wasm
	@touch $@

# onnxruntime-web's package has no licence file; the Python package of the same project has it, and the notices.
$(WEB)/LICENSE: exporters/web/package-lock.json | $(RUNTIME)
	cd exporters/web && npm ci --ignore-scripts --no-audit --no-fund
	mkdir -p $(WEB) && rm -f $(WEB)/ort*
	cd exporters/web/node_modules/onnxruntime-web/dist && \
		cp ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm $(CURDIR)/$(WEB)/
	cp "$$(.venv/bin/python -c 'import onnxruntime; print(onnxruntime.__path__[0])')"/ThirdPartyNotices.txt $(WEB)/
	cp "$$(.venv/bin/python -c 'import onnxruntime; print(onnxruntime.__path__[0])')"/LICENSE $@

LOCK = .venv-release/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

# One file for all supported versions of Python and all systems. What builds the package runs its own code, too.
lock: $(RELEASE)
	$(LOCK) --extra serve --output-file requirements.lock pyproject.toml
	.venv-release/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(LOCK) --output-file requirements-build.lock -

sbom: $(RELEASE)
	mkdir -p dist
	.venv-release/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON requirements.lock \
		| .venv-release/bin/python -c 'import json, sys; sbom = json.load(sys.stdin); sbom["metadata"]["component"]["version"] = sys.argv[1]; json.dump(sbom, sys.stdout, indent=2)' $(VERSION) \
		> dist/ghostzoo-$(VERSION).cdx.json

base-image:
	digest=$$($(DOCKER) buildx imagetools inspect --format '{{.Manifest.Digest}}' "$(BASE)") && \
		sed -i "s|^ARG BASE_IMAGE=.*|ARG BASE_IMAGE=$(BASE)@$$digest|" Dockerfile
	grep '^ARG BASE_IMAGE=' Dockerfile

image:
	@echo "$(BASE_IMAGE)" | grep -Eq '@sha256:[0-9a-f]{64}$$' || { \
		echo "The base of a released container is named by its digest, and BASE_IMAGE is '$(BASE_IMAGE)'; run 'make base-image' and commit the Dockerfile." >&2; exit 1; }
	$(DOCKER) build --build-arg "BASE_IMAGE=$(BASE_IMAGE)" --tag "ghostzoo:$(VERSION)" .

clean:
	rm -rf .venv*.lock .venv .venv-nox .venv-train .venv-export .venv-interop .venv-release .venv-lowest .venv-opencv .venv-locked .venv-wasm .venv-docs .venv-pictures .venv-examples .venv-clusters .venv-timm .venv-peers .bench-models bundles site $(WEB) $(NPM)/ghostzoo.wasm $(NPM)/wasi-libc-LICENSE.txt exporters/web/node_modules $(PEERS)

$(NOX):
	$(PYTHON) -m venv .venv-nox
	.venv-nox/bin/python -m pip install --quiet "nox>=2025.2.9"

$(RUNTIME): pyproject.toml | $(NOX)
	$(NOX) --session runtime
	@touch $@

$(RELEASE): pyproject.toml | $(NOX)
	$(NOX) --session release
	@touch $@
