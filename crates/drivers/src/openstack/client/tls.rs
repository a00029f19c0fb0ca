//! The HTTP client of a cloud, as its settings describe it.

use std::{fs, path::Path};

use reqwest::{Client, Identity, redirect::Policy};

use super::{
    messages::explain,
    settings::CloudSettings,
    trust::{Verify, build, trusting},
};
use crate::{Context, ErrorClass, openstack::api::CloudError};

fn config_error(message: String) -> CloudError {
    CloudError::new(ErrorClass::Config, message)
}

/// A client for the cloud that the settings describe. It follows no redirects ([`super::redirects`]).
pub(super) fn client(settings: &CloudSettings, context: &Context) -> Result<Client, CloudError> {
    let place = format!("cloud {} in {}", settings.name, settings.file.display());
    let verify = settings.verify(context);
    if verify == Verify::Not {
        tracing::warn!("{place}: certificates are not checked (verify, insecure)");
    }
    let mut builder = trusting(&verify, &place)?.redirect(Policy::none());
    let read = |what: &str, path: &Path| {
        fs::read(path)
            .map_err(|error| config_error(format!("cannot read {}, the {what} of {place}: {error}", path.display())))
    };
    if let Some(cert) = settings.path("cert", context) {
        let mut pem = read("cert", &cert)?;
        if let Some(key) = settings.path("key", context) {
            pem.push(b'\n');
            pem.extend(read("key", &key)?);
        }
        builder = builder.identity(Identity::from_pem(&pem).map_err(|error| {
            config_error(format!(
                "the client certificate of {place} cannot be used: {}; cert and key (or cert alone) must have a \
                 certificate and its key in PEM, the key without a password",
                explain(&error)
            ))
        })?);
    }
    build(builder, &place)
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpStream,
        process::{Child, Command, Stdio},
        time::{Duration, Instant},
    };

    use reqwest::{Method, Url};
    use tempfile::TempDir;

    use super::*;
    use crate::openstack::client::{
        redirects::Http,
        trust::{BEGIN, END, public_client},
    };

    fn openssl(dir: &TempDir, args: &str) {
        let output = Command::new("openssl").current_dir(dir.path()).args(args.split(' ')).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// An authority, and a server's and a client's certificate by it.
    fn certificates() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ext"), "subjectAltName=DNS:localhost\n").unwrap();
        let new = "-newkey rsa:2048 -nodes";
        openssl(&dir, &format!("req -x509 {new} -subj /CN=ca -addext keyUsage=keyCertSign -keyout ca.key -out ca.pem"));
        for name in ["server", "client"] {
            openssl(&dir, &format!("req {new} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
            let by = "-CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext";
            openssl(&dir, &format!("x509 -req -in {name}.csr {by} -out {name}.pem"));
        }
        dir
    }

    /// `openssl s_server`, which answers with a page about the connection.
    struct Server(Child, u16);

    impl Server {
        fn start(dir: &TempDir, args: &str) -> Self {
            let port = nodepool_testing::free_port();
            let args = format!("s_server -accept 127.0.0.1:{port} -www -cert server.pem -key server.key {args}");
            let child = Command::new("openssl")
                .current_dir(dir.path())
                .args(args.split_whitespace())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let server = Self(child, port);
            let began = Instant::now();
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(began.elapsed() < Duration::from_secs(20), "the server listens");
                std::thread::sleep(Duration::from_millis(20));
            }
            server
        }

        /// What comes of a call with these settings.
        async fn get(&self, dir: &TempDir, settings: &str) -> Result<(), String> {
            self.get_page(dir, settings, "").await
        }

        async fn get_page(&self, dir: &TempDir, settings: &str, page: &str) -> Result<(), String> {
            let path = dir.path().join("clouds.yaml");
            std::fs::write(&path, format!("clouds: {{c: {{{settings}}}}}")).unwrap();
            let context = Context::default()
                .with_variable("OS_CLIENT_CONFIG_FILE", path.to_str().unwrap())
                .with_variable("HOME", dir.path().to_str().unwrap());
            let settings = CloudSettings::find(Some("c"), None, &context).unwrap();
            let http = Http::new(client(&settings, &context).map_err(|error| error.message)?);
            let url = Url::parse(&format!("https://localhost:{}/{page}", self.1)).unwrap();
            let request = http.request(Method::GET, url).timeout(Duration::from_secs(20));
            http.send(request).await.map(drop).map_err(|error| error.to_string())
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[tokio::test]
    async fn a_certificate_is_judged_by_cacert_and_not_at_all_where_verify_is_off() {
        let dir = certificates();
        let server = Server::start(&dir, "");
        server.get(&dir, "cacert: ~/ca.pem").await.unwrap();
        server.get(&dir, "verify: ~/ca.pem").await.unwrap();
        server.get(&dir, "verify: false").await.unwrap();
        let error = server.get(&dir, "").await.unwrap_err();
        assert!(error.contains("certificate"), "{error}");
        let error = server.get(&dir, "cacert: ~/client.pem").await.unwrap_err();
        assert!(error.contains("certificate"), "another's authority: {error}");
        let error = server.get(&dir, "cacert: /nowhere.pem").await.unwrap_err();
        assert!(error.contains("cannot read /nowhere.pem, the cacert of cloud c in "), "{error}");
        let error = server.get(&dir, "cacert: ~/ext").await.unwrap_err();
        assert!(error.contains("has no certificate in PEM"), "{error}");
    }

    #[tokio::test]
    async fn an_authority_is_found_in_a_directory_by_the_name_that_openssl_gives_it() {
        let dir = certificates();
        let server = Server::start(&dir, "");
        std::fs::create_dir(dir.path().join("authorities")).unwrap();
        let hashed = std::path::PathBuf::from("authorities");
        std::fs::copy(dir.path().join("ca.pem"), dir.path().join(hashed.join("ca.pem"))).unwrap();
        let error = server.get(&dir, "cacert: ~/authorities").await.unwrap_err();
        assert!(error.contains("openssl rehash"), "{error}");
        openssl(&dir, "rehash authorities");
        server.get(&dir, "cacert: ~/authorities").await.unwrap();
    }

    #[tokio::test]
    async fn a_certificate_that_cannot_be_read_does_not_cost_the_others_of_its_bundle() {
        let dir = certificates();
        let server = Server::start(&dir, "");
        let authority = std::fs::read_to_string(dir.path().join("ca.pem")).unwrap();
        let broken = [format!("{BEGIN}\nAAAA\n{END}\n"), format!("{BEGIN}\n%%%%\n{END}\n")].concat();
        std::fs::write(dir.path().join("bundle.pem"), format!("# a comment\n{broken}{authority}{broken}")).unwrap();
        server.get(&dir, "cacert: ~/bundle.pem").await.unwrap();
        std::fs::write(dir.path().join("broken.pem"), broken).unwrap();
        let error = server.get(&dir, "cacert: ~/broken.pem").await.unwrap_err();
        assert!(error.contains("has no certificate in PEM that can be used"), "{error}");
    }

    #[tokio::test]
    async fn a_client_certificate_is_shown_to_a_cloud_that_wants_one() {
        let dir = certificates();
        let server = Server::start(&dir, "-CAfile ca.pem -Verify 1 -verify_return_error");
        server.get(&dir, "cacert: ~/ca.pem").await.unwrap_err();
        server.get(&dir, "cacert: ~/ca.pem, cert: ~/client.pem, key: ~/client.key").await.unwrap();
        let both = ["client.pem", "client.key"].map(|name| std::fs::read_to_string(dir.path().join(name)).unwrap());
        std::fs::write(dir.path().join("both.pem"), both.concat()).unwrap();
        server.get(&dir, "cacert: ~/ca.pem, cert: ~/both.pem").await.unwrap();
        let error = server.get(&dir, "cert: ~/client.pem").await.unwrap_err();
        assert!(error.contains("the client certificate of cloud c") && error.contains("cert and key"), "{error}");
    }
    #[tokio::test]
    async fn a_token_is_not_carried_from_tls_to_where_all_can_read_it() {
        let dir = certificates();
        for (page, to) in [("plain", "http://localhost:1/v3"), ("secret", "/end"), ("end", "")] {
            let status = if to.is_empty() { "200 OK" } else { "302 Found" };
            std::fs::write(dir.path().join(page), format!("HTTP/1.0 {status}\r\nLocation: {to}\r\n\r\n")).unwrap();
        }
        let server = Server::start(&dir, "-HTTP");
        server.get_page(&dir, "cacert: ~/ca.pem", "secret").await.unwrap();
        let error = server.get_page(&dir, "cacert: ~/ca.pem", "plain").await.unwrap_err();
        assert!(error.contains("redirects to http://localhost:1/v3, which would show the token"), "{error}");
        let ca = dir.path().join("ca.pem");
        let context = Context::default().with_variable("REQUESTS_CA_BUNDLE", ca.to_str().unwrap());
        let client = public_client(&context).unwrap();
        let get = |page: &str| client.get(format!("https://localhost:{}/{page}", server.1)).send();
        get("secret").await.unwrap();
        let error = get("plain").await.unwrap_err();
        assert!(error.is_redirect() && explain(&error).contains("from https to http"), "{}", explain(&error));
    }
}
