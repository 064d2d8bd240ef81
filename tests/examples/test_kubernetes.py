"""The manifests: Kubernetes' own schemas accept them, and the chart gives the same."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ghostzoo.cli.serve import serve

FOLDER = Path(__file__).parents[2] / "examples/kubernetes"
VERSIONS = ("1.29", "1.32")

KSERVE = """
import importlib, json, sys
models = importlib.import_module("kserve")
kubernetes = importlib.import_module("kubernetes.client")

def check(value, kind, place):
    if kind.startswith("list["):
        return [check(each, kind[5:-1], place) for each in value]
    of = getattr(models, kind.rpartition(".")[2], None) or getattr(kubernetes, kind.rpartition(".")[2], None)
    if of is None:
        return value
    names = {name: attribute for attribute, name in of.attribute_map.items()}
    unknown = value.keys() - names
    assert not unknown, f"{place}: no field {unknown}"
    fields = [(names[key], key, each) for key, each in value.items()]
    return of(**{name: check(each, of.openapi_types[name], f"{place}.{key}") for name, key, each in fields})

for content in json.load(sys.stdin):
    check(content, "V1beta1InferenceService", content["metadata"]["name"])
"""


def render(template: str, values: dict[str, Any]) -> str:
    """Render what the chart's templates use of Helm's language, and nothing else."""

    def value(path: str) -> Any:
        return functools.reduce(lambda at, name: at[name], path.strip(".").split("."), values)

    def block(found: re.Match[str]) -> str:
        return found[2] if value(found[1]) else ""

    def indented(found: re.Match[str]) -> str:
        lines = yaml.safe_dump(value(found[1]), sort_keys=False).splitlines()
        return "".join("\n" + " " * int(found[2]) + line for line in lines)

    def plain(found: re.Match[str]) -> str:
        assert not isinstance(value(found[1]), dict | list), found[0]
        return json.dumps(str(value(found[1]))) if found[2] else str(value(found[1]))

    text = re.sub(r"\n *\{\{- if (\.[\w.]+) \}\}(.*?)\n *\{\{- end \}\}", block, template, flags=re.S)
    text = re.sub(r"\s*\{\{- toYaml (\.[\w.]+) \| nindent (\d+) \}\}", indented, text)
    text = re.sub(r"\{\{ (\.[\w.]+)( \| quote)? \}\}", plain, text)
    assert "{{" not in text
    return text


def chart(**changes: Any) -> list[dict[str, Any]]:
    values = yaml.safe_load((FOLDER / "chart/values.yaml").read_text()) | changes
    files = sorted((FOLDER / "chart/templates").glob("*.yaml"))
    texts = [render(file.read_text(), {"Values": values, "Release": {"Name": "ghostzoo"}}) for file in files]
    return [yaml.safe_load(text) for text in texts]


def test_the_chart_gives_the_manifests() -> None:
    plain = list(yaml.safe_load_all((FOLDER / "ghostzoo.yaml").read_text()))
    assert chart() == plain
    (deployment,) = [each for each in chart(apiKeySecret="zoo") if each["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "zoo", "key": "api-key"}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_schemas_accept_the_manifests(version: str) -> None:
    reason = "kubernetes-validate is not installed here; the group dev has it"
    validate = pytest.importorskip("kubernetes_validate", reason=reason)
    for manifest in [*chart(), *chart(apiKeySecret="zoo")]:
        assert validate.validate(manifest, version, strict=True)
    broken = chart()[1] | {"spec": {"replica": 1}}
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, version, strict=True)


def test_the_servers_options_exist() -> None:
    known = {name for parameter in serve.params for name in (*parameter.opts, *parameter.secondary_opts)}
    kserve = next(yaml.safe_load_all((FOLDER / "kserve.yaml").read_text()))
    given = [*yaml.safe_load((FOLDER / "chart/values.yaml").read_text())["args"]]
    given += kserve["spec"]["predictor"]["containers"][0]["args"]
    assert {word.partition("=")[0] for word in given} <= known


@pytest.mark.slow
def test_kserves_models_accept_its_services() -> None:
    python = os.environ.get("GHOSTZOO_CLIENTS_PYTHON")
    if not python:
        pytest.skip("GHOSTZOO_CLIENTS_PYTHON names no Python with kserve; 'make test-all' makes one")
    services = list(yaml.safe_load_all((FOLDER / "kserve.yaml").read_text()))

    def check() -> subprocess.CompletedProcess[str]:
        given = json.dumps(services)
        return subprocess.run([python, "-c", KSERVE], input=given, capture_output=True, text=True, timeout=300)

    done = check()
    assert done.returncode == 0, done.stderr
    services[0]["spec"]["predictor"]["containers"][0]["imagee"] = "x"
    assert "no field {'imagee'}" in check().stderr
