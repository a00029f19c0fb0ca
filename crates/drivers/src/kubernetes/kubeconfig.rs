//! The kubeconfig: where it is, the context that a provider names, and what of it Zuul is given.
//!
//! As Python's client finds it (`nodepool 11.0.0: driver/utils_k8s.py`): the files of `KUBECONFIG`, else `~/.kube/config`;
//! where there is none, the credentials that a pod has of its own.

use std::path::PathBuf;

use base64::{Engine, engine::general_purpose::STANDARD};
use kube::config::{AuthInfo, Cluster, ExecAuthCluster, Kubeconfig, KubeconfigError};
use tracing::warn;

use super::proxy;
use crate::{Context, files::Fingerprint};

/// Where a pod finds the authority of its cluster.
const IN_CLUSTER_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// A way into a cluster.
pub struct Access {
    /// For the client.
    pub config: kube::Config,
    /// The API's address as the file has it, without a `/` at its end.
    pub host: String,
    /// Whether its certificate is not looked at.
    pub skip_tls: bool,
    /// The authority's certificates, PEM in base64.
    pub ca: Option<String>,
    /// What all this was read from, the files that are named in it included.
    pub files: Fingerprint,
}

/// Reads what a context says. The error says what is wrong where, for people.
pub fn read(context: Option<&str>, environment: &Context) -> Result<Access, String> {
    let paths = paths(environment);
    let there: Vec<&PathBuf> = paths.iter().filter(|path| path.exists()).collect();
    let names = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    if there.is_empty() {
        return in_cluster(&names, paths.clone());
    }
    let mut kubeconfig = Kubeconfig::default();
    for path in there {
        let one = Kubeconfig::read_from(path).map_err(|error| match error {
            KubeconfigError::Parse(error) => format!(
                "{}{}: this is no kubeconfig: the YAML is broken, or something is here that belongs elsewhere",
                path.display(),
                place(&error)
            ),
            error => format!("{}: {error}", path.display()),
        })?;
        kubeconfig = kubeconfig.merge(one).map_err(|error| format!("{names}: {error}"))?;
    }
    let known = kubeconfig.contexts.iter().map(|known| known.name.as_str()).collect::<Vec<_>>().join(", ");
    let name = context
        .map(str::to_owned)
        .or_else(|| kubeconfig.current_context.clone().filter(|name| !name.is_empty()))
        .ok_or_else(|| format!("{names} has no current-context; name one of its contexts: {known}"))?;
    let found = kubeconfig.contexts.iter().find(|known| known.name == name).and_then(|known| known.context.clone());
    let found = found.ok_or_else(|| {
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has: {known}") };
        format!("there is no context `{name}` in {names}; {known}")
    })?;
    let cluster = kubeconfig.clusters.iter().find(|known| known.name == found.cluster);
    let cluster = cluster
        .and_then(|known| known.cluster.clone())
        .ok_or_else(|| format!("context `{name}` in {names} names cluster `{}`, which is not there", found.cluster))?;
    let user = found.user.as_ref().and_then(|user| kubeconfig.auth_infos.iter().find(|known| known.name == *user));
    if let (Some(user), None) = (&found.user, user) {
        return Err(format!("context `{name}` in {names} names user `{user}`, which is not there"));
    }
    let auth = user.and_then(|user| user.auth_info.clone()).unwrap_or_default();
    let mut files = paths.clone();
    let parts = [&cluster.certificate_authority, &auth.client_certificate, &auth.client_key, &auth.token_file];
    files.extend(parts.into_iter().flatten().map(PathBuf::from));
    let files = Fingerprint::of(files);
    let ca = match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
        (Some(data), _) => Some(data.split_whitespace().collect()),
        (None, Some(path)) => {
            let pem = std::fs::read(path).map_err(|error| format!("context `{name}` in {names}: {path}: {error}"))?;
            Some(STANDARD.encode(pem))
        }
        (None, None) => None,
    };
    let here = |why: String| format!("context `{name}` in {names}: {why}");
    let host = cluster.server.clone().unwrap_or_default().trim_end_matches('/').to_owned();
    if host.is_empty() {
        return Err(here(format!("cluster `{}` has no `server`", found.cluster)));
    }
    let config = config(&host, &cluster, auth, found.namespace, ca.as_deref(), environment);
    let config = config.map_err(here)?;
    Ok(Access { config, host, skip_tls: cluster.insecure_skip_tls_verify.unwrap_or(false), ca, files })
}

