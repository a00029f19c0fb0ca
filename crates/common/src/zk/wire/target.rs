//! From the configuration to what a connection needs: addresses, chroot, TLS.
//!
//! The server's certificate must chain to the configured authority, always. Whether it names the host is checked only
//! when `verify-hostname` asks for it: the operator's does not name it, and upstream never looks (kazoo does not check host names).

use std::{fmt, fs, path::Path, time::Duration};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};

use super::{
    super::error::ZkError,
    pem,
    replies::Replies,
    tls::{Tls, client_config},
};
use crate::{
    config,
    sys::{crypto, entropy::Entropy},
};

const LOGGER: &str = "nodepool.zk.ZooKeeper";
/// What rustls does not take, and OpenSSL does.
pub(super) const OLD: &str =
    "it is a certificate of X.509 version 1, which is not supported (openssl makes one where it is given no extension)";
/// The way out.
pub(super) const REISSUE: &str = "issue it anew with an extension (`openssl x509 -req … -extfile FILE`)";

/// Everything that a connection attempt needs, read once.
#[derive(Clone)]
pub(in crate::zk) struct Target {
    pub servers: Vec<config::ZooKeeperServer>,
    /// The same in an order of chance, in which they are tried, as kazoo does: else all clients of a site would be served by
    /// the first one.
    pub ring: Vec<config::ZooKeeperServer>,
    /// Spreads attempts of several clients.
    pub entropy: Entropy,
    /// Before each path; empty: none.
    pub chroot: String,
    /// How long a session lasts without a connection.
    pub timeout: Duration,
    pub tls: Option<Tls>,
    /// Told how long each reply takes.
    pub replies: Replies,
    /// Where certificates and key come from.
    files: Option<config::ZooKeeperTls>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("servers", &self.servers).field("chroot", &self.chroot).finish_non_exhaustive()
    }
}

impl Target {
    /// Reads and checks the files; names the one that cannot be used. Nobody is told how long replies take.
    pub fn new(config: &config::ZooKeeper, entropy: &Entropy) -> Result<Self, ZkError> {
        let mut ring = config.servers.clone();
        ring.sort_by_cached_key(|_| entropy.seed());
        Ok(Self {
            servers: config.servers.clone(),
            ring,
            entropy: entropy.clone(),
            chroot: chroot(config)?,
            timeout: config.timeout,
            tls: config.tls.as_ref().map(load_tls).transpose()?,
            replies: Replies::default(),
            files: config.tls.clone(),
        })
    }

    /// Has these told how long replies take.
    pub fn measured_by(self, replies: Replies) -> Self {
        Self { replies, ..self }
    }

    /// With its files read again: certificates are renewed while we run. As it was where they cannot be used, which a
    /// renewal in progress explains.
    pub(super) fn renewed(&self) -> Self {
        let tls = self.files.as_ref().map(load_tls).transpose().unwrap_or_else(|error| {
            tracing::warn!(logger = LOGGER, "Using the certificates that were read before: {error}");
            self.tls.clone()
        });
        Self { tls, ..self.clone() }
    }

    /// `host:port, host:port`, for messages.
    pub fn addresses(&self) -> String {
        self.servers.iter().map(address).collect::<Vec<_>>().join(", ")
    }
}

/// The host's name, or its address without brackets.
pub(super) fn host(server: &config::ZooKeeperServer) -> &str {
    server.host.trim_matches(['[', ']'])
}

/// `host:port`, with brackets around an IPv6 address.
pub(super) fn address(server: &config::ZooKeeperServer) -> String {
    let host = host(server);
    if host.contains(':') { format!("[{host}]:{}", server.port) } else { format!("{host}:{}", server.port) }
}

/// The one chroot; the addresses are checked. kazoo takes everything behind the first slash of the joined list for the chroot
/// and so would lose servers where more than the last one carries its own; here they have to agree.
fn chroot(config: &config::ZooKeeper) -> Result<String, ZkError> {
    if config.servers.is_empty() {
        return Err(ZkError::config("zookeeper-servers: name at least one server"));
    }
    let mut chroot: Option<String> = None;
    for server in &config.servers {
        if ServerName::try_from(host(server)).is_err() {
            return Err(ZkError::config(format!(
                "zookeeper-servers: {:?} is neither a host name nor an address",
                server.host
            )));
        }
        let Some(text) = server.chroot.as_deref().map(|text| text.trim_matches('/')).filter(|text| !text.is_empty())
        else {
            continue;
        };
        let text = format!("/{text}");
        if chroot.as_ref().is_some_and(|other| *other != text) {
            return Err(ZkError::config(
                "zookeeper-servers: the servers are one ensemble and must have the same chroot; write it once, at the last",
            ));
        }
        chroot = Some(text);
    }
    Ok(chroot.unwrap_or_default())
}

