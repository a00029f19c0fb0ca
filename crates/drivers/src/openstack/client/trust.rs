//! Whom an HTTP client trusts, and how it names itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Certificate, Client, ClientBuilder, redirect::Policy};

use super::messages::explain;
use crate::{Context, ErrorClass, http_client, openstack::api::CloudError};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Authorities that the system trusts, in the places where distributions have them.
const CA_BUNDLES: [&str; 3] =
    ["/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"];
pub(super) const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
pub(super) const END: &str = "-----END CERTIFICATE-----";

/// How a cloud's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// By the authorities in a file, or in a directory with OpenSSL's names; `named`: what says so.
    With {
        path: PathBuf,
        named: &'static str,
    },
    /// By those that the system trusts.
    System,
    Not,
}

impl Verify {
    /// What the environment says, where clouds.yaml says nothing (requests: `Session.merge_environment_settings`).
    pub fn of_environment(context: &Context) -> Self {
        ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
            .into_iter()
            .find_map(|named| Some(Self::With { path: context.variable(named)?.into(), named }))
            .unwrap_or(Self::System)
    }
}

fn config_error(message: String) -> CloudError {
    CloudError::new(ErrorClass::Config, message)
}

/// A client for what is public. It follows redirects, but not from TLS to where anybody may answer.
pub(super) fn public_client(context: &Context) -> Result<Client, CloudError> {
    let place = "the environment";
    let policy = Policy::custom(|attempt| {
        let was_tls = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if was_tls && attempt.url().scheme() != "https" {
            return attempt.error("it leads from https to http, where anybody may answer");
        }
        Policy::default().redirect(attempt)
    });
    build(trusting(&Verify::of_environment(context), place)?.redirect(policy), place)
}

/// Makes the client; `place`: whose it is, for messages.
pub(super) fn build(builder: ClientBuilder, place: &str) -> Result<Client, CloudError> {
    builder
        .build()
        .map_err(|error| config_error(format!("cannot make an HTTP client for {place}: {}", explain(&error))))
}

/// What somebody named must be there, and alone counts; what the system has is taken as far as it goes.
pub(super) fn trusting(verify: &Verify, place: &str) -> Result<ClientBuilder, CloudError> {
    let builder = http_client::builder()
        .user_agent(concat!("nodepool/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_DEADLINE)
        .tls_built_in_root_certs(*verify == Verify::System)
        .danger_accept_invalid_certs(*verify == Verify::Not);
    let certificates = match verify {
        Verify::With { path, named } => {
            let name = path.display();
            let pem = read_authorities(path)
                .map_err(|error| config_error(format!("cannot read {name}, the {named} of {place}: {error}")))?;
            let certificates = authorities(&pem, &name.to_string());
            if certificates.is_empty() {
                let how = if path.is_dir() {
                    "; of a directory the files count that OpenSSL finds there: openssl rehash gives them their names"
                } else {
                    ""
                };
                return Err(config_error(format!(
                    "{name}, the {named} of {place}, has no certificate in PEM that can be used{how}"
                )));
            }
            certificates
        }
        Verify::System => {
            let bundle = CA_BUNDLES.iter().find_map(|path| Some((path, fs::read(path).ok()?)));
            bundle.map(|(path, pem)| authorities(&pem, path)).unwrap_or_default()
        }
        Verify::Not => Vec::new(),
    };
    Ok(certificates.into_iter().fold(builder, ClientBuilder::add_root_certificate))
}

/// A file, or those of a directory that OpenSSL would look at: eight hexadecimal digits, a dot and a number.
fn read_authorities(path: &Path) -> io::Result<Vec<u8>> {
    if !path.is_dir() {
        return fs::read(path);
    }
    let is_hash = |name: &str| {
        name.split_once('.').is_some_and(|(hash, number)| {
            hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) && number.parse::<u32>().is_ok()
        })
    };
    let mut pem = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_hash) {
            pem.extend(fs::read(entry.path())?);
            pem.push(b'\n');
        }
    }
    Ok(pem)
}

/// The certificates of a bundle (`name`) that can be trusted. One that the TLS library cannot read (old authorities have
/// odd ones) is passed over: OpenSSL, too, takes the others.
fn authorities(pem: &[u8], name: &str) -> Vec<Certificate> {
    let pem = String::from_utf8_lossy(pem);
    let certificate = |block: &str| Certificate::from_pem(format!("{BEGIN}{block}{END}\n").as_bytes()).ok();
    let blocks: Vec<&str> =
        pem.split(BEGIN).skip(1).filter_map(|rest| rest.split_once(END).map(|(block, _)| block)).collect();
    let readable: Vec<Certificate> = blocks.iter().filter_map(|block| certificate(block)).collect();
    let can_be_used = |certificates: &[Certificate]| {
        let empty = http_client::builder().tls_built_in_root_certs(false);
        certificates.iter().cloned().fold(empty, ClientBuilder::add_root_certificate).build().is_ok()
    };
    // One by one only where it must be: a bundle has more than a hundred.
    let usable = if can_be_used(&readable) {
        readable
    } else {
        readable.into_iter().filter(|certificate| can_be_used(std::slice::from_ref(certificate))).collect()
    };
    let passed_over = blocks.len() - usable.len();
    if passed_over > 0 {
        tracing::warn!("{passed_over} of {} certificates in {name} cannot be read and are passed over", blocks.len());
    }
    usable
}
