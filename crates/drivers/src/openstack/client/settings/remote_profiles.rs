//! [`RemoteProfiles`]: profiles of clouds that vendors publish at `/.well-known/openstack/api`.
//!
//! openstacksdk (config/vendors/__init__.py) fetches one while it reads clouds.yaml, and waits for it for 10 s; it keeps it
//! as long as the process lives. Here nothing waits inside a task: who reads clouds.yaml is told that the profile is not
//! there yet, and fetches it, or has it fetched. One that cannot be fetched makes its cloud unusable, as in the SDK; it is
//! asked for again with the next attempt to use the cloud.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::Url;
use serde_json::{Map, Value};

use super::{config_files::merge, vendors::vendor};
use crate::{
    Context, ErrorClass,
    openstack::{
        api::CloudError,
        client::{messages::explain, trust::public_client},
    },
};

/// Whole answer included.
const DEADLINE: Duration = Duration::from_secs(10);
/// In bytes; real ones have less than a thousandth of that.
const LARGEST: usize = 1 << 20;
const PATH: &str = "/.well-known/openstack/api";

/// Those of this process that have been fetched, by their URLs.
#[derive(Debug, Default)]
pub(super) struct RemoteProfiles {
    known: Mutex<HashMap<Url, Map<String, Value>>>,
    /// Held by whoever fetches one.
    fetching: tokio::sync::Mutex<()>,
}

impl RemoteProfiles {
    /// Those of the process.
    pub fn of(context: &Context) -> Arc<Self> {
        context.kept()
    }

    pub fn get(&self, url: &Url) -> Option<Map<String, Value>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(url).cloned()
    }

    pub fn put(&self, url: &Url, settings: Map<String, Value>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(url.clone(), settings);
    }

    /// Fetches one, unless somebody has meanwhile.
    pub async fn fetch(&self, url: &Url, context: &Context) -> Result<(), CloudError> {
        let _one = self.fetching.lock().await;
        if self.get(url).is_some() {
            return Ok(());
        }
        let settings = fetch(url, context).await?;
        self.put(url, settings);
        Ok(())
    }

    /// Has one fetched, for someone who will ask again. A failure is told in the log.
    pub fn fetch_later(self: &Arc<Self>, url: &Url, context: &Context) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.fetching.try_lock().is_err() {
            return;
        }
        let (profiles, url, context) = (Arc::clone(self), url.clone(), context.clone());
        runtime.spawn(async move {
            if let Err(error) = profiles.fetch(&url, &context).await {
                tracing::warn!("{error}");
            }
        });
    }
}

async fn fetch(url: &Url, context: &Context) -> Result<Map<String, Value>, CloudError> {
    let mut place = url.clone();
    place.set_path(PATH);
    place.set_query(None);
    place.set_fragment(None);
    let failed = |class, why: String| {
        CloudError::new(class, format!("the profile {url} of clouds.yaml cannot be fetched from {place}: {why}"))
    };
    let get = async {
        let answer = public_client(context)?.get(place.clone()).send().await;
        let broken = |error: reqwest::Error| {
            let class = if error.is_redirect() { ErrorClass::Config } else { ErrorClass::Transient };
            failed(class, explain(&error))
        };
        let mut answer = answer.map_err(broken)?;
        let status = answer.status();
        if !status.is_success() {
            let is_away = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
            let class = if is_away { ErrorClass::Transient } else { ErrorClass::Config };
            return Err(failed(class, format!("it answers {status}")));
        }
        let mut data = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            data.extend_from_slice(&chunk);
            if data.len() > LARGEST {
                return Err(failed(ErrorClass::Config, format!("its answer has more than {} KiB", LARGEST >> 10)));
            }
        }
        Ok(data)
    };
    let data = tokio::time::timeout(DEADLINE, get).await.unwrap_or_else(|_| {
        Err(failed(ErrorClass::Transient, format!("it does not answer within {} s", DEADLINE.as_secs())))
    })?;
    read(&data)
        .ok_or_else(|| failed(ErrorClass::Config, "it answers without JSON that has a name and a profile".into()))
}

