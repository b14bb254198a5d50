"""launch/kubernetes: valid by the published schemas, of one piece, and what a pod runs ends with a snapshot."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from torch.distributed.run import config_from_args, parse_args

from fr.checkpoint import snapshot
from fr.options.definitions import train_options
from tests.conftest import ROOT, TINY, data_options, folders

FOLDER = ROOT / "launch/kubernetes"
DOCUMENTS = {
    (document["kind"], document["metadata"]["name"]): document
    for path in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
}
JOBSET, RUNTIME = DOCUMENTS["JobSet", "face-training"], DOCUMENTS["TrainingRuntime", "face-recognition"]
TRAINJOB = DOCUMENTS["TrainJob", "face-training"]
DOCKERFILE = (ROOT / "launch/Dockerfile").read_text()
# What Kubeflow Trainer's plugin for torch adds to the container's variables, for two nodes with four GPUs.
TOLD_BY_TRAINER = {
    **{"PET_NNODES": "2", "PET_NPROC_PER_NODE": "4", "PET_NODE_RANK": "1", "PET_MASTER_PORT": "29500"},
    "PET_MASTER_ADDR": "face-training-node-0-0.face-training",
}
PROMISED = 300  # for the last snapshot, as launch/slurm.sh and launch/Dockerfile have it [seconds]


# --- schemas ----------------------------------------------------------------------------------------------------------


def mapping(required: str = "", **fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


def document(group: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    name = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
    fields = {"apiVersion": {"const": group}, "kind": {"const": kind}, "metadata": mapping("name", name=name)}
    return mapping("apiVersion kind metadata spec", spec=spec, **fields)


def array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


# Fields, types and limits of the CRDs as far as they are used here. A Job in them is checked by Kubernetes' own schema.
TEXT, FLAG, COUNT, ANY = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}, {"type": "object"}
ACTIONS = ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob"]
RULE_NAME = {"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"}
RULE = mapping("name action", name=RULE_NAME, action={"enum": ACTIONS}, onJobFailureReasons=array(TEXT))
REPLICATED = mapping("name template", name=TEXT | {"maxLength": 20}, replicas=COUNT, template=ANY)  # Trainer 2.4: 20
JOBSET_SPEC = mapping(
    "replicatedJobs",
    network=mapping(enableDNSHostnames=FLAG, publishNotReadyAddresses=FLAG, subdomain=TEXT),
    failurePolicy=mapping(maxRestarts=COUNT, rules=array(RULE)),
    replicatedJobs=array(REPLICATED),
)
TRAINER = mapping(
    numNodes=COUNT, numProcPerNode=COUNT, resourcesPerNode=ANY, image=TEXT, command=array(TEXT), args=array(TEXT)
)
SCHEMAS = {
    "JobSet": document("jobset.x-k8s.io/v1alpha2", "JobSet", JOBSET_SPEC),
    "TrainingRuntime": document(
        "trainer.kubeflow.org/v1alpha1",
        "TrainingRuntime",
        mapping("template", mlPolicy=mapping(numNodes=COUNT, torch=mapping()), template=mapping(spec=JOBSET_SPEC)),
    ),
    "TrainJob": document(
        "trainer.kubeflow.org/v1alpha1",
        "TrainJob",
        mapping("runtimeRef", runtimeRef=mapping("name", name=TEXT, kind=TEXT, apiGroup=TEXT), trainer=TRAINER),
    ),
}


def of_kubernetes(document: dict[str, Any]) -> None:
    """Raise where a document of a built-in kind has a field or a value that Kubernetes' schema doesn't."""
    for version in ("1.34", "1.37"):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("kind", DOCUMENTS, ids=str)
def test_each_document_is_valid(kind: tuple[str, str]) -> None:
    if schema := SCHEMAS.get(kind[0]):
        jsonschema.validate(DOCUMENTS[kind], schema)
    else:
        of_kubernetes(DOCUMENTS[kind])


def job(document: dict[str, Any]) -> dict[str, Any]:
    """Template of the one Job in a JobSet or a TrainingRuntime."""
    spec = document["spec"]["template"]["spec"] if document is RUNTIME else document["spec"]
    (replicated,) = spec["replicatedJobs"]
    return {"name": replicated["name"], **replicated["template"]}


def pod(document: dict[str, Any]) -> dict[str, Any]:
    template = document["spec"] if document["kind"] == "Deployment" else job(document)["spec"]
    return dict(template["template"]["spec"])


def container(document: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(document)["containers"]
    return dict(only)


PODS = [JOBSET, RUNTIME, DOCUMENTS["Deployment", "tensorboard"]]


@pytest.mark.parametrize("document", [JOBSET, RUNTIME], ids=["JobSet", "TrainingRuntime"])
def test_the_job_in_it_is_valid(document: dict[str, Any]) -> None:
    spec = job(document)["spec"]
    of_kubernetes({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "node"}, "spec": spec})
    # What the API server refuses beyond its schema: a failure policy of pods that restart in place.
    assert spec["podFailurePolicy"] and spec["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec["mlPolicy"]["torch"].update(numProcPerNode="auto"), "numProcPerNode"),  # gone since 2.2
        (lambda spec: spec["template"]["spec"].update(podSpecOverrides=[]), "podSpecOverrides"),
        (lambda spec: spec["template"]["spec"]["failurePolicy"].update(maxRestarts="3"), "is not of type 'integer'"),
    ],
)
def test_the_schema_refuses_what_the_crd_has_not(change: Any, message: str) -> None:
    document = yaml.safe_load(yaml.safe_dump(RUNTIME))
    change(document["spec"])
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(document, SCHEMAS["TrainingRuntime"])


# --- of one piece -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", PODS, ids=lambda document: document["kind"])
def test_volumes_and_claims_that_are_mounted_exist(document: dict[str, Any]) -> None:
    volumes = {volume["name"]: volume for volume in pod(document)["volumes"]}
    assert {mount["name"] for mount in container(document)["volumeMounts"]} == volumes.keys()
    claims = [volume["persistentVolumeClaim"] for volume in volumes.values() if "persistentVolumeClaim" in volume]
    assert claims and all(("PersistentVolumeClaim", claim["claimName"]) in DOCUMENTS for claim in claims)
    mounts = {mount["mountPath"]: mount for mount in container(document)["volumeMounts"]}
    assert re.search(r"^WORKDIR (\S+)$", DOCKERFILE, re.MULTILINE)[1] in mounts  # type: ignore[index]
    if document is not PODS[-1]:
        assert mounts["/data"]["readOnly"] and not mounts["/work"].get("readOnly")
        assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
        roots = {variable["name"]: variable["value"] for variable in container(document)["env"]}
        assert all(root.startswith("/data/") for root in roots.values())


@pytest.mark.parametrize("document", PODS, ids=lambda document: document["kind"])
def test_pods_meet_the_restricted_security_standard_as_the_user_of_the_image(document: dict[str, Any]) -> None:
    of_pod, of_container = pod(document)["securityContext"], container(document)["securityContext"]
    assert of_pod["runAsNonRoot"] and of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"\nUSER {of_pod['runAsUser']}\n" in DOCKERFILE
    assert of_container == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert f"-t {container(document)['image']} ." in (ROOT / "docs/cluster.md").read_text()


def test_both_ways_start_the_same_pod() -> None:
    """But for how torchrun is told of the others, and what a TrainJob says instead of the runtime."""
    differing = {"command", "args", "ports", "resources"}
    first, second = ({**pod(of), "containers": None} for of in (JOBSET, RUNTIME))
    assert first == second
    same = [{key: value for key, value in container(of).items() if key not in differing} for of in (JOBSET, RUNTIME)]
    assert same[0] == same[1]
    trainer = TRAINJOB["spec"]["trainer"]
    assert trainer["args"] == container(JOBSET)["args"]
    assert trainer["resourcesPerNode"] == container(JOBSET)["resources"]
    assert trainer["numNodes"] == job(JOBSET)["spec"]["completions"] == job(JOBSET)["spec"]["parallelism"]
    policies = (JOBSET["spec"], RUNTIME["spec"]["template"]["spec"])
    assert policies[0]["failurePolicy"] == policies[1]["failurePolicy"]
    assert job(JOBSET)["spec"]["podFailurePolicy"] == job(RUNTIME)["spec"]["podFailurePolicy"]


def test_names_that_documents_give_each_other_exist() -> None:
    reference = TRAINJOB["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) in DOCUMENTS
    # By these Trainer finds the container that a TrainJob changes.
    assert job(RUNTIME)["name"] == container(RUNTIME)["name"] == "node"
    assert job(RUNTIME)["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    deployment, service = DOCUMENTS["Deployment", "tensorboard"]["spec"], DOCUMENTS["Service", "tensorboard"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == service["selector"] == labels
    (port,) = container(PODS[-1])["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]
    assert f"--port={port['containerPort']}" in container(PODS[-1])["command"]
    assert f"--logdir={Path('/work', 'logs')}" in container(PODS[-1])["command"]


# --- commands ---------------------------------------------------------------------------------------------------------


def words(document: dict[str, Any], variables: dict[str, str]) -> list[str]:
    """Command and arguments of a pod as the kubelet has them: `$(NAME)` replaced."""
    args = TRAINJOB["spec"]["trainer"]["args"] if document is RUNTIME else container(document)["args"]
    told = [*container(document)["command"], *args]
    return [re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], word) for word in told]


@pytest.mark.parametrize(
    ("document", "variables"), [(JOBSET, {}), (RUNTIME, TOLD_BY_TRAINER)], ids=["JobSet", "TrainingRuntime"]
)
def test_torchrun_and_the_training_take_the_words_of_the_pod(
    document: dict[str, Any], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (variables | {of["name"]: of["value"] for of in container(JOBSET)["env"]}).items():
        monkeypatch.setenv(name, value)
    torchrun, *options = words(document, variables)
    assert torchrun == "torchrun"
    asked = parse_args(options)
    assert asked.nproc_per_node == ("4" if variables else "gpu")
    asked.nproc_per_node = "4"  # there may be no GPU here
    config, program, arguments = config_from_args(asked)
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node, config.max_restarts) == (2, 2, 4, 3)
    # The first pod's name, as JobSet gives it: <JobSet>-<replicated job>-<job>-<pod>.<JobSet>.
    name = JOBSET["metadata"]["name"]
    assert config.rdzv_endpoint == f"{name}-{job(JOBSET)['name']}-0-0.{name}:29500"
    assert config.rdzv_backend == "c10d" and "rank" not in config.rdzv_configs
    assert (program, arguments[0]) == ("fr-train", TRAINJOB["spec"]["trainer"]["args"][0])
    assert train_options(arguments).values.snap_to_resume == "auto"
    # From SIGTERM on: the ranks have what is promised, and torchrun comes to its end before the kubelet's SIGKILL.
    assert config.shutdown_timeout is not None
    assert PROMISED <= config.shutdown_timeout < pod(document)["terminationGracePeriodSeconds"]
    assert f"docker stop --time {PROMISED}" in DOCKERFILE
    assert f"--signal=USR1@{PROMISED}" in (ROOT / "launch/slurm.sh").read_text()


@pytest.mark.thorough
def test_a_pod_that_is_asked_to_end_leaves_a_snapshot(sample_data: Path, tmp_path: Path) -> None:
    """The command of the JobSet's pod, on one node, ended with SIGTERM as the kubelet ends it."""
    program = tmp_path / "fr-train"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/train.py "$@"\n')
    program.chmod(0o755)
    here = {"--nnodes=2": "--nnodes=1", "--nproc_per_node=gpu": "--nproc_per_node=2"}
    torchrun = [here.get(word, word) for word in container(JOBSET)["command"][1:]]
    torchrun = [re.sub(r"(--rdzv_endpoint=).*", r"\1localhost:0", word) for word in torchrun]
    options = [*data_options(sample_data), *TINY, *folders(tmp_path), "--epoch_total_num", "9999"]
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun, *options, "--snap_to_resume=auto"]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with (tmp_path / "said").open("w") as said:
        agent = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "logs/log.jsonl").exists():
            assert time.monotonic() < end and agent.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.1)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) != 0
    finally:
        agent.kill()
    assert snapshot.newest(tmp_path / "snapshots", "tiny"), (tmp_path / "said").read_text()
