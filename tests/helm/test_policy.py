"""What no object of the chart may do, whatever the values."""

from __future__ import annotations

import re

import pytest

from tests.helm.conftest import NEEDED, containers, pods, things

COMPONENT = "app.kubernetes.io/component"
ON_GPU_NODES = {"DaemonSet/kezek-nodes", "DaemonSet/kezek-exporter"}
FLOWS = {  # Service: port of its pods, and exactly who may reach it
    "kezek-api": (8080, {"namespace:ingress", "namespace:monitoring", "test"}),
    "kezek-nodes": (7070, {"api", "scheduler", "nodes"}),
    "kezek-exporter": (9400, {"scheduler", "namespace:monitoring"}),
    "kezek-scheduler": (9401, {"namespace:monitoring"}),
}


SEES_ITS_HOST = {"supercomputer": {"DaemonSet/kezek-exporter:exporter"}}  # where `exporter.processes` is on


def test_no_container_is_root_or_may_become_more(case, rendered):
    for name, spec, container in containers(rendered):
        pod, own = spec["securityContext"], container["securityContext"]
        assert pod["runAsNonRoot"] is True, name
        assert pod["runAsUser"] >= 1000, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert not {"hostNetwork", "hostIPC"} & set(spec), name
        assert spec.get("hostPID", False) == (name in SEES_ITS_HOST.get(case, set())), name


def test_only_the_gpu_nodes_see_a_folder_of_their_host(rendered):
    for name, _, spec in pods(rendered):
        paths = [volume["hostPath"]["path"] for volume in spec.get("volumes", []) if "hostPath" in volume]
        assert not paths or (name in ON_GPU_NODES and paths == ["/var/lib/kezek"]), name
        for container in spec["containers"] if name == "DaemonSet/kezek-exporter" else ():
            (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "state"] or [None]
            assert mount is None or mount["readOnly"] is True


@pytest.mark.parametrize("processes", [False, True])
def test_the_exporter_is_root_only_to_ask_the_kubelet(processes):
    asked = f"exporter.podResources=true,exporter.processes={str(processes).lower()},nodes.hostPath=/var/lib/kezek"
    (pod,) = [
        made for name, _, made in pods(things(*NEEDED, "--set", asked)) if name == "DaemonSet/kezek-exporter"
    ]
    (container,) = pod["containers"]
    assert container["args"] == ["exporter", "--pod-resources", "/run/kubelet/kubelet.sock"]
    own = container["securityContext"]
    assert (own["runAsUser"], own["runAsNonRoot"], own["allowPrivilegeEscalation"]) == (0, False, False)
    added = {"add": ["DAC_READ_SEARCH"]} if processes else {}
    assert own["capabilities"] == {"drop": ["ALL"], **added}
    folders = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert folders == {"/var/lib/kubelet/pod-resources"} | ({"/var/lib/kezek"} if processes else set())
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert pod.get("hostPID", False) == processes


def test_every_container_has_limits_and_every_lasting_one_probes(rendered):
    for name, spec, container in containers(rendered):
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][kind]), name
        if spec.get("restartPolicy") != "Never":
            assert {"livenessProbe", "readinessProbe"} <= set(container), name


def test_gpus_are_asked_for_whole_and_by_the_nodes_alone(case, rendered):
    asking = {}
    for name, _, container in containers(rendered):
        gpus = {kind: container["resources"][kind].get("nvidia.com/gpu") for kind in ("requests", "limits")}
        if any(gpus.values()):
            asking[name] = gpus
    expected = {} if case == "one-machine" else {"DaemonSet/kezek-nodes:ray": {"requests": 8, "limits": 8}}
    assert asking == expected


def test_every_image_is_pinned(case, rendered):
    for name, _, container in containers(rendered):
        if case == "one-machine":
            assert re.fullmatch(r"kezek/kezek-server:\d+\.\d+\.\d+", container["image"]), name
        else:
            assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", container["image"]), name


def test_no_process_has_a_token_of_kubernetes_or_a_role(rendered):
    for name, _, spec in pods(rendered):
        assert spec["automountServiceAccountToken"] is False, name
    for thing in rendered:
        if thing["kind"] == "ServiceAccount":
            assert thing["automountServiceAccountToken"] is False
    assert not [thing for thing in rendered if thing["kind"].startswith("ClusterRole")]


