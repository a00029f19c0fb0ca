//! [`ScriptedCloud`]: an OpenStack that gives the answers a test writes down, for what no test cloud can be made to say.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Calls, Fault, FaultProxy, Rule};

/// Answers `POST /v3/auth/tokens` with a token for an hour and a catalogue, and the rest as told. Its services are at
/// `/compute/v2.1`, `/network/v2.0`, `/image/v2` and `/volume/v3`. What it was not told to answer, it cuts.
#[derive(Debug)]
pub struct ScriptedCloud {
    proxy: FaultProxy,
    dir: TempDir,
    /// Further lines of its clouds.yaml.
    settings: String,
}

impl ScriptedCloud {
    /// The cloud's name in its clouds.yaml.
    pub const NAME: &str = "scripted";

    /// Starts one, with credentials for the project with id `project`; `settings` are further lines of its clouds.yaml.
    pub async fn start(settings: &[&str]) -> Self {
        let settings = settings.iter().flat_map(|line| ["    ", *line, "\n"]).collect();
        let dir = TempDir::with_prefix("nodepool-cloud-").unwrap();
        // Nobody listens there.
        let this = Self { proxy: FaultProxy::start("http://127.0.0.1:1").await, dir, settings };
        this.leads_to("project");
        this
    }

    /// From now on, clouds.yaml has credentials for the project with that id.
    pub fn leads_to(&self, project: &str) {
        let url = self.proxy.url();
        let service = |of_type: &str, path: &str| {
            json!({"type": of_type, "name": of_type, "endpoints": [
                {"interface": "public", "region_id": "R", "url": format!("{url}{path}")}]})
        };
        let token = json!({"token": {
            "issued_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T01:00:00Z", "project": {"id": project},
            "catalog": [service("compute", "/compute/v2.1"), service("network", "/network/v2.0"),
                service("image", "/image/v2"), service("volumev3", "/volume/v3")]}});
        self.meets(Rule::new(
            "POST",
            "/v3/auth/tokens",
            Fault::Answer {
                status: 201,
                headers: [("X-Subject-Token".to_owned(), token_of(project))].into(),
                body: token.to_string(),
            },
        ));
        let project_name = if project == "project" { "p" } else { project };
        let clouds = format!(
            "clouds:\n  {}:\n    auth: {{auth_url: '{url}/v3', username: u, password: p, project_name: {project_name}, \
             user_domain_id: default, project_domain_id: default}}\n{}",
            Self::NAME,
            self.settings
        );
        // Nobody reads half of it.
        let aside = self.dir.path().join("clouds.aside");
        std::fs::write(&aside, clouds).unwrap();
        std::fs::rename(aside, self.clouds_yaml()).unwrap();
    }

    /// Whether a call has come with the credentials of that project.
    pub fn is_asked_for(&self, project: &str) -> bool {
        self.calls().tokens.contains(&token_of(project))
    }

    /// See [`FaultProxy::let_go`].
    pub fn let_go(&self) {
        self.proxy.let_go();
    }

    /// Its clouds.yaml.
    pub fn clouds_yaml(&self) -> PathBuf {
        let path: &Path = self.dir.path();
        path.join("clouds.yaml")
    }

    /// From now on, requests with that method and path (see [`Rule`]) are answered so.
    pub fn answer(&self, method: &str, path: &str, status: u16, body: &Value) {
        self.meets(Rule::new(method, path, answer(status, body)));
    }

    /// The next request with that method and path is answered so.
    pub fn answer_once(&self, method: &str, path: &str, status: u16, body: &Value) {
        self.meets(Rule::new(method, path, answer(status, body)).times(1));
    }

    /// A rule that acts before all others.
    pub fn meets(&self, rule: Rule) {
        self.proxy.prefer(rule);
    }

    /// What has been asked.
    pub fn calls(&self) -> Calls {
        self.proxy.calls()
    }
}

fn token_of(project: &str) -> String {
    format!("token-of-{project}")
}

fn answer(status: u16, body: &Value) -> Fault {
    Fault::Answer { status, headers: [].into(), body: if body.is_null() { String::new() } else { body.to_string() } }
}