fn load_tls(files: &config::ZooKeeperTls) -> Result<Tls, ZkError> {
    crypto::install_provider();
    let ca = read("ca", &files.ca)?;
    let cert = read("cert", &files.cert)?;
    let key = read("key", &files.key)?;
    let key = pem::relabelled_key(&key).map_err(|why| unusable("key", &files.key, &why))?;
    check_certificates("ca", &files.ca, &ca)?;
    check_certificates("cert", &files.cert, &cert)?;
    if CertificateDer::pem_slice_iter(cert.as_bytes()).flatten().any(|der| pem::is_before_version_3(&der)) {
        return Err(unusable("cert", &files.cert, &format!("{OLD}, {REISSUE}, such as extendedKeyUsage=clientAuth")));
    }

    let tls = Tls { ca: ca.into(), cert: cert.into(), key: key.into(), verify_hostname: files.verify_hostname };
    // A key that does not belong to the certificate is found here rather than at each connection attempt.
    client_config(&tls).map_err(|error| match error {
        rustls::Error::InvalidCertificate(_) => unusable_because("cert", &files.cert, error),
        _ => unusable_because("key", &files.key, error),
    })?;
    Ok(tls)
}

fn read(key: &str, path: &Path) -> Result<String, ZkError> {
    fs::read_to_string(path).map_err(|error| {
        ZkError::config_because(format!("zookeeper-tls: {key}: cannot read {}", path.display()), error)
    })
}

fn check_certificates(key: &str, path: &Path, pem: &str) -> Result<(), ZkError> {
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        certificate.map_err(|error| unusable(key, path, &format!("not a PEM file: {error}")))?;
        found = true;
    }
    if found { Ok(()) } else { Err(unusable(key, path, "there is no certificate in it")) }
}

fn unusable(key: &str, path: &Path, why: &str) -> ZkError {
    ZkError::config(format!("zookeeper-tls: {key}: cannot use {}: {why}", path.display()))
}

fn unusable_because(key: &str, path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> ZkError {
    ZkError::config_because(format!("zookeeper-tls: {key}: cannot use {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn config(servers: &[(&str, u16, Option<&str>)]) -> config::ZooKeeper {
        let servers = servers
            .iter()
            .map(|(host, port, chroot)| config::ZooKeeperServer {
                host: (*host).to_owned(),
                port: *port,
                chroot: chroot.map(str::to_owned),
            })
            .collect();
        config::ZooKeeper { servers, timeout: Duration::from_secs(10), tls: None }
    }

    #[test]
    fn the_chroot_is_the_servers_own() {
        let of = |servers: &[_]| chroot(&config(servers)).unwrap();
        assert_eq!(of(&[("a", 2281, None), ("b.example", 2282, None)]), "");
        assert_eq!(of(&[("a", 1, None), ("b", 2, Some("/x/y/"))]), "/x/y");
        assert_eq!(of(&[("a", 1, Some("/x")), ("b", 2, Some("x"))]), "/x");
        assert_eq!(of(&[("fd00::1", 1, None), ("[fd00::2]", 2, Some("/"))]), "");
        let bracketed = config(&[("fd00::1", 1, None), ("[fd00::2]", 2, None)]);
        assert_eq!(target(&bracketed, 1).addresses(), "[fd00::1]:1, [fd00::2]:2");
    }

    fn target(config: &config::ZooKeeper, seed: u64) -> Target {
        Target::new(config, &Entropy::seeded(seed)).unwrap()
    }

    #[test]
    fn several_clients_begin_with_several_servers_and_try_all() {
        let config = config(&[("a", 1, None), ("b", 1, None), ("c", 1, Some("/x"))]);
        let rings: Vec<String> = (0..40)
            .map(|seed| target(&config, seed).ring.iter().map(|server| server.host.as_str()).collect())
            .collect();
        for order in ["abc", "acb", "bac", "bca", "cab", "cba"] {
            assert!(rings.iter().any(|ring| ring == order), "{order}: {rings:?}");
        }
        assert_eq!(target(&config, 1).chroot, "/x");
        assert_eq!(target(&config, 1).addresses(), "a:1, b:1, c:1", "as people have configured them");
    }

    #[test]
    fn servers_that_disagree_on_the_chroot_or_have_no_name_are_refused() {
        let error = |servers: &[_]| chroot(&config(servers)).unwrap_err().to_string();
        assert!(error(&[("a", 1, Some("/x")), ("b", 2, Some("/y"))]).contains("same chroot"));
        assert!(error(&[("a b", 1, None)]).contains("\"a b\""));
        assert!(error(&[]).contains("at least one"));
    }
}
