//! Certificate authorities of the cluster, and a certificate for each of its programs.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::{API_SERVICE, NODE};

type Result<T> = std::result::Result<T, String>;

/// Subject of a certificate.
struct Subject {
    /// File name of the certificate without extension.
    file: &'static str,
    name: &'static str,
    group: Option<&'static str>,
    /// Addresses and names under which the program serves.
    serves: &'static [&'static str],
}

/// Name of the only node.
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
    // The API server as a client of kubelets.
    Subject { file: "kubelet-client", name: "kube-apiserver", group: Some("system:masters"), serves: &[] },
    Subject { file: "admin", name: "admin", group: Some("system:masters"), serves: &[] },
    Subject { file: "controller-manager", name: "system:kube-controller-manager", group: None, serves: &[] },
    Subject { file: "scheduler", name: "system:kube-scheduler", group: None, serves: &[] },
    Subject { file: "proxy", name: "system:kube-proxy", group: None, serves: &[] },
];

/// Writes all keys and certificates into `folder`.
pub(super) fn write(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("failed to create {}: {error}", folder.display()))?;
    let authority = authority(folder, "ca")?;
    for subject in &SUBJECTS {
        issue(folder, subject, &authority)?;
    }
    // API extensions trust the certificates of this authority only.
    let front_proxy = self::authority(folder, "front-proxy-ca")?;
    let subject = Subject { file: "front-proxy", name: "front-proxy-client", group: None, serves: &[] };
    issue(folder, &subject, &front_proxy)?;
    let key = KeyPair::generate().map_err(certificate_error)?;
    write_file(folder, "service-accounts.key", &key.serialize_pem())?;
    write_file(folder, "service-accounts.pub", &key.public_key_pem())
}

fn authority(folder: &Path, name: &str) -> Result<Issuer<'static, KeyPair>> {
    let mut parameters = CertificateParams::new([]).map_err(certificate_error)?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    parameters.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().map_err(certificate_error)?;
    write_file(
        folder,
        &format!("{name}.crt"),
        &parameters.self_signed(&key).map_err(certificate_error)?.pem(),
    )?;
    write_file(folder, &format!("{name}.key"), &key.serialize_pem())?;
    Ok(Issuer::new(parameters, key))
}

fn issue(folder: &Path, subject: &Subject, authority: &Issuer<'_, KeyPair>) -> Result<()> {
    let names: Vec<String> = subject.serves.iter().map(|&name| name.to_owned()).collect();
    let mut parameters = CertificateParams::new(names).map_err(certificate_error)?;
    parameters.distinguished_name.push(DnType::CommonName, subject.name);
    if let Some(group) = subject.group {
        parameters.distinguished_name.push(DnType::OrganizationName, group);
    }
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(certificate_error)?;
    write_file(
        folder,
        &format!("{}.crt", subject.file),
        &parameters.signed_by(&key, authority).map_err(certificate_error)?.pem(),
    )?;
    write_file(folder, &format!("{}.key", subject.file), &key.serialize_pem())
}

fn write_file(folder: &Path, name: &str, text: &str) -> Result<()> {
    super::files::write_file(&folder.join(name), text)
}

#[allow(clippy::needless_pass_by_value, reason = "used as a function of an error")]
fn certificate_error(error: rcgen::Error) -> String {
    format!("failed to create a certificate: {error}")
}
