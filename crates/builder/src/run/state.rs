//! [`State`]: what this builder does, and what it does not try again yet.

use std::collections::BTreeSet;

use nodepool_common::{
    config::Config,
    model::{Failures, ImageName, ProviderName, Uptime},
};

use crate::plan::{Decision, Doing, Subject, UploadTo};

/// Seconds after its pause for which it counts that an upload has failed.
const REMEMBERED: f64 = 3600.0;
/// The longest pause after failures, in first pauses.
const LONGEST: f64 = 60.0;

/// What this builder does, and how often it has failed.
#[derive(Debug, Default)]
pub(super) struct State {
    /// What the planner sees.
    pub doing: Doing,
    /// Builds that failed in a row.
    build_failures: Failures<ImageName>,
    /// Uploads that failed in a row.
    upload_failures: Failures<UploadTo>,
    /// Deletions that failed in a row.
    retire_failures: Failures<Subject>,
    /// The file has providers that are left out, and were not in force before either.
    pub lacks_providers: bool,
    /// What was last said of images-dir.
    pub files_trouble: String,
    /// Files without a record that are not deleted, as it was last said.
    pub withheld: BTreeSet<String>,
    /// The record of that is being written.
    pub withholding: bool,
}

impl State {
    /// Whether nothing runs.
    pub fn is_idle(&self) -> bool {
        self.doing.building.is_empty() && self.doing.uploading.is_empty() && self.doing.busy.is_empty()
    }

    /// What runs, for the log; empty: nothing.
    pub fn under_way(&self) -> String {
        let builds = self.doing.building.iter().map(|image| format!("build of {image}"));
        let uploads =
            self.doing.uploading.iter().map(|(image, _, provider)| format!("upload of {image} to {provider}"));
        builds.chain(uploads).collect::<Vec<_>>().join(", ")
    }

    /// The clock was set by that many seconds: deletions are wanted for as long as before.
    pub fn clock_stepped(&mut self, step: f64) {
        for since in self.doing.wanted.values_mut() {
            *since += step;
        }
    }

    /// Drops pauses that are over.
    pub fn tidy(&mut self, now: Uptime) {
        self.doing.builds_after.retain(|_, (at, _)| *at > now);
        self.doing.retire_after.retain(|_, at| *at > now);
        // For a while longer: what has failed goes behind what has not.
        self.doing.uploads_after.retain(|_, at| *at + REMEMBERED > now);
        let Self { upload_failures, doing, .. } = self;
        upload_failures.retain(|to| doing.uploads_after.contains_key(to));
    }

    /// A new configuration may have mended what failed.
    pub fn reconsider(&mut self, before: &Config, now: &Config, providers: &[ProviderName]) {
        let is_same = |image: &ImageName| before.diskimages.get(image) == now.diskimages.get(image);
        self.build_failures.retain(is_same);
        self.doing.builds_after.retain(|image, _| is_same(image));
        self.upload_failures.retain(|(image, _, provider)| is_same(image) && !providers.contains(provider));
        self.doing.uploads_after.retain(|(image, _, provider), _| is_same(image) && !providers.contains(provider));
        self.doing.retire_after.clear();
        self.retire_failures.clear();
    }

    /// A build failed: none before the pause is over, but for another request than the one it was begun for.
    pub fn build_failed(&mut self, image: &ImageName, first: f64, now: Uptime, request: Option<i64>) -> f64 {
        let pause = self.build_failures.failed_again(image.clone(), first, first * LONGEST);
        self.doing.builds_after.insert(image.clone(), (now + pause, request));
        pause
    }

    /// A build worked.
    pub fn build_worked(&mut self, image: &ImageName) {
        self.build_failures.worked(image);
        self.doing.builds_after.remove(image);
    }

    /// An upload failed: none before the pause is over.
    pub fn upload_failed(&mut self, to: &UploadTo, first: f64, now: Uptime) -> f64 {
        let pause = self.upload_failures.failed_again(to.clone(), first, first * LONGEST);
        self.doing.uploads_after.insert(to.clone(), now + pause);
        pause
    }

    /// An upload worked.
    pub fn upload_worked(&mut self, to: &UploadTo) {
        self.upload_failures.worked(to);
        self.doing.uploads_after.remove(to);
    }

    /// An action has ended. A deletion that does not wait for another attempt has worked.
    pub fn acted(&mut self, decision: &Decision) {
        if let Some(subject) = decision.subject()
            && !self.doing.retire_after.contains_key(&subject)
        {
            self.retire_failures.worked(&subject);
        }
    }

    /// A deletion failed: none before the pause is over.
    pub fn retirement_failed(&mut self, subject: &Subject, first: f64, now: Uptime) {
        let pause = self.retire_failures.failed_again(subject.clone(), first, first * LONGEST);
        self.doing.retire_after.insert(subject.clone(), now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Uptime = Uptime(1000.0);

    #[test]
    fn what_failed_waits_for_its_pause_and_is_wanted_for_as_long_as_before_when_the_clock_is_set() {
        let (mut state, image) = (State::default(), ImageName::from("i"));
        let to: UploadTo = (image.clone(), "b".into(), "p".into());
        let subject = Subject::Build(image.clone(), "b".into());
        state.build_failed(&image, 60.0, NOW, Some(7));
        state.upload_failed(&to, 60.0, NOW);
        state.retirement_failed(&subject, 60.0, NOW);
        state.doing.wanted.insert(subject.clone(), 1_000_000.0);
        state.clock_stepped(-7200.0);
        assert_eq!(state.doing.wanted.get(&subject), Some(&992_800.0));
        state.tidy(NOW + 59.0);
        assert_eq!(state.doing.builds_after[&image], (NOW + 60.0, Some(7)));
        assert_eq!(state.doing.uploads_after.get(&to), Some(&(NOW + 60.0)));
        assert_eq!(state.doing.retire_after.get(&subject), Some(&(NOW + 60.0)));
        state.tidy(NOW + 61.0);
        assert!(state.doing.builds_after.is_empty() && state.doing.retire_after.is_empty());
        assert!(state.doing.uploads_after.contains_key(&to), "what has failed goes behind what has not");
        state.tidy(NOW + 61.0 + REMEMBERED);
        assert!(state.doing.uploads_after.is_empty());
    }
}
