"""A strict model of KubeRay's RayJob, RayCluster and RayService (ray.io/v1, to KubeRay 1.6).

Written after the API's types (ray-operator/apis/ray/v1), which its custom resource definitions are
made from. Kubernetes' own types are followed as far as a mistake in them would cost a run.
"""

from typing import Any

__all__ = ["SCHEMAS"]

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FILLED: Schema = {"type": "string", "minLength": 1, "description": "a text that is not empty"}
YES: Schema = {"type": "boolean"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number", "minimum": 0}
FREE: Schema = {"type": "object"}
LIST: Schema = {"type": "array"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
QUANTITIES: Schema = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
MANAGER: Schema = {"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]}


def known(properties: Schema, *required: str) -> Schema:
    """A mapping with these keys alone."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def open_to(properties: Schema, *required: str) -> Schema:
    """A mapping of Kubernetes' with these keys, and others that are not looked at."""
    return {"type": "object", "properties": properties, "required": list(required)}


def each(item: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": item, "minItems": least}


RESOURCES = known({"limits": QUANTITIES, "requests": QUANTITIES, "claims": LIST})
VARIABLE = known({"name": FILLED, "value": TEXT, "valueFrom": FREE}, "name")
CONTAINER = known(
    {
        "name": FILLED,
        "image": FILLED,
        "env": each(VARIABLE),
        "resources": RESOURCES,
        "volumeMounts": each(open_to({"name": FILLED, "mountPath": FILLED}, "name", "mountPath")),
        "ports": each(open_to({"containerPort": WHOLE}, "containerPort")),
        "command": each(TEXT),
        "args": each(TEXT),
        "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        **dict.fromkeys(
            ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "securityContext"),
            FREE,
        ),
        **dict.fromkeys(("envFrom", "resizePolicy", "restartPolicyRules", "volumeDevices"), LIST),
        **dict.fromkeys(
            ("restartPolicy", "terminationMessagePath", "terminationMessagePolicy", "workingDir"),
            TEXT,
        ),
        **dict.fromkeys(("stdin", "stdinOnce", "tty"), YES),
    },
    "name",
    "image",
)
POD = known(
    {
        "metadata": FREE,
        "spec": open_to(
            {
                "containers": each(CONTAINER, 1),
                "initContainers": each(CONTAINER),
                "volumes": each(open_to({"name": FILLED}, "name")),
                "nodeSelector": TEXTS,
                "tolerations": LIST,
            },
            "containers",
        ),
    },
    "spec",
)
GROUP: Schema = {
    "rayStartParams": TEXTS,
    "template": POD,
    "resources": {"type": "object", "additionalProperties": {"type": ["string", "number"]}},
    "labels": TEXTS,
}
HEAD = known(
    GROUP
    | {
        "headService": FREE,
        "enableIngress": YES,
        "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    },
    "template",
)
WORKERS = known(
    GROUP
    | {
        "groupName": FILLED,
        "suspend": YES,
        "replicas": WHOLE,
        "minReplicas": WHOLE,
        "maxReplicas": WHOLE,
        "numOfHosts": {"type": "integer", "minimum": 1},
        "idleTimeoutSeconds": WHOLE,
        "scaleStrategy": known({"workersToDelete": each(TEXT)}),
    },
    "groupName",
    "template",
)
AUTOSCALER = known(
    {
        "version": {"enum": ["v1", "v2"]},
        "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
        "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        "image": FILLED,
        "idleTimeoutSeconds": WHOLE,
        "resources": RESOURCES,
        "securityContext": FREE,
        **dict.fromkeys(("env", "envFrom", "volumeMounts"), LIST),
    }
)
CREDENTIAL = known({"value": TEXT, "valueFrom": FREE})
CLUSTER = known(
    {
        "headGroupSpec": HEAD,
        "workerGroupSpecs": each(WORKERS),
        "rayVersion": FILLED,
        "enableInTreeAutoscaling": YES,
        "autoscalerOptions": AUTOSCALER,
        "authOptions": known(
            {
                "mode": {"enum": ["token", "disabled"]},
                "secretName": FILLED,
                "enableK8sTokenAuth": YES,
            }
        ),
        "upgradeStrategy": known({"type": {"enum": ["Recreate", "None"]}}),
        "gcsFaultToleranceOptions": known(
            {
                "redisAddress": FILLED,
                "redisUsername": CREDENTIAL,
                "redisPassword": CREDENTIAL,
                "externalStorageNamespace": TEXT,
            },
            "redisAddress",
        ),
        "headServiceAnnotations": TEXTS,
        "managedBy": MANAGER,
        "suspend": YES,
    },
    "headGroupSpec",
    "rayVersion",
)
JOB = known(
    {
        "entrypoint": FILLED,
        "rayClusterSpec": CLUSTER,
        "clusterSelector": TEXTS,
        "runtimeEnvYAML": TEXT,
        "jobId": FILLED,
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        "submitterPodTemplate": FREE,
        "submitterConfig": known({"backoffLimit": WHOLE}),
        "entrypointNumCpus": NUMBER,
        "entrypointNumGpus": NUMBER,
        "entrypointResources": TEXT,
        "metadata": TEXTS,
        "shutdownAfterJobFinishes": YES,
        "ttlSecondsAfterFinished": WHOLE,
        "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
        "preRunningDeadlineSeconds": {"type": "integer", "minimum": 1},
        "backoffLimit": WHOLE,
        "deletionStrategy": known({"onSuccess": FREE, "onFailure": FREE, "deletionRules": LIST}),
        "managedBy": MANAGER,
        "suspend": YES,
    }
)
SERVICE = known(
    {
        "rayClusterConfig": CLUSTER,
        "serveConfigV2": TEXT,
        "serveService": FREE,
        "upgradeStrategy": known(
            {
                "type": {"enum": ["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]},
                "clusterUpgradeOptions": FREE,
            }
        ),
        "excludeHeadPodFromServeSvc": YES,
        "rayClusterDeletionDelaySeconds": WHOLE,
        "serviceUnhealthySecondThreshold": WHOLE,
        "deploymentUnhealthySecondThreshold": WHOLE,
    },
    "rayClusterConfig",
)


def _resource(kind: str, spec: Schema) -> Schema:
    metadata = open_to({"name": FILLED, "namespace": FILLED, "labels": TEXTS, "annotations": TEXTS})
    return known(
        {
            "apiVersion": {"enum": ["ray.io/v1"]},
            "kind": {"enum": [kind]},
            "metadata": metadata,
            "spec": spec,
            "status": FREE,
        },
        "apiVersion",
        "kind",
        "metadata",
        "spec",
    )


SCHEMAS = {
    "RayJob": _resource("RayJob", JOB),
    "RayCluster": _resource("RayCluster", CLUSTER),
    "RayService": _resource("RayService", SERVICE),
}
