//! Components: who is alive. Zuul and Python launchers read the pools'.

use super::{
    LabelName, LauncherId, Object, PoolName, ProviderName,
    wire::{Extra, OurKeys, Reading, RecordError},
};

/// A builder's component: `/nodepool/components/builder/<host><10 digits>`.
#[derive(Clone, Debug, PartialEq)]
pub struct BuilderComponent {
    /// `running` or `stopped`.
    pub state: String,
}

impl BuilderComponent {
    /// Reads a record; the second value lists keys that had to be read as absent.
    pub fn read(data: &[u8]) -> Result<(Self, Vec<String>), RecordError> {
        let mut r = Reading::new(data)?;
        let state = r.text("state").unwrap_or_else(|| "stopped".to_owned());
        Ok((Self { state }, r.oddities))
    }

    /// Whether it is Python Nodepool's, which never writes any other state than the first (`nodepool 11.0.0: builder.py
    /// NodePoolBuilder.start`). Ours is `running` from its second write on.
    pub fn is_upstreams(&self) -> bool {
        self.state == "stopped"
    }
}

/// A pool launcher's component: `/nodepool/components/pool/<host><10 digits>`.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolComponent {
    /// `gethostname()`.
    pub hostname: String,
    /// `initializing`, `running`, `paused` or `stopped`. Nobody decides by it.
    pub state: String,
    /// The release; upstream's for compatibility's sake is not needed, ours is shown.
    pub version: Option<String>,
    /// The model version; 0.
    pub model_api: i64,
    /// What stands in `declined_by`. A component without one declines nothing.
    pub id: Option<LauncherId>,
    /// The pool.
    pub name: Option<PoolName>,
    /// Its provider.
    pub provider_name: Option<ProviderName>,
    /// What it can serve.
    pub supported_labels: Vec<LabelName>,
    /// Lower is preferred.
    pub priority: i64,
    /// Whether it waits for quota.
    pub paused: bool,
    /// What is not ours to change.
    pub extra: Extra,
}

const WEB_URL: &str = "web_url";

/// A pool as people read it: it is unique within its provider only.
pub fn pool_title(provider: &str, pool: &str) -> String {
    format!("{provider}-{pool}")
}

impl PoolComponent {
    /// Reads a record; the second value lists keys that had to be read as absent. `name` is the znode's.
    pub fn read(name: &str, data: &[u8]) -> Result<(Self, Vec<String>), RecordError> {
        let mut r = Reading::new(data)?;
        let mut component = Self {
            hostname: r.text("hostname").unwrap_or_else(|| name.to_owned()),
            state: r.text("state").unwrap_or_else(|| "stopped".to_owned()),
            version: r.text("version"),
            model_api: r.integer("model_api").unwrap_or(0),
            id: r.text("id").map(Into::into),
            name: r.text("name").map(Into::into),
            provider_name: r.text("provider_name").map(Into::into),
            supported_labels: r.texts("supported_labels").unwrap_or_default().into_iter().map(Into::into).collect(),
            priority: r.integer("priority").unwrap_or(100),
            paused: r.boolean("paused").unwrap_or(false),
            extra: Extra::default(),
        };
        let _ = r.text("kind");
        let (extra, oddities) = r.rest(&component.ours());
        component.extra = extra;
        Ok((component, oddities))
    }

    /// The record's bytes: keys sorted, as upstream writes components.
    pub fn write(&self) -> Vec<u8> {
        let written = self.extra.complete(&self.ours());
        let mut sorted = Object::parse(&written).ok().flatten().unwrap_or_default();
        sorted.sort();
        sorted.text().into_bytes()
    }

    fn ours(&self) -> OurKeys {
        OurKeys::of(11)
            .with("hostname", &self.hostname)
            .with("id", &self.id)
            .with("kind", "pool")
            .with("model_api", &self.model_api)
            .with("name", &self.name)
            .with("paused", &self.paused)
            .with("priority", &self.priority)
            .with("provider_name", &self.provider_name)
            .with("state", &self.state)
            .with("supported_labels", &self.supported_labels)
            .with("version", &self.version)
    }

    /// Its provider and its name, as people read it.
    pub fn title(&self) -> String {
        match (&self.provider_name, &self.name) {
            (Some(provider), Some(name)) => pool_title(provider.as_str(), name.as_str()),
            _ => self.id.as_ref().map_or_else(|| self.hostname.clone(), ToString::to_string),
        }
    }

    /// Where its launcher can be asked over HTTP. Ours, beyond upstream: Python's components do not have it, and neither
    /// Python's processes nor Zuul look at keys that they do not know.
    pub fn web_url(&self) -> Option<String> {
        self.extra.get(WEB_URL)?.text()
    }

    /// Sets [`Self::web_url`].
    pub fn set_web_url(&mut self, url: &str) {
        self.extra.set(WEB_URL, url);
    }

    /// Whether it carries all these labels.
    pub fn supports(&self, labels: &[LabelName]) -> bool {
        labels.iter().all(|label| self.supported_labels.contains(label))
    }
}
