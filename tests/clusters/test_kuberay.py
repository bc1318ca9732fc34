"""The manifests of clusters/kuberay.yaml against the fields of KubeRay's v1 API that they use.

There is no Kubernetes here, so the schema below states what the RayCluster and RayJob custom resources (ray.io/v1), the
pod template and the volume claim ask of each field we write: its name, type and, where there is one, its enumeration;
every object is closed, so a misspelt or invented field fails. It covers no field that we do not use, no default that
the operator fills in, and not what only an API server can say (quotas, storage classes, image pulls).
"""

from __future__ import annotations

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml

MANIFESTS = Path(__file__).parents[2] / "clusters" / "kuberay.yaml"
QUANTITY = {"type": ["string", "integer"], "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$"}
DNS = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
COUNT = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required: str, **properties: object) -> dict[str, object]:
    """An object with these properties and no other."""
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


def listed(items: object) -> dict[str, object]:
    return {"type": "array", "items": items, "minItems": 1}


AMOUNTS = closed("cpu memory", cpu=QUANTITY, memory=QUANTITY)
RESOURCES = closed("requests limits", requests=AMOUNTS, limits=AMOUNTS)
CONTAINER = closed(
    "name image resources",
    name=DNS,
    image={"type": "string", "pattern": r"^[^\s:]+:[^\s:]+$"},
    env=listed(closed("name value", name={"type": "string"}, value={"type": "string"})),
    ports=listed(closed("name containerPort", name=DNS, containerPort={"type": "integer", "maximum": 65535})),
    resources=RESOURCES,
    volumeMounts=listed(closed("name mountPath", name=DNS, mountPath={"type": "string", "pattern": "^/"})),
)
VOLUME = closed("name persistentVolumeClaim", name=DNS, persistentVolumeClaim=closed("claimName", claimName=DNS))
TEMPLATE = closed("spec", spec=closed("containers", containers=listed(CONTAINER), volumes=listed(VOLUME)))
METADATA = closed("name", name=DNS)
SCHEMAS = {
    "PersistentVolumeClaim": closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": "v1"},
        kind={"type": "string"},
        metadata=METADATA,
        spec=closed(
            "accessModes resources",
            accessModes=listed({"enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]}),
            storageClassName=DNS,
            resources=closed("requests", requests=closed("storage", storage=QUANTITY)),
        ),
    ),
    "RayCluster": closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"type": "string"},
        metadata=METADATA,
        spec=closed(
            "headGroupSpec workerGroupSpecs rayVersion",
            rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
            enableInTreeAutoscaling={"type": "boolean"},
            autoscalerOptions=closed(
                "",
                upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
                idleTimeoutSeconds=COUNT,
                resources=RESOURCES,
            ),
            headGroupSpec=closed(
                "rayStartParams template",
                serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
                rayStartParams=TEXTS,
                template=TEMPLATE,
            ),
            workerGroupSpecs=listed(
                closed(
                    "groupName replicas minReplicas maxReplicas rayStartParams template",
                    groupName=DNS,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    rayStartParams=TEXTS,
                    template=TEMPLATE,
                )
            ),
        ),
    ),
    "RayJob": closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"type": "string"},
        metadata=METADATA,
        spec=closed(
            "entrypoint clusterSelector",
            entrypoint={"type": "string"},
            entrypointNumCpus={"type": "number", "minimum": 0},
            submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
            runtimeEnvYAML={"type": "string"},
            clusterSelector=TEXTS,
        ),
    ),
}


@pytest.fixture
def manifests():
    return {body["kind"]: body for body in yaml.safe_load_all(MANIFESTS.read_text())}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_manifest_uses_only_fields_of_the_api_with_their_types(manifests, kind):
    assert problems(manifests[kind], kind) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),  # the operator takes text only
        (("spec", "workerGroupSpecs", 0, "maxReplica"), 3),
        (("spec", "autoscalerOptions", "upscalingMode"), "Fast"),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "resources"), {}),
    ],
)
def test_the_schema_refuses_what_the_operator_would(manifests, path, value):
    body = copy.deepcopy(manifests["RayCluster"])
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert problems(body, "RayCluster")


def problems(body, kind):
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMAS[kind]).iter_errors(body)]


def pods(manifests):
    spec = manifests["RayCluster"]["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_head_and_workers_see_one_store_under_the_same_path_and_run_one_image(manifests):
    claim = manifests["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    seen = set()
    for pod in pods(manifests):
        (container,) = pod["containers"]
        (volume,) = pod["volumes"]
        (mount,) = container["volumeMounts"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert mount["name"] == volume["name"]
        environment = {each["name"]: each["value"] for each in container["env"]}
        seen.add((container["image"], mount["mountPath"], environment["TAMIS_STORE"]))
    assert len(seen) == 1
    assert all(path == store for _, path, store in seen)


def test_workers_scale_between_their_bounds_and_the_head_takes_no_tasks(manifests):
    spec = manifests["RayCluster"]["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_job_runs_on_that_cluster_and_off_its_head(manifests):
    job, cluster = manifests["RayJob"], manifests["RayCluster"]
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert job["spec"]["entrypointNumCpus"] > 0
    environment = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
    assert environment["TAMIS_STORE"] == "/store"
    assert job["spec"]["entrypoint"].split()[:3] == ["python", "-m", "clusters.cli"]


def test_the_ray_of_the_manifest_is_the_ray_we_test_with(manifests):
    constraints = (MANIFESTS.parents[1] / "constraints.txt").read_text().splitlines()
    assert f"ray=={manifests['RayCluster']['spec']['rayVersion']}" in constraints