def test_roles_are_of_one_namespace_read_only_and_without_wildcards():
    made = things(*NEEDED, "--set", "rbac.viewers={operators}")
    roles = [thing for thing in made if thing["kind"] == "Role"]
    assert len(roles) == 1
    for rule in roles[0]["rules"]:
        assert set(rule["verbs"]) <= {"get", "list", "watch"}
        assert "secrets" not in rule["resources"]
        assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
    (binding,) = [thing for thing in made if thing["kind"] == "RoleBinding"]
    assert {subject["kind"] for subject in binding["subjects"]} == {"Group"}


def test_the_chart_makes_no_secret_and_names_none_in_plain_text(rendered):
    assert not [thing for thing in rendered if thing["kind"] == "Secret"]
    for name, spec, container in containers(rendered):
        for variable in container.get("env", []):
            secret = re.search(r"(TOKEN|SECRET|PASSWORD|DATABASE_URL)", variable["name"])
            assert not secret or variable["value"].startswith("/run/secrets/kezek/"), (name, variable)
        for volume in spec.get("volumes", []):
            if "projected" in volume:
                assert volume["projected"]["defaultMode"] == 0o440, name


def test_each_pod_sees_only_the_secrets_its_processes_read(rendered):
    seen = {}
    for name, metadata, spec in pods(rendered):
        keys = {
            item["path"]
            for volume in spec.get("volumes", [])
            for source in volume.get("projected", {}).get("sources", [])
            for item in source["secret"]["items"]
        }
        seen[metadata["labels"][COMPONENT]] = keys
        read = {
            variable["value"].rsplit("/", 1)[1]
            for container in spec["containers"]
            for variable in container.get("env", [])
            if str(variable.get("value", "")).startswith("/run/secrets/kezek/")
        }
        assert read == keys, name
    assert seen.pop("ray-head", {"ray-token"}) == {"ray-token"}
    assert seen == {
        "api": {"database-url", "agent-secret", "metrics-token"},
        "scheduler": {"database-url", "agent-secret", "exporter-token", "metrics-token"},
        "nodes": {"agent-secret", "ray-token"},
        "exporter": {"exporter-token"},
        "migrate": {"database-url"},
        "test": set(),
    }


def test_what_must_not_stop_at_once_is_protected_and_spread(rendered):
    budgets = [thing["spec"] for thing in rendered if thing["kind"] == "PodDisruptionBudget"]
    protected = {budget["selector"]["matchLabels"][COMPONENT] for budget in budgets}
    assert protected == {"api", "scheduler"}
    for _, metadata, spec in pods(rendered):
        if metadata["labels"][COMPONENT] in protected:
            assert spec["topologySpreadConstraints"]


def _policies(rendered):
    return [thing["spec"] for thing in rendered if thing["kind"] == "NetworkPolicy"]


def _selects(policy, labels):
    return policy["podSelector"]["matchLabels"].items() <= labels.items()


def _who(peer, names):
    if "podSelector" in peer:
        assert "namespaceSelector" not in peer
        return peer["podSelector"]["matchLabels"][COMPONENT]
    if "ipBlock" in peer:
        return f"network:{peer['ipBlock']['cidr']}"
    return f"namespace:{names[peer['namespaceSelector']['matchLabels']['kubernetes.io/metadata.name']]}"


def _allowed(rendered, labels, port, direction, names):
    found = set()
    for policy in _policies(rendered):
        if not _selects(policy, labels):
            continue
        for rule in policy.get(direction, []):
            ports = rule.get("ports")
            if ports is None or any(p["port"] <= port <= p.get("endPort", p["port"]) for p in ports):
                peers = rule.get("from" if direction == "ingress" else "to")
                found |= {"anybody"} if peers is None else {_who(peer, names) for peer in peers}
    return found


NAMES = {"ingress-nginx": "ingress", "gateways": "ingress", "monitoring": "monitoring", "kube-system": "dns"}


