//! The HTTP client of a cloud: whom it trusts, how it names itself.

use std::time::Duration;

use reqwest::{Certificate, Client};

use super::{cloud::CloudError, clouds_yaml::CloudSettings, http::explain};
use crate::{Context, ErrorClass};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Authorities that the system trusts, in the places where distributions have them.
const CA_BUNDLES: [&str; 3] =
    ["/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"];

/// A client for the cloud that the settings describe.
pub(super) fn client(settings: &CloudSettings, context: &Context) -> Result<Client, CloudError> {
    let config = |message: String| CloudError::new(ErrorClass::Config, message);
    let mut builder = Client::builder()
        .user_agent(concat!("nodepool/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_DEADLINE)
        .danger_accept_invalid_certs(!settings.verify());
    // What somebody named must be usable; what the system has is taken as far as it goes.
    let named = settings.text("cacert").or_else(|| context.variable("REQUESTS_CA_BUNDLE").map(ToOwned::to_owned));
    let bundle = match &named {
        Some(path) => {
            let data = std::fs::read(path);
            Some(data.map_err(|error| {
                config(format!("cannot read {path}, the cacert of cloud {}: {error}", settings.name))
            })?)
        }
        None => CA_BUNDLES.iter().find_map(|path| std::fs::read(path).ok()),
    };
    if let Some(bundle) = bundle {
        match (Certificate::from_pem_bundle(&bundle), &named) {
            (Ok(certificates), _) => {
                for certificate in certificates {
                    builder = builder.add_root_certificate(certificate);
                }
            }
            (Err(error), Some(path)) => {
                return Err(config(format!("{path}, the cacert of cloud {}, is no PEM: {error}", settings.name)));
            }
            (Err(error), None) => tracing::warn!(%error, "the system's CA bundle cannot be used"),
        }
    }
    if settings.text("cert").is_some() {
        return Err(config(format!(
            "cloud {} in {} has a client certificate (cert), which is not supported yet",
            settings.name,
            settings.file.display()
        )));
    }
    builder
        .build()
        .map_err(|error| config(format!("cannot make an HTTP client for cloud {}: {}", settings.name, explain(&error))))
}
