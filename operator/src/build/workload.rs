//! Deployment of the pods, which comply with the pod security standard `restricted`.

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
use phase6_catalog::Service;
use phase6_crds::Phase6Service;
use phase6_policy::PolicyDocument;

use super::{
    BuildOptions, Collector, Kind, Object, config_map_name, labels, metadata, network::PORT, selector,
};

/// User and group of the image.
const USER_ID: i64 = 65532;
const POLICY_PATH: &str = "/etc/phase6/policy";
const ACCESS_PATH: &str = "/etc/phase6/access";
const DATA_PATH: &str = "/var/lib/phase6";
/// Key of the access Secret with the accepted API keys.
const API_KEYS: &str = "api-keys";
/// Key of the access Secret with the token that services share.
const INTERNAL_TOKEN: &str = "internal-token";

/// Longest wait of a new pod for its database, in seconds.
const DATABASE_WAIT: i32 = 60;

// Phases of a terminating pod, one after another, in seconds.
/// The pod still accepts connections while the cluster learns that it is terminating.
const PRE_STOP: i64 = 2;
// Then it is not ready, and responses ask callers to reconnect, for `BuildOptions::stop_notice`.
/// Requests in progress finish. Equals `GRACE` of `phase6 serve`.
const DRAIN: i64 = 25;
/// Margin between the last phase and the end of the pod's grace period.
const MARGIN: i64 = 5;

pub(super) fn deployment(resource: &Phase6Service, options: &BuildOptions) -> Object {
    let name = resource.name_any();
    let pod = PodSpec {
        service_account_name: Some(name.clone()),
        // The variables of every Service in the namespace are not used, and could shadow those set here.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(PRE_STOP + i64::from(options.stop_notice) + DRAIN + MARGIN),
        image_pull_secrets: pull_secrets(options),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER_ID),
            run_as_group: Some(USER_ID),
            fs_group: Some(USER_ID),
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
        containers: vec![container(resource, options)],
        volumes: Some(volumes(&name, options)),
        ..PodSpec::default()
    };
    let spec = DeploymentSpec {
        selector: selector(resource),
        // An old pod terminates only after a new one is ready.
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
    // Another field manager or an autoscaler sets the number of replicas.
    if let Some(spec) = object.body["spec"].as_object_mut() {
        spec.remove("replicas");
    }
    object
}

fn pull_secrets(options: &BuildOptions) -> Option<Vec<LocalObjectReference>> {
    let reference = |name: &String| LocalObjectReference { name: name.clone() };
    (!options.pull_secrets.is_empty()).then(|| options.pull_secrets.iter().map(reference).collect())
}

fn container(resource: &Phase6Service, options: &BuildOptions) -> Container {
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
        image: Some(resource.spec.image.clone().unwrap_or_else(|| options.image.clone())),
        image_pull_policy: options.pull_policy.clone(),
        command: Some(vec!["/usr/bin/phase6".into()]),
        args: Some(vec![
            "serve".into(),
            service.as_str().into(),
            "--bind=0.0.0.0".into(),
            format!("--policy={POLICY_PATH}/{}", PolicyDocument::KEY),
            format!("--policy-object={}", config_map_name(&resource.name_any())),
            format!("--api-keys={ACCESS_PATH}/{API_KEYS}"),
            format!("--data={DATA_PATH}"),
            format!("--notice={}", options.stop_notice),
            format!("--wait={DATABASE_WAIT}"),
        ]),
        env: Some(environment(resource, options)),
        ports: Some(vec![ContainerPort {
            name: Some(PORT.into()),
            container_port: service.service().port.into(),
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        startup_probe: Some(probe("/livez", 1, DATABASE_WAIT + 15)),
        readiness_probe: Some(probe("/readyz", 1, 2)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: PRE_STOP }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        resources: Some(resource.spec.resources.clone().unwrap_or_else(default_resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(
            [
                ("policy", POLICY_PATH, true),
                ("access", ACCESS_PATH, true),
                ("data", DATA_PATH, false),
                ("tmp", "/tmp", false),
            ]
            .map(|(name, path, read_only)| VolumeMount {
                name: name.into(),
                mount_path: path.into(),
                read_only: read_only.then_some(true),
                ..VolumeMount::default()
            })
            .into(),
        ),
        ..Container::default()
    }
}

fn environment(resource: &Phase6Service, options: &BuildOptions) -> Vec<EnvVar> {
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
    // Each service is reached by the Service of the same name: resources are named after their services.
    let peer = |peer: &Service| format!("{0}={0}:{1}", peer.name, peer.port);
    let peers = resource.spec.service.service().peers().map(peer).collect::<Vec<_>>().join(",");
    let mut variables = vec![
        // A variable, because an older image would refuse an unknown argument. It ignores unknown variables, and
        // peers that its catalog lacks.
        plain("PHASE6_FOLLOW_PEERS", "true"),
        secret("PHASE6_INTERNAL_TOKEN", &options.access_secret, INTERNAL_TOKEN),
    ];
    // The API server drops an empty value, which would look like drift.
    if !peers.is_empty() {
        variables.push(plain("PHASE6_PEERS", &peers));
    }
    if let Some(database) = &options.database {
        variables.push(secret("PHASE6_DATABASE_URL", &database.name, &database.key));
    }
    if let Some(redis) = &options.redis {
        variables.push(secret("PHASE6_REDIS_URL", &redis.name, &redis.key));
        // Several fleets may share one Redis.
        let name = format!("{}/{}", resource.namespace().unwrap_or_default(), resource.name_any());
        variables.push(plain("PHASE6_SHARED_AS", &name));
    }
    if let Some(Collector { endpoint, protocol, headers }) = &options.collector {
        let namespace = resource.namespace().unwrap_or_default();
        variables.push(plain("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint.url));
        variables.push(plain("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        variables.push(plain("OTEL_RESOURCE_ATTRIBUTES", &format!("k8s.namespace.name={namespace}")));
        variables.extend(
            headers.as_ref().map(|headers| secret("OTEL_EXPORTER_OTLP_HEADERS", &headers.name, &headers.key)),
        );
    }
    variables
}

fn volumes(name: &str, options: &BuildOptions) -> Vec<Volume> {
    let empty = |name: &str, limit: &str| Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity(limit.into())), medium: None }),
        ..Volume::default()
    };
    vec![
        Volume {
            name: "policy".into(),
            config_map: Some(ConfigMapVolumeSource {
                name: config_map_name(name),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "access".into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(options.access_secret.clone()),
                // The token is passed as a variable; the pods need no other key of the Secret.
                items: Some(vec![KeyToPath { key: API_KEYS.into(), path: API_KEYS.into(), mode: None }]),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
        empty("data", "1Gi"),
        empty("tmp", "64Mi"),
    ]
}

/// Returns resources for a few hundred requests per second. An autoscaler measures CPU usage relative to the
/// CPU request.
fn default_resources() -> ResourceRequirements {
    let quantities = |pairs: [(&str, &str); 2]| {
        Some(pairs.into_iter().map(|(name, amount)| (name.to_owned(), Quantity(amount.into()))).collect())
    };
    ResourceRequirements {
        requests: quantities([("cpu", "50m"), ("memory", "64Mi")]),
        limits: Some([("memory".to_owned(), Quantity("256Mi".into()))].into()),
        ..ResourceRequirements::default()
    }
}