/// What kube's own loader makes of it, but for the proxy, which that chooses wrongly (see [`proxy`]).
fn config(
    host: &str,
    cluster: &Cluster,
    mut auth: AuthInfo,
    namespace: Option<String>,
    ca: Option<&str>,
    environment: &Context,
) -> Result<kube::Config, String> {
    let server: http::Uri = host.parse().map_err(|error| format!("`server` is no address: {host}: {error}"))?;
    if let Some(exec) = auth.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
        let told = ExecAuthCluster::try_from(cluster).map_err(|error| error.to_string())?;
        exec.cluster = Some(told);
    }
    let proxy_url = proxy::of(&server, cluster.proxy_url.as_deref(), environment)?;
    let mut config = kube::Config::new(server);
    if let Some(namespace) = namespace {
        config.default_namespace = namespace;
    }
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
    if let Some(ca) = ca {
        let name = match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
            (None, Some(path)) => path.clone(),
            _ => "its certificate-authority-data".to_owned(),
        };
        let authorities = authorities(ca, &name)?;
        let is_needed = !config.accept_invalid_certs && config.cluster_url.scheme_str() == Some("https");
        if authorities.is_empty() && is_needed {
            return Err(format!("{name} has no certificate in PEM that can be used"));
        }
        config.root_cert = Some(authorities);
    }
    config.disable_compression = cluster.disable_compression.unwrap_or(false);
    config.tls_server_name.clone_from(&cluster.tls_server_name);
    config.auth_info = auth;
    config.proxy_url = proxy_url;
    Ok(config)
}

/// The certificates of a PEM file in base64 (`name`) that can be trusted, each as DER. One that the TLS library cannot read
/// is passed over: it does not cost the others.
fn authorities(ca: &str, name: &str) -> Result<Vec<Vec<u8>>, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let pem = STANDARD.decode(ca).map_err(|error| format!("{name} is no base64: {error}"))?;
    let pem = String::from_utf8_lossy(&pem);
    let certificate = |block: &str| {
        let (body, _) = block.split_once(END)?;
        STANDARD.decode(body.split_whitespace().collect::<String>()).ok()
    };
    let blocks: Vec<Option<Vec<u8>>> = pem.split(BEGIN).skip(1).map(certificate).collect();
    let count = blocks.len();
    let readable: Vec<Vec<u8>> = blocks.into_iter().flatten().collect();
    // One by one only where it must be: a bundle has more than a hundred.
    let usable = if can_be_used(&readable) {
        readable
    } else {
        readable.into_iter().filter(|certificate| can_be_used(std::slice::from_ref(certificate))).collect()
    };
    let passed_over = count - usable.len();
    if passed_over > 0 {
        warn!("{passed_over} of {count} certificates in {name} cannot be read and are passed over");
    }
    Ok(usable)
}

/// Whether the TLS library, which kube and reqwest share, takes them all as authorities.
fn can_be_used(certificates: &[Vec<u8>]) -> bool {
    let empty = crate::http_client::builder().tls_built_in_root_certs(false);
    let with_all = certificates
        .iter()
        .try_fold(empty, |builder, der| Some(builder.add_root_certificate(reqwest::Certificate::from_der(der).ok()?)));
    with_all.is_some_and(|builder| builder.build().is_ok())
}

/// `:LINE:COLUMN`, where YAML is wrong. What is there is not told, as the parser's own message does: it may be a token or a
/// key.
pub fn place(error: &serde_saphyr::Error) -> String {
    let at = error.location().filter(|at| at.line() > 0);
    at.map(|at| format!(":{}:{}", at.line(), at.column())).unwrap_or_default()
}

fn in_cluster(names: &str, mut paths: Vec<PathBuf>) -> Result<Access, String> {
    let config = kube::Config::incluster().map_err(|error| {
        format!("there is no kubeconfig ({names}), and this is no pod of a cluster either: {error}")
    })?;
    // Python's client hands Zuul neither token nor certificate here, which Zuul can do nothing with.
    let ca = std::fs::read(IN_CLUSTER_CA).map_err(|error| format!("{IN_CLUSTER_CA}: {error}"))?;
    let host = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    paths.push(IN_CLUSTER_CA.into());
    Ok(Access { config, host, skip_tls: false, ca: Some(STANDARD.encode(ca)), files: Fingerprint::of(paths) })
}

