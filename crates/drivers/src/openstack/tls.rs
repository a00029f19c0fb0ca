//! The HTTP client of a cloud: whom it trusts, how it names itself.

use std::{path::Path, time::Duration};

use reqwest::{Certificate, Client, Identity};

use super::{
    cloud::CloudError,
    clouds_yaml::{CloudSettings, Verify},
    http::explain,
};
use crate::{Context, ErrorClass};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Authorities that the system trusts, in the places where distributions have them.
const CA_BUNDLES: [&str; 3] =
    ["/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"];

/// A client for the cloud that the settings describe.
pub(super) fn client(settings: &CloudSettings, context: &Context) -> Result<Client, CloudError> {
    let place = format!("cloud {} in {}", settings.name, settings.file.display());
    let config = |message: String| CloudError::new(ErrorClass::Config, message);
    let read = |what: &str, path: &Path| {
        std::fs::read(path)
            .map_err(|error| config(format!("cannot read {}, the {what} of {place}: {error}", path.display())))
    };
    let verify = settings.verify(context);
    let mut builder = Client::builder()
        .user_agent(concat!("nodepool/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_DEADLINE)
        .tls_built_in_root_certs(verify == Verify::System)
        .danger_accept_invalid_certs(verify == Verify::Not);
    // What somebody named must be usable, and alone counts; what the system has is taken as far as it goes.
    match &verify {
        Verify::With(path) => {
            let certificates = Certificate::from_pem_bundle(&read("cacert", path)?);
            let certificates = certificates.ok().filter(|certificates| !certificates.is_empty()).ok_or_else(|| {
                config(format!("{}, the cacert of {place}, has no certificate in PEM", path.display()))
            })?;
            for certificate in certificates {
                builder = builder.add_root_certificate(certificate);
            }
        }
        Verify::System => {
            let bundle = CA_BUNDLES.iter().find_map(|path| std::fs::read(path).ok());
            match bundle.as_deref().map(Certificate::from_pem_bundle) {
                Some(Ok(certificates)) => {
                    for certificate in certificates {
                        builder = builder.add_root_certificate(certificate);
                    }
                }
                Some(Err(error)) => tracing::warn!(%error, "the system's CA bundle cannot be used"),
                None => {}
            }
        }
        Verify::Not => tracing::warn!("{place}: certificates are not checked (verify, insecure)"),
    }
    if let Some(cert) = settings.path("cert", context) {
        let mut pem = read("cert", &cert)?;
        if let Some(key) = settings.path("key", context) {
            pem.push(b'\n');
            pem.extend(read("key", &key)?);
        }
        builder = builder.identity(Identity::from_pem(&pem).map_err(|error| {
            config(format!(
                "the client certificate of {place} cannot be used: {}; cert and key (or cert alone) must have a \
                 certificate and its key in PEM, the key without a password",
                explain(&error)
            ))
        })?);
    }
    builder.build().map_err(|error| config(format!("cannot make an HTTP client for {place}: {}", explain(&error))))
}
