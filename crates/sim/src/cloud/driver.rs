//! [`Driver`]: what one process asks one cloud by, and what every call begins with.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use nodepool_common::model::ProviderName;
use nodepool_drivers::{ErrorClass, ProviderError};
use tokio::time::Instant;

use super::{
    super::{
        plan::Trouble,
        story::{broken, tell},
    },
    clouds::Clouds,
    failures::WINDOW,
    servers::Cloud,
};

/// How many failures of one call a launcher may not have within [`WINDOW`].
const IN_A_WINDOW: usize = 20;
/// The call that starts a provider.
pub const STARTING: &str = "starting";
/// That which asks for the quota.
pub const READING_THE_QUOTA: &str = "reading the quota";

/// A driver of the model clouds.
#[derive(Debug)]
pub struct Driver {
    pub name: ProviderName,
    pub clouds: Clouds,
    pub process: String,
    pub is_dead: Arc<AtomicBool>,
    /// When the servers were listed last, and which there were.
    pub listed: Mutex<Option<(Instant, BTreeSet<String>)>>,
}

impl Driver {
    /// An error of that class, met while doing that.
    pub fn error(&self, class: ErrorClass, doing: &str, why: &str) -> ProviderError {
        ProviderError::new(class, format!("{doing} in provider {}", self.name), why.to_owned())
    }

    /// This provider's cloud.
    pub fn with<T>(&self, act: impl FnOnce(&mut Cloud) -> T) -> T {
        self.clouds.with(self.name.as_str(), act)
    }

    /// Returns while the process lives: one that was killed does nothing any more.
    pub async fn live(&self) {
        if self.is_dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    /// A call about one server, or one that is made by itself, has failed: it is made again after pauses that grow.
    fn may_ask_again(&self, doing: &str) {
        if doing.contains(" server ") || [STARTING, READING_THE_QUOTA].contains(&doing) {
            self.may_repeat(doing, IN_A_WINDOW);
        }
    }

    /// Nothing fails more often than that within [`WINDOW`].
    pub fn may_repeat(&self, doing: &str, most: usize) {
        if self.clouds.failures.note(&self.process, &self.name, doing) == most {
            let (story, seconds) = (&self.clouds.story, WINDOW.as_secs());
            broken!(story, "no busy loop", "{}: {doing}: fails {most} times in {seconds} s", self.process);
        }
    }

    /// What each call begins with: it takes its time, and may come to nothing.
    pub async fn call(&self, doing: &str) -> Result<(), ProviderError> {
        let clouds = &self.clouds;
        self.live().await;
        self.with(|cloud| cloud.calls += 1);
        let hangs = clouds.goes_wrong(Trouble::Hangs, 60);
        let takes = if hangs { clouds.chance.seconds(30.0, 200.0) } else { clouds.chance.seconds(0.02, 0.8) };
        tokio::time::sleep(takes).await;
        self.live().await;
        let fails = |away: bool, class, why: &str| {
            tell!(clouds.story, "cloud {}: {}: {doing}: {why}", self.name, self.process);
            self.may_ask_again(doing);
            Err(ProviderError { away, ..self.error(class, doing, why) })
        };
        if self.with(|cloud| cloud.away_until.is_some_and(|until| until > Instant::now())) {
            clouds.truth.open().causes.away(self.name.as_str());
            return fails(true, ErrorClass::Transient, "503 Service Unavailable");
        }
        if hangs {
            // As far as anybody can tell.
            clouds.truth.open().causes.away(self.name.as_str());
            return fails(true, ErrorClass::Timeout, "no answer");
        }
        if clouds.goes_wrong(Trouble::CloudErrors, 15) {
            return fails(false, ErrorClass::Transient, "500 Internal Server Error");
        }
        Ok(())
    }
}
