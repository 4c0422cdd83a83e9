//! Who is who in the cluster: its certificate authority, its keys and each part's token.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use uuid::Uuid;

use super::parts::NODE_NAME;
use crate::Node;
use crate::node::Addresses;

/// The files that identify the parts to each other, in one folder.
#[derive(Debug)]
pub(super) struct Identity {
    folder: PathBuf,
}

/// A part's short name, its user and its groups. RBAC and the node authorizer know these names.
const USERS: [(&str, &str, &str); 5] = [
    ("admin", "testbed", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
    ("kubelet", "system:node:node", "system:nodes"),
];

impl Identity {
    pub(super) fn create(node: &Node) -> Result<Self> {
        let identity = Self { folder: node.folder().join("identity") };
        fs::create_dir(&identity.folder)?;
        identity.issue_certificates(node.addresses())?;
        let service_account = KeyPair::generate()?;
        fs::write(identity.file("service-account.key"), service_account.serialize_pem())?;
        fs::write(identity.file("service-account.pub"), service_account.public_key_pem())?;
        let mut tokens = String::new();
        for (name, user, groups) in USERS {
            debug_assert!(name != "kubelet" || user.ends_with(NODE_NAME));
            let token = Uuid::new_v4();
            tokens.push_str(&format!("{token},{user},{user},\"{groups}\"\n"));
            let text = render_kubeconfig(&node.addresses(), &identity.file("ca.crt"), &token.to_string());
            fs::write(identity.kubeconfig(name), text)?;
        }
        fs::write(identity.file("tokens.csv"), tokens)?;
        Ok(identity)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn kubeconfig(&self, part: &str) -> PathBuf {
        self.file(&format!("{part}.kubeconfig"))
    }

    pub(super) fn admin_kubeconfig(&self) -> PathBuf {
        self.kubeconfig("admin")
    }

    fn issue_certificates(&self, addresses: Addresses) -> Result<()> {
        let authority = authority()?;
        let own = authority.0;
        fs::write(self.file("ca.crt"), own)?;
        let names = [
            "127.0.0.1".to_owned(),
            addresses.node().to_string(),
            addresses.kubernetes_service().to_string(),
            "localhost".to_owned(),
            "kubernetes".to_owned(),
            "kubernetes.default".to_owned(),
            "kubernetes.default.svc".to_owned(),
            "kubernetes.default.svc.cluster.local".to_owned(),
        ];
        let mut server = CertificateParams::new(names)?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue("apiserver", &server, &authority.1)?;
        // With this the API server asks the kubelet for logs and for commands in pods.
        let mut client = CertificateParams::default();
        client.distinguished_name.push(DnType::CommonName, "kube-apiserver-kubelet-client");
        client.distinguished_name.push(DnType::OrganizationName, "system:masters");
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue("kubelet-client", &client, &authority.1)
    }

    fn issue(&self, name: &str, params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, issuer)?;
        fs::write(self.file(&format!("{name}.crt")), certificate.pem())?;
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem())?;
        Ok(())
    }
}

/// The authority's certificate as PEM, and what signs with it.
fn authority() -> Result<(String, Issuer<'static, KeyPair>)> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "testbed");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok((certificate, Issuer::new(params, key)))
}

fn render_kubeconfig(addresses: &Addresses, authority: &Path, token: &str) -> String {
    let (server, authority) = (addresses.node(), authority.display());
    format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: testbed, cluster: {{server: \"https://{server}:6443\", certificate-authority: \"{authority}\"}}}}]
users: [{{name: testbed, user: {{token: \"{token}\"}}}}]
contexts: [{{name: testbed, context: {{cluster: testbed, user: testbed}}}}]
current-context: testbed
"
    )
}
