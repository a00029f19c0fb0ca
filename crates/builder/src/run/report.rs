//! Metrics of a builder, and its regular look around.

use std::{sync::Arc, time::Duration};

use nodepool_common::{
    model::WorkLock,
    stats::{BuilderWork, WorkState},
};
use tokio::time::MissedTickBehavior;

use super::Builder;

/// Where nothing is retired: metrics are sent all the same.
const INTERVAL: Duration = Duration::from_secs(60);

impl Builder {
    /// Sends the metrics, and has the files in images-dir looked at, which nobody announces.
    pub(super) async fn report_regularly(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.options.cleanup_interval.unwrap_or(INTERVAL));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.zk.cache().ready() {
                self.stats.builder(&self.options.fqdn, &self.work());
                // Also 0: after a restart nothing else ends an alarm that is over.
                let held_back = self.state().withheld.len();
                self.stats.files_held_back(&self.options.fqdn, held_back);
            }
            self.frame.wake.notify_one();
        }
    }

    /// What this builder does with each image of the configuration (`nodepool 11.0.0: builder.py _emitBuildRequestStats`).
    fn work(&self) -> BuilderWork {
        let config = self.config();
        let doing = self.state().doing.clone();
        let mut work = BuilderWork::default();
        self.zk.cache().read(|records| {
            for image in config.diskimages.values() {
                let state = if doing.building.contains(&image.name) {
                    WorkState::Building
                } else if image.pause || records.paused_images.contains(&image.name) {
                    WorkState::Paused
                } else {
                    WorkState::Idle
                };
                work.builds.insert(image.name.clone(), state);
            }
            for image in &records.images {
                let asked_for = records.build_requests.contains_key(image);
                let is_built = records.building.get(image).is_some_and(WorkLock::is_locked);
                work.requests.insert(image.clone(), usize::from(asked_for && !is_built));
            }
        });
        for (name, provider) in &config.providers {
            for image in provider.driver.diskimages().values() {
                let state = if doing.uploading.iter().any(|(of, _, to)| (of, to) == (&image.name, name)) {
                    WorkState::Uploading
                } else if image.pause {
                    WorkState::Paused
                } else {
                    WorkState::Idle
                };
                work.uploads.insert((image.name.clone(), name.clone()), state);
            }
        }
        work
    }
}
