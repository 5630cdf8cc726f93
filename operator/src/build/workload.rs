//! The pods: one program, under the strictest of the pod security standards.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
            EnvVarSource, HTTPGetAction, KeyToPath, Lifecycle, LifecycleHandler, LocalObjectReference,
            PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
            SecretKeySelector, SecretVolumeSource, SecurityContext, SleepAction, TopologySpreadConstraint,
            Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::ResourceExt;
use phase6_catalog::SERVICES;
use phase6_crds::Phase6Service;
use phase6_policy::PolicyDocument;

use super::{Collector, Context, Kind, Object, labels, metadata, network::PORT, policy_name, selector};

/// Nobody in particular: the user of our image.
const USER: i64 = 65532;
const POLICY: &str = "/etc/phase6/policy";
const ACCESS: &str = "/etc/phase6/access";
const DATA: &str = "/var/lib/phase6";
/// Keys of the access Secret.
const API_KEYS: &str = "api-keys";
const INTERNAL_TOKEN: &str = "internal-token";

/// How long a new pod waits for its database, in seconds.
const START: i32 = 60;

// A pod that is told to stop goes through these, one after another, in seconds. All of them together
// end before `GRACE`, when Kubernetes kills.
/// The pod is still ready, while everybody learns that it is leaving.
const HOOK: i64 = 2;
/// No longer ready; answers ask callers to connect anew. It ends when nobody is connected any more. What
/// is idle until its very end is closed, and a caller that picks it just then loses a request: hence
/// longer than the 90 seconds for which most clients keep an idle connection.
const NOTICE: i64 = 95;
/// Requests under way end: `GRACE` of `phase6 serve`.
const DRAIN: i64 = 25;
const GRACE: i64 = HOOK + NOTICE + DRAIN + 5;

pub(super) fn deployment(resource: &Phase6Service, context: &Context) -> Object {
    let name = resource.name_any();
    let pod = PodSpec {
        service_account_name: Some(name.clone()),
        // Variables of every Service in the namespace are of no use, and can take our own names.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE),
        image_pull_secrets: pull_secrets(context),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".into(),
            when_unsatisfiable: "ScheduleAnyway".into(),
            label_selector: Some(selector(resource)),
            ..TopologySpreadConstraint::default()
        }]),
        containers: vec![container(resource, context)],
        volumes: Some(volumes(&name, context)),
        ..PodSpec::default()
    };
    let spec = DeploymentSpec {
        selector: selector(resource),
        // A new pod is ready before an old one goes.
        strategy: Some(DeploymentStrategy {
            type_: Some("RollingUpdate".into()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::Int(1)),
                max_unavailable: Some(IntOrString::Int(0)),
            }),
        }),
        revision_history_limit: Some(3),
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(labels(resource)), ..ObjectMeta::default() }),
            spec: Some(pod),
        },
        ..DeploymentSpec::default()
    };
    let mut object = Object::new(
        Kind::Deployment,
        Deployment { metadata: metadata(resource, name), spec: Some(spec), ..Deployment::default() },
    );
    // How many there are is said by another field manager, or by an autoscaler.
    if let Some(spec) = object.body["spec"].as_object_mut() {
        spec.remove("replicas");
    }
    object
}

fn pull_secrets(context: &Context) -> Option<Vec<LocalObjectReference>> {
    let named = |name: &String| LocalObjectReference { name: name.clone() };
    (!context.pull_secrets.is_empty()).then(|| context.pull_secrets.iter().map(named).collect())
}

