//! The cluster's authorities, and a certificate and kubeconfig for each of its programs.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::{API_SERVICE, NODE};

type Result<T> = std::result::Result<T, String>;

/// Who presents a certificate: name, groups, and the names it serves under.
struct Subject {
    file: &'static str,
    name: &'static str,
    group: Option<&'static str>,
    serves: &'static [&'static str],
}

/// The name of the only node.
pub(super) const NODE_NAME: &str = "node";

const SUBJECTS: [Subject; 7] = [
    Subject {
        file: "apiserver",
        name: "kube-apiserver",
        group: None,
        serves: &[
            NODE,
            "127.0.0.1",
            API_SERVICE,
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ],
    },
    Subject {
        file: "kubelet",
        name: "system:node:node",
        group: Some("system:nodes"),
        serves: &[NODE, NODE_NAME],
    },
    // The API server when it asks a kubelet for logs.
    Subject { file: "kubelet-client", name: "kube-apiserver", group: Some("system:masters"), serves: &[] },
    Subject { file: "admin", name: "admin", group: Some("system:masters"), serves: &[] },
    Subject { file: "controller-manager", name: "system:kube-controller-manager", group: None, serves: &[] },
    Subject { file: "scheduler", name: "system:kube-scheduler", group: None, serves: &[] },
    Subject { file: "proxy", name: "system:kube-proxy", group: None, serves: &[] },
];

/// Writes everything below `folder`.
pub(super) fn write(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let authority = authority(folder, "ca")?;
    for subject in &SUBJECTS {
        issue(folder, subject, &authority)?;
    }
    // Extensions of the API trust whoever this other authority signs for.
    let front = self::authority(folder, "front-proxy-ca")?;
    let subject = Subject { file: "front-proxy", name: "front-proxy-client", group: None, serves: &[] };
    issue(folder, &subject, &front)?;
    let key = KeyPair::generate().map_err(about)?;
    put(folder, "service-accounts.key", &key.serialize_pem())?;
    put(folder, "service-accounts.pub", &key.public_key_pem())
}

fn authority(folder: &Path, name: &str) -> Result<Issuer<'static, KeyPair>> {
    let mut wanted = CertificateParams::new([]).map_err(about)?;
    wanted.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wanted.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    wanted.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().map_err(about)?;
    put(folder, &format!("{name}.crt"), &wanted.self_signed(&key).map_err(about)?.pem())?;
    put(folder, &format!("{name}.key"), &key.serialize_pem())?;
    Ok(Issuer::new(wanted, key))
}

fn issue(folder: &Path, subject: &Subject, authority: &Issuer<'_, KeyPair>) -> Result<()> {
    let names: Vec<String> = subject.serves.iter().map(|&name| name.to_owned()).collect();
    let mut wanted = CertificateParams::new(names).map_err(about)?;
    wanted.distinguished_name.push(DnType::CommonName, subject.name);
    if let Some(group) = subject.group {
        wanted.distinguished_name.push(DnType::OrganizationName, group);
    }
    wanted.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    wanted.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    wanted.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(about)?;
    put(folder, &format!("{}.crt", subject.file), &wanted.signed_by(&key, authority).map_err(about)?.pem())?;
    put(folder, &format!("{}.key", subject.file), &key.serialize_pem())
}

fn put(folder: &Path, name: &str, text: &str) -> Result<()> {
    super::files::put(&folder.join(name), text)
}

#[allow(clippy::needless_pass_by_value, reason = "used as a function of an error")]
fn about(error: rcgen::Error) -> String {
    format!("cannot make a certificate: {error}")
}
