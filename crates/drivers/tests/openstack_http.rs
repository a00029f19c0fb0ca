//! What the openstack driver makes of a cloud that is slow, unwell, away, or moved: the real Keystone and Nova named by
//! `NODEPOOL_TEST_CLOUDS_YAML`, behind proxies that let things go wrong. Without it the tests say that they did nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests
// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]

mod common;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Reported, label, launch, openstack, provider};
use futures::future::join_all;
use nodepool_common::config::Driver;
use nodepool_drivers::{CloudResource, Context, ErrorClass, Provider, ProviderError, ResourceKind, make};
use nodepool_testing::{Calls, Fault, FaultProxy, Rule};
use serde_json::{Map, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const CLOUD: &str = "npcloud";
const KEYSTONE: &str = "http://127.0.0.1:5000/v3";
const NOVA: &str = "http://127.0.0.1:8774/v2.1";
/// No server has this id.
const NOBODY: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
const SERVER: &str = "/v2.1/servers/*";
const SERVERS: &str = "/v2.1/servers";
const LOGIN: &str = "POST /v3/auth/tokens";
/// The cloud runs on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(180);
/// The same for a launch: other tests make twenty servers at once meanwhile.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(600);

/// A provider, and what stands between it and its cloud.
struct Front {
    keystone: FaultProxy,
    nova: FaultProxy,
    dir: TempDir,
    context: Context,
    provider: Arc<dyn Provider>,
}

impl Front {
    /// `None` without a cloud. `extra`: further lines of the cloud's settings.
    async fn new(test: &str, extra: &[&str]) -> Option<Self> {
        let Ok(real) = std::env::var("NODEPOOL_TEST_CLOUDS_YAML") else {
            eprintln!("skipped: NODEPOOL_TEST_CLOUDS_YAML does not name the clouds.yaml of a test cloud");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(real, dir.path().join("real.yaml")).unwrap();
        let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", path(&dir).to_str().unwrap());
        let config = openstack(CLOUD, vec![label("l", "cirros-np", "np.tiny", &["private-v4only"])]);
        let provider = make(&provider(&format!("test-{test}"), Driver::OpenStack(config)), &context).unwrap();
        let front = Self {
            keystone: FaultProxy::start(KEYSTONE).await,
            nova: FaultProxy::start(NOVA).await,
            dir,
            context,
            provider,
        };
        front.write(&front.settings(extra));
        Some(front)
    }

    /// The same, started, with counts from zero.
    async fn started(test: &str, extra: &[&str]) -> Option<Self> {
        let front = Self::new(test, extra).await?;
        front.provider.start().await.unwrap();
        front.nova.forget();
        Some(front)
    }

    fn settings(&self, extra: &[&str]) -> String {
        let real = std::fs::read_to_string(self.dir.path().join("real.yaml")).unwrap();
        let ours = format!("  {CLOUD}:\n    compute_endpoint_override: {}\n", self.nova.url());
        let extra: String = extra.iter().flat_map(|line| ["    ", *line, "\n"]).collect();
        real.replace(KEYSTONE, &self.keystone.url()).replace(&format!("  {CLOUD}:\n"), &(ours + &extra))
    }

    fn write(&self, settings: &str) {
        std::fs::write(path(&self.dir), settings).unwrap();
    }

    /// One call of Nova that changes nothing: it deletes a server that is not there.
    async fn ask(&self) -> Result<(), ProviderError> {
        let none = CloudResource::of(ResourceKind::Instance, NOBODY.to_owned(), Map::new());
        timeout(DEADLINE, self.provider.delete_resource(&none)).await.expect("it ends")
    }

    /// So many at once; all must succeed.
    async fn ask_often(&self, times: usize) {
        for answer in join_all((0..times).map(|_| self.ask())).await {
            answer.unwrap();
        }
    }

    /// Asks until it fits: settings take a second to be seen.
    async fn until(&self, what: &str, fits: impl Fn(&Result<(), ProviderError>) -> bool) {
        let began = Instant::now();
        loop {
            let answer = self.ask().await;
            if fits(&answer) {
                return;
            }
            assert!(began.elapsed() < DEADLINE, "{what}: {answer:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Launches a server and deletes it.
    async fn launch(&self) -> Result<(), ProviderError> {
        let instance = self.provider.launch(&launch("l", "0000000001"), &Reported::default()).await?;
        timeout(LAUNCH_DEADLINE, self.provider.delete(&instance.external_id, None)).await.expect("it is deleted")
    }
}

fn path(dir: &TempDir) -> PathBuf {
    dir.path().join("clouds.yaml")
}

fn answer(status: u16, headers: &[(&str, &str)]) -> Fault {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Fault::Answer { status, headers, body: json!({"error": {"message": "no"}}).to_string() }
}

fn ended(calls: &Calls, call: &str, end: &str) -> u64 {
    calls.calls.get(call).and_then(|ends| ends.get(end)).copied().unwrap_or_default()
}

#[tokio::test]
async fn a_429_keeps_all_calls_waiting_for_as_long_as_it_says() {
    let Some(front) = Front::started("later", &[]).await else { return };
    front.nova.set(Rule::new("DELETE", SERVER, answer(429, &[("Retry-After", "3")])).times(1));
    let began = Instant::now();
    let first = front.ask();
    let others = async {
        while ended(&front.nova.calls(), "DELETE /v2.1/servers/*", "429") == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        front.ask_often(20).await;
    };
    let (first, ()) = tokio::join!(first, others);
    first.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    let calls = front.nova.calls();
    assert_eq!(calls.of("DELETE /v2.1/servers/*"), 22, "{calls:?}");
}

#[tokio::test]
async fn a_creation_that_was_answered_429_is_repeated_until_it_is_taken() {
    let Some(front) = Front::started("later-create", &[]).await else { return };
    front.nova.set(Rule::new("POST", SERVERS, answer(429, &[("Retry-After", "1")])).times(4));
    timeout(LAUNCH_DEADLINE, front.launch()).await.unwrap().unwrap();
    let calls = front.nova.calls();
    assert_eq!(ended(&calls, "POST /v2.1/servers", "429"), 4, "{calls:?}");
    assert_eq!(calls.of("POST /v2.1/servers"), 5, "{calls:?}");
}

#[tokio::test]
async fn a_creation_that_was_answered_503_is_not_repeated_blindly() {
    let Some(front) = Front::started("lost-create", &[]).await else { return };
    front.nova.set(Rule::new("POST", SERVERS, answer(503, &[])).times(1));
    let error = timeout(LAUNCH_DEADLINE, front.launch()).await.unwrap().unwrap_err();
    assert_eq!(error.class, ErrorClass::Transient, "{error}");
    assert_eq!(front.nova.calls().of("POST /v2.1/servers"), 1);
}

#[tokio::test]
async fn a_storm_of_503_does_not_multiply_calls_and_heals() {
    let Some(front) = Front::started("storm", &[]).await else { return };
    front.nova.set(Rule::new("*", "**", answer(503, &[])));
    let healed = async {
        sleep(Duration::from_secs(8)).await;
        let during = front.nova.calls();
        front.nova.clear();
        (during, Instant::now())
    };
    // Each of them would be tried three times by itself.
    let (asked, (during, cleared)) = tokio::join!(join_all((0..50).map(|_| front.ask())), healed);
    eprintln!("healed after {:?}; {during:?}", cleared.elapsed());
    // Each waits for a minute at most; the gate asks every 10 s at the latest.
    assert!(cleared.elapsed() < Duration::from_secs(45));
    assert!(during.total() <= 50 + 6, "{during:?}");
    let failed: Vec<_> = asked.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn a_launch_waits_for_a_service_that_is_down_and_makes_one_server() {
    let Some(front) = Front::started("down", &[]).await else { return };
    // What the label means is known.
    front.provider.label_resources(&"main".into(), &"l".into()).await.unwrap();
    front.nova.down();
    let (launched, ()) = tokio::join!(timeout(LAUNCH_DEADLINE, front.launch()), async {
        sleep(Duration::from_secs(1)).await;
        front.nova.up();
    });
    launched.unwrap().unwrap();
    assert_eq!(front.nova.calls().of("POST /v2.1/servers"), 1);
}

#[tokio::test]
async fn a_call_that_hangs_ends_by_its_deadline_and_says_which_it_was() {
    let Some(front) = Front::started("hang", &["api_timeout: 4"]).await else { return };
    front.nova.set(Rule::new("DELETE", SERVER, Fault::Hang(120)));
    let began = Instant::now();
    let error = front.ask().await.unwrap_err();
    // Three attempts.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let text = format!("{error:?}");
    let host = front.nova.url().replace("http://", "").replace("/v2.1", "");
    assert!(text.contains(&format!("no answer within 4 s (delete_server, compute API at {host})")), "{text}");
    assert_eq!(error.class, ErrorClass::Transient);
    front.nova.clear();
    front.until("it heals", Result::is_ok).await;
}

#[tokio::test]
async fn calls_that_hang_hold_few_connections() {
    let Some(front) = Front::started("hang-many", &["api_timeout: 2", "concurrency: {compute: 8}"]).await else {
        return;
    };
    front.nova.set(Rule::new("DELETE", SERVER, Fault::Hang(120)));
    let asked = timeout(Duration::from_secs(9), join_all((0..100).map(|_| front.ask()))).await;
    assert!(asked.is_err(), "they wait, or have failed one by one");
    let calls = front.nova.calls();
    assert!(calls.total() <= 8 + 5, "{calls:?}");
}

#[tokio::test]
async fn rate_limit_of_clouds_yaml_spaces_the_calls_of_its_service() {
    let Some(front) = Front::started("rate", &["rate_limit: {compute: 5}"]).await else { return };
    let began = Instant::now();
    front.ask_often(11).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn while_keystone_is_away_a_good_token_serves() {
    let Some(front) = Front::started("keystone", &[]).await else { return };
    front.keystone.down();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        front.ask().await.unwrap();
        sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test]
async fn calls_that_need_a_token_wait_for_keystone_and_ask_it_little() {
    let Some(front) = Front::new("keystone-start", &[]).await else { return };
    front.keystone.set(Rule::new("POST", "/v3/auth/tokens", answer(503, &[])));
    let error = front.provider.start().await.unwrap_err();
    assert!(format!("{error:?}").contains("Keystone at http://127.0.0.1:"), "{error:?}");
    assert_eq!(error.class, ErrorClass::Transient);
    front.keystone.forget();
    let healed = async {
        sleep(Duration::from_secs(6)).await;
        let asked = front.keystone.calls().of(LOGIN);
        front.keystone.clear();
        asked
    };
    let ((), asked) = tokio::join!(front.ask_often(30), healed);
    assert!(asked <= 4, "{asked} logins in 6 s");
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_for_all() {
    let Some(front) = Front::started("token", &[]).await else { return };
    assert_eq!(front.keystone.calls().of(LOGIN), 1);
    // Those that are on their way at once all have the old one.
    front.nova.set(Rule::new("DELETE", SERVER, answer(401, &[])).times(20));
    front.ask_often(20).await;
    assert_eq!(front.keystone.calls().of(LOGIN), 2);
}

#[tokio::test]
async fn a_new_token_that_a_service_does_not_know_yet_is_no_reason_to_fail() {
    let Some(front) = Front::started("token-late", &[]).await else { return };
    front.nova.set(Rule::new("DELETE", SERVER, answer(401, &[])).once_per("x-auth-token"));
    front.ask().await.unwrap();
    assert_eq!(front.keystone.calls().of(LOGIN), 2);
}

#[tokio::test]
async fn a_password_that_becomes_wrong_and_is_corrected_needs_no_restart() {
    let Some(front) = Front::started("password", &[]).await else { return };
    let good = front.settings(&[]);
    front.write(&good.replace("np-secret", "wrong"));
    front
        .until("the wrong password counts", |answer| {
            answer.as_ref().is_err_and(|error| {
                let text = format!("{error:?}");
                assert!(!text.contains("wrong\""), "the password is not shown: {text}");
                error.class == ErrorClass::Config && text.contains("refused the credentials of cloud npcloud")
            })
        })
        .await;
    front.keystone.forget();
    for _ in 0..20 {
        front.ask().await.unwrap_err();
    }
    assert!(front.keystone.calls().of(LOGIN) <= 1, "a refused password is not tried by each call");
    front.write(&good);
    front.until("the corrected one counts", Result::is_ok).await;
}

#[tokio::test]
async fn an_endpoint_that_moves_is_followed() {
    let Some(front) = Front::started("moved", &[]).await else { return };
    let elsewhere = FaultProxy::start(NOVA).await;
    front.nova.down();
    front.write(&front.settings(&[]).replace(&front.nova.url(), &elsewhere.url()));
    // Also by a call that waits for the old one to come back.
    front.ask().await.unwrap();
    assert_eq!(ended(&elsewhere.calls(), "DELETE /v2.1/servers/*", "404"), 1);
}

#[tokio::test]
async fn calls_that_are_redirected_stay_what_they_are() {
    let Some(front) = Front::new("redirected", &[]).await else { return };
    let keystone = FaultProxy::start(KEYSTONE).await;
    let moved = |status, url: String| answer(status, &[("Location", &url)]);
    front.keystone.set(Rule::new("POST", "/v3/auth/tokens", moved(301, format!("{}/auth/tokens", keystone.url()))));
    // In every way there is to say it: browsers would make a GET without a body of three of them.
    let mut hops = Vec::new();
    for status in [301, 302, 303, 307, 308] {
        let next = FaultProxy::start(NOVA).await;
        let last = hops.last().unwrap_or(&front.nova);
        last.set(Rule::new("POST", SERVERS, moved(status, format!("{}/servers", next.url()))));
        hops.push(next);
    }
    timeout(LAUNCH_DEADLINE, front.launch()).await.unwrap().unwrap();
    assert_eq!(ended(&keystone.calls(), LOGIN, "201"), 1);
    let ends = hops.iter().map(|hop| hop.calls().calls).collect::<Vec<_>>();
    let expected = [302, 303, 307, 308, 202]
        .map(|status: u16| [("POST /v2.1/servers".to_owned(), [(status.to_string(), 1)].into())].into());
    assert_eq!(ends, expected);
}

#[tokio::test]
async fn a_redirect_without_an_end_is_an_error_that_names_the_address() {
    let Some(front) = Front::started("redirect-loop", &[]).await else { return };
    // Relative to the address that was asked for.
    front.nova.set(Rule::new("DELETE", SERVER, answer(302, &[("Location", &format!("{NOBODY}?again"))])));
    let error = front.ask().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Config, "{error}");
    let at = format!("{}/servers/{NOBODY}", front.nova.url());
    let words = format!("{at} answers 302 and redirects to {at}, without an end; correct the address");
    assert!(error.to_string().contains(&words), "{error}");
    assert_eq!(front.nova.calls().of("DELETE /v2.1/servers/*"), 31);
    front.nova.clear();
    front.ask().await.unwrap();
}

#[tokio::test]
async fn a_broken_file_leaves_the_old_settings_in_force() {
    let Some(front) = Front::started("broken", &[]).await else { return };
    for broken in ["clouds: {", "", "clouds: {other: {}}"] {
        front.write(broken);
        sleep(Duration::from_millis(1100)).await;
        front.ask().await.unwrap();
    }
    let elsewhere = FaultProxy::start(NOVA).await;
    front.write(&front.settings(&[]).replace(&front.nova.url(), &elsewhere.url()));
    front.until("the mended file counts", |_| elsewhere.calls().total() > 0).await;
}

#[tokio::test]
async fn why_calls_failed_is_counted() {
    let Some(front) = Front::started("metrics", &[]).await else { return };
    front.nova.set(Rule::new("DELETE", SERVER, answer(503, &[])).times(1));
    front.ask().await.unwrap();
    let calls = front.context.calls.snapshot();
    let call = calls[&(front.provider.name().clone(), "delete_server")];
    assert_eq!((call.count, call.failed), (2, 2), "503, then 404");
    assert_eq!(calls[&(front.provider.name().clone(), "authenticate")].failed, 0);
}