def test_every_pod_is_closed_unless_a_policy_opens_it(rendered):
    (deny,) = [p for p in _policies(rendered) if COMPONENT not in p["podSelector"]["matchLabels"]]
    assert set(deny) == {"podSelector", "policyTypes"}
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    for name, metadata, _ in pods(rendered):
        assert _selects(deny, metadata["labels"]), name
    for policy in _policies(rendered):
        assert policy["policyTypes"] == ["Ingress", "Egress"]


def test_every_service_is_reached_by_exactly_whom_needs_it(rendered):
    services = [thing for thing in rendered if thing["kind"] == "Service"]
    assert {service["metadata"]["name"] for service in services} == set(FLOWS)
    for service in services:
        port, expected = FLOWS[service["metadata"]["name"]]
        (behind,) = [
            m["labels"]
            for _, m, _ in pods(rendered)
            if service["spec"]["selector"].items() <= m["labels"].items()
        ]
        (named,) = [p["targetPort"] for p in service["spec"]["ports"]]
        numbers = {
            p["containerPort"]
            for _, spec, container in containers(rendered)
            for p in container.get("ports", [])
            if p["name"] == named
        }
        assert port in numbers
        assert _allowed(rendered, behind, port, "ingress", NAMES) == expected, service["metadata"]["name"]


def test_who_may_reach_a_service_may_also_go_there(rendered):
    labels = {m["labels"][COMPONENT]: m["labels"] for _, m, _ in pods(rendered)}
    for service, (port, callers) in FLOWS.items():
        for caller in callers - {"namespace:ingress", "namespace:monitoring"}:
            reached = _allowed(rendered, labels[caller], port, "egress", NAMES)
            assert service.removeprefix("kezek-") in reached, (caller, service)


def test_only_those_who_need_it_reach_the_database(case, rendered):
    labels = {m["labels"][COMPONENT]: m["labels"] for _, m, _ in pods(rendered)}
    database = {"anybody"} if case == "one-machine" else {"network:10.20.0.0/24"}
    reaching = {
        name for name, own in labels.items() if _allowed(rendered, own, 5432, "egress", NAMES) & database
    }
    assert reaching == {"api", "scheduler", "migrate"}


@pytest.mark.parametrize("component", ["exporter"])
def test_the_exporter_goes_nowhere(rendered, component):
    (own,) = [m["labels"] for _, m, _ in pods(rendered) if m["labels"][COMPONENT] == component]
    assert not [
        rule for policy in _policies(rendered) if _selects(policy, own) for rule in policy.get("egress", [])
    ]


def test_ray_is_reached_by_its_nodes_alone():
    made = things(*NEEDED)
    (head,) = [m["labels"] for _, m, _ in pods(made) if m["labels"][COMPONENT] == "ray-head"]
    assert _allowed(made, head, 6379, "ingress", NAMES) == {"nodes"}


def test_hooks_need_nothing_that_comes_after_them(rendered):
    (job,) = [thing for thing in rendered if thing["kind"] == "Job"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    text = str(job)
    made = {
        thing["metadata"]["name"] for thing in rendered if thing["kind"] in {"ConfigMap", "ServiceAccount"}
    }
    assert not [name for name in made if f"'{name}'" in text]
    (policy,) = [
        t for t in rendered if t["kind"] == "NetworkPolicy" and t["metadata"]["name"] == "kezek-migrate"
    ]
    hook = policy["metadata"]["annotations"]
    assert int(hook["helm.sh/hook-weight"]) < int(job["metadata"]["annotations"]["helm.sh/hook-weight"])


def test_ray_options_are_options_of_ray(rendered):
    from ray.scripts.scripts import start

    known = {name for option in start.params for name in option.opts + option.secondary_opts}
    for thing in rendered:
        if thing["kind"] == "RayCluster":
            assert {f"--{name}" for name in thing["spec"]["headGroupSpec"]["rayStartParams"]} <= known
        if thing["metadata"]["name"] == "kezek-nodes" and thing["kind"] == "DaemonSet":
            (ray,) = [c for c in thing["spec"]["template"]["spec"]["containers"] if c["name"] == "ray"]
            assert {argument.split("=")[0] for argument in ray["args"]} <= known
            context = start.make_context("start", list(ray["args"]))
            assert context.params["num_gpus"] == 8
