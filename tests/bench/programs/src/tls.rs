//! TLS as ZooKeeper wants it: with a client's certificate.

use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// A client's side of it, read from files in PEM.
pub struct Tls {
    pub(crate) connector: TlsConnector,
    name: Option<String>,
}

impl Tls {
    /// `name`: whom the server's certificate is for, where that is not the host that is connected to.
    pub fn new(ca: &str, cert: &str, key: &str, name: Option<String>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(ca)? {
            roots.add(authority).map_err(|e| format!("{ca}: {e}"))?;
        }
        let chain = certificates(cert)?;
        let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("{key}: {e}"))?;
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|b| b.with_root_certificates(roots).with_client_auth_cert(chain, key_der))
            .map_err(|e| format!("TLS: {e}"))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    pub(crate) fn server_name(&self, address: &str) -> Result<ServerName<'static>, String> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = self.name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_string()).map_err(|e| format!("{name}: {e}"))
    }
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|e| format!("{path}: {e}"))
}