fn container(resource: &Phase6Service, context: &Context) -> Container {
    let service = resource.spec.service;
    let get = |path: &str| {
        Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String(PORT.into()),
            ..HTTPGetAction::default()
        })
    };
    let probe = |path: &str, period, failures| Probe {
        http_get: get(path),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(2),
        ..Probe::default()
    };
    Container {
        name: "phase6".into(),
        image: Some(resource.spec.image.clone().unwrap_or_else(|| context.image.clone())),
        image_pull_policy: context.pull_policy.clone(),
        command: Some(vec!["/usr/bin/phase6".into()]),
        args: Some(vec![
            "serve".into(),
            service.as_str().into(),
            "--bind=0.0.0.0".into(),
            format!("--policy={POLICY}/{}", PolicyDocument::KEY),
            format!("--policy-object={}", policy_name(&resource.name_any())),
            format!("--api-keys={ACCESS}/{API_KEYS}"),
            format!("--data={DATA}"),
            format!("--notice={NOTICE}"),
            format!("--wait={START}"),
        ]),
        env: Some(environment(resource, context)),
        ports: Some(vec![ContainerPort {
            name: Some(PORT.into()),
            container_port: service.service().port.into(),
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        startup_probe: Some(probe("/livez", 1, START + 15)),
        readiness_probe: Some(probe("/readyz", 1, 2)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: HOOK }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        resources: Some(resource.spec.resources.clone().unwrap_or_else(usual_resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(
            [
                ("policy", POLICY, true),
                ("access", ACCESS, true),
                ("data", DATA, false),
                ("tmp", "/tmp", false),
            ]
            .map(|(name, path, fixed)| VolumeMount {
                name: name.into(),
                mount_path: path.into(),
                read_only: fixed.then_some(true),
                ..VolumeMount::default()
            })
            .into(),
        ),
        ..Container::default()
    }
}

fn environment(resource: &Phase6Service, context: &Context) -> Vec<EnvVar> {
    let secret = |variable: &str, name: &str, key: &str| EnvVar {
        name: variable.into(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: name.into(),
                key: key.into(),
                ..SecretKeySelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let plain = |name: &str, value: &str| EnvVar {
        name: name.into(),
        value: Some(value.into()),
        ..EnvVar::default()
    };
    // A peer is the Service of its name: resources are named after what they are.
    let peer = |peer: &phase6_catalog::Service| format!("{0}={0}:{1}", peer.name, peer.port);
    let peers = SERVICES.iter().map(peer).collect::<Vec<_>>().join(",");
    let mut all = vec![
        plain("PHASE6_PEERS", &peers),
        // A variable, because images of before it would refuse an argument that they do not know.
        plain("PHASE6_FOLLOW_PEERS", "true"),
        secret("PHASE6_INTERNAL_TOKEN", &context.access_secret, INTERNAL_TOKEN),
    ];
    if let Some(database) = &context.database {
        all.push(secret("PHASE6_DATABASE_URL", &database.name, &database.key));
    }
    if let Some(redis) = &context.redis {
        all.push(secret("PHASE6_REDIS_URL", &redis.name, &redis.key));
        // Others may share the same Redis.
        let name = format!("{}/{}", resource.namespace().unwrap_or_default(), resource.name_any());
        all.push(plain("PHASE6_SHARED_AS", &name));
    }
    if let Some(Collector { endpoint, protocol, headers }) = &context.collector {
        let namespace = resource.namespace().unwrap_or_default();
        all.push(plain("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint.url));
        all.push(plain("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        all.push(plain("OTEL_RESOURCE_ATTRIBUTES", &format!("k8s.namespace.name={namespace}")));
        all.extend(headers.as_ref().map(|it| secret("OTEL_EXPORTER_OTLP_HEADERS", &it.name, &it.key)));
    }
    all
}

fn volumes(name: &str, context: &Context) -> Vec<Volume> {
    let empty = |name: &str, limit: &str| Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity(limit.into())), medium: None }),
        ..Volume::default()
    };
    vec![
        Volume {
            name: "policy".into(),
            config_map: Some(ConfigMapVolumeSource {
                name: policy_name(name),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "access".into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(context.access_secret.clone()),
                // The token comes by a variable; no other key of the Secret is for the pods.
                items: Some(vec![KeyToPath { key: API_KEYS.into(), path: API_KEYS.into(), mode: None }]),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
        empty("data", "1Gi"),
        empty("tmp", "64Mi"),
    ]
}

/// Enough for a service at some hundred requests a second; an autoscaler measures CPU by its request.
fn usual_resources() -> ResourceRequirements {
    let quantities = |pairs: [(&str, &str); 2]| {
        Some(pairs.into_iter().map(|(name, amount)| (name.to_owned(), Quantity(amount.into()))).collect())
    };
    ResourceRequirements {
        requests: quantities([("cpu", "50m"), ("memory", "64Mi")]),
        limits: Some([("memory".to_owned(), Quantity("256Mi".into()))].into()),
        ..ResourceRequirements::default()
    }
}