/// The settings in `{"name": …, "profile": {…}}`, with what the SDK itself has for the vendor of that name over it, but
/// for what that stands for.
fn read(data: &[u8]) -> Option<Map<String, Value>> {
    let mut document: Map<String, Value> = serde_json::from_slice(data).ok()?;
    let name = document.remove("name")?;
    let Some(Value::Object(mut settings)) = document.remove("profile") else { return None };
    merge(&mut settings, vendor(name.as_str()?).unwrap_or_default());
    settings.remove("profile");
    Some(settings)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::openstack::client::settings::CloudSettings;

    /// Serves one answer to each connection, and says what was asked.
    async fn site(answers: Vec<String>) -> (Url, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/any?thing", listener.local_addr().unwrap()).parse().unwrap();
        let serve = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                asked.push(request.lines().next().unwrap_or_default().to_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (url, serve)
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    }

    fn cloud(dir: &tempfile::TempDir, url: &Url) -> Context {
        let path = dir.path().join("clouds.yaml");
        let text = format!("clouds: {{c: {{profile: '{url}', auth: {{username: own}}}}}}");
        std::fs::write(&path, text).unwrap();
        Context::default().with_variable("OS_CLIENT_CONFIG_FILE", path.to_str().unwrap())
    }

    #[tokio::test]
    async fn a_profile_by_url_is_fetched_once_and_lies_below_the_clouds_own_settings() {
        let profile = r#"{"name": "citycloud", "profile": {"auth": {"auth_url": "https://k"}, "image_format": "vhd",
            "profile": "https://other", "regions": ["theirs"], "interface": "internal"}}"#;
        let (url, serve) = site(vec![answer("200 OK", profile)]).await;
        let dir = tempfile::tempdir().unwrap();
        let context = cloud(&dir, &url);
        for _ in 0..2 {
            let settings = CloudSettings::read(None, None, &context).await.unwrap();
            assert_eq!(settings.credentials.get("username"), Some("own"));
            assert_eq!(settings.text("interface").as_deref(), Some("internal"));
            assert_eq!(settings.text("image_format").as_deref(), Some("raw"), "the SDK's own word counts more");
        }
        assert_eq!(serve.await.unwrap(), ["GET /.well-known/openstack/api HTTP/1.1"]);
    }

    #[tokio::test]
    async fn a_profile_that_cannot_be_fetched_makes_the_cloud_unusable_until_it_can() {
        let good = r#"{"name": "x", "profile": {"auth": {"auth_url": "https://k"}}}"#;
        let long = format!("{good}{}", " ".repeat(LARGEST));
        let answers = vec![
            answer("503 Away", ""),
            answer("404 No", ""),
            answer("200 OK", "[]"),
            answer("200 OK", &long),
            answer("200 OK", good),
        ];
        let (url, serve) = site(answers).await;
        let dir = tempfile::tempdir().unwrap();
        let context = cloud(&dir, &url);
        for (class, what) in [
            (ErrorClass::Transient, "it answers 503"),
            (ErrorClass::Config, "it answers 404"),
            (ErrorClass::Config, "without JSON that has a name and a profile"),
            (ErrorClass::Config, "its answer has more than 1024 KiB"),
        ] {
            let error = CloudSettings::read(None, None, &context).await.unwrap_err();
            assert!(error.class == class && error.message.contains(what), "{error}");
            assert!(error.message.contains(&format!("the profile {url} of clouds.yaml")), "{error}");
        }
        CloudSettings::read(None, None, &context).await.unwrap();
        serve.await.unwrap();
    }

    #[tokio::test]
    async fn who_cannot_wait_has_it_fetched_and_finds_it_later() {
        let good = r#"{"name": "x", "profile": {"auth": {"auth_url": "https://k"}, "image_format": "raw"}}"#;
        let (url, serve) = site(vec![answer("200 OK", good)]).await;
        let dir = tempfile::tempdir().unwrap();
        let context = cloud(&dir, &url);
        let error = CloudSettings::find(None, None, &context).unwrap_err();
        assert!(error.class == ErrorClass::Transient && error.message.contains("is being fetched"), "{error}");
        let found = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                match CloudSettings::find(None, None, &context) {
                    Ok(settings) => return settings,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        assert_eq!(found.await.unwrap().text("image_format").as_deref(), Some("raw"));
        serve.await.unwrap();
    }
}