fn paths(environment: &Context) -> Vec<PathBuf> {
    match environment.variable("KUBECONFIG") {
        Some(list) => std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect(),
        None => environment.variable("HOME").map(|home| PathBuf::from(home).join(".kube/config")).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r"
apiVersion: v1
kind: Config
clusters:
- name: c
  cluster: {server: 'https://127.0.0.1:6443/', insecure-skip-tls-verify: true, certificate-authority-data: Zm9v}
users:
- name: u
  user: {token: secret}
contexts:
- name: one
  context: {cluster: c, user: u, namespace: n}
- name: lost
  context: {cluster: gone, user: u}
- name: nobody
  context: {cluster: c, user: gone}
";

    fn environment(text: &str) -> (tempfile::TempDir, Context) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, text).unwrap();
        let context = Context::default().with_variable("KUBECONFIG", path.to_str().unwrap());
        (dir, context)
    }

    /// One that signs itself, in `ca.pem`.
    fn certificate(dir: &tempfile::TempDir) -> String {
        let args =
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ca -keyout ca.key -out ca.pem";
        let output =
            std::process::Command::new("openssl").current_dir(dir.path()).args(args.split(' ')).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read_to_string(dir.path().join("ca.pem")).unwrap()
    }

    fn error(context: Option<&str>, text: &str) -> String {
        let (dir, environment) = environment(text);
        let error = read(context, &environment).err().unwrap();
        error.replace(dir.path().to_str().unwrap(), "/k")
    }

    #[test]
    fn what_zuul_is_given_is_as_the_file_has_it() {
        let (dir, environment) = environment(
            &FILE
                .replace("insecure-skip-tls-verify: true, ", "")
                .replace("certificate-authority-data: Zm9v", "certificate-authority: ca.pem"),
        );
        let pem = certificate(&dir);
        let access = read(Some("one"), &environment).unwrap();
        assert_eq!(access.host, "https://127.0.0.1:6443");
        assert!(!access.skip_tls);
        assert_eq!(access.ca, Some(STANDARD.encode(&pem)));
        assert!(!access.files.has_changed());
        std::fs::write(dir.path().join("ca.pem"), format!("{pem}\n")).unwrap();
        assert!(access.files.has_changed(), "a file that the kubeconfig names counts");
    }

    #[test]
    fn what_is_missing_is_named_with_what_there_is() {
        assert_eq!(error(Some("two"), FILE), "there is no context `two` in /k/config; it has: one, lost, nobody");
        assert_eq!(error(None, FILE), "/k/config has no current-context; name one of its contexts: one, lost, nobody");
        assert_eq!(error(Some("lost"), FILE), "context `lost` in /k/config names cluster `gone`, which is not there");
        assert_eq!(error(Some("nobody"), FILE), "context `nobody` in /k/config names user `gone`, which is not there");
        assert_eq!(
            error(Some("one"), &FILE.replace("https://127.0.0.1:6443/", "")),
            "context `one` in /k/config: cluster `c` has no `server`"
        );
    }

    #[test]
    fn a_file_that_is_no_kubeconfig_is_named_with_line_and_column_but_not_with_what_it_says() {
        let broken = error(None, "users:\n- name: u\n  user: {token: hidden\n");
        assert!(broken.starts_with("/k/config:3:") || broken.starts_with("/k/config:4:"), "{broken}");
        let misplaced = error(None, "users:\n- name: u\n  user: hidden\n");
        assert!(misplaced.starts_with("/k/config:3:9: "), "{misplaced}");
        let repeated = error(None, "users:\n- {name: u, user: {token: hidden, token: hidden}}\n");
        for error in [broken, misplaced, repeated] {
            assert!(error.contains("this is no kubeconfig") && !error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn a_certificate_that_cannot_be_read_does_not_cost_the_others_of_its_file() {
        let file = FILE
            .replace("insecure-skip-tls-verify: true, ", "")
            .replace("certificate-authority-data: Zm9v", "certificate-authority: ca.pem");
        let (dir, environment) = environment(&file);
        let pem = certificate(&dir);
        let block = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let (odd, broken) = (block("Zm9v"), block("%%%%"));
        let trusted = |text: &str| {
            std::fs::write(dir.path().join("ca.pem"), text).unwrap();
            let access = read(Some("one"), &environment)?;
            Ok::<_, String>(access.config.root_cert.unwrap().len())
        };
        assert_eq!(trusted(&format!("# ours\n{odd}{pem}{broken}-----BEGIN CERTIFICATE-----\nno end")), Ok(1));
        let path = dir.path().join("ca.pem").display().to_string();
        for text in [format!("{odd}{broken}"), "nothing".to_owned(), String::new()] {
            let error = trusted(&text).unwrap_err();
            assert!(error.ends_with(&format!(": {path} has no certificate in PEM that can be used")), "{error}");
        }
    }

    #[test]
    fn a_cluster_that_no_proxy_excepts_is_reached_without_one() {
        let (_dir, environment) = environment(FILE);
        // An empty item is what many a site's list has.
        let proxied =
            environment.with_variable("HTTPS_PROXY", "http://proxy:3128").with_variable("NO_PROXY", "localhost,,");
        let proxy = |environment: &Context| read(Some("one"), environment).unwrap().config.proxy_url;
        assert_eq!(proxy(&proxied).unwrap(), "http://proxy:3128/");
        assert_eq!(proxy(&proxied.with_variable("NO_PROXY", "localhost,127.0.0.1")), None);
    }
}
