//! Carrying a decision out: one task, what it works on marked, its end noted; and [`State`], what this builder does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use nodepool_common::{
    config::Config,
    model::{ImageName, ProviderName, Timestamp},
    sys::clock,
    zk::{HeldWork, TryLock, ZkError},
};
use tracing::{debug, error, info};

use super::{Builder, LOGGER};
use crate::plan::{Decision, Doing, Subject, UploadTo};

/// Seconds before an action that ZooKeeper made fail is tried again.
const AFTER_AN_ERROR: f64 = 1.0;
/// Seconds before something is tried again whose lock somebody else has: its end is an event, this only a net.
pub(super) const WHILE_LOCKED: f64 = 5.0;
/// How long work that lost its lock with its session tries to take it again.
pub(super) const TAKE_AGAIN: Duration = Duration::from_secs(120);
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
    build_failures: BTreeMap<ImageName, u32>,
    /// Uploads that failed in a row.
    upload_failures: BTreeMap<UploadTo, u32>,
    /// Deletions that failed in a row.
    retire_failures: BTreeMap<Subject, u32>,
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

    /// The clock was set by that many seconds: pauses last as long as before.
    pub fn clock_stepped(&mut self, step: f64) {
        let doing = &mut self.doing;
        let builds = doing.builds_after.values_mut().map(|(at, _)| at);
        let uploads = doing.uploads_after.values_mut();
        let times = builds.chain(uploads).chain(doing.retire_after.values_mut()).chain(doing.wanted.values_mut());
        times.for_each(|at| *at += step);
    }

    /// Drops pauses that are over.
    pub fn tidy(&mut self, now: Timestamp) {
        self.doing.builds_after.retain(|_, (at, _)| *at > now);
        self.doing.retire_after.retain(|_, at| *at > now);
        // For a while longer: what has failed goes behind what has not.
        self.doing.uploads_after.retain(|_, at| *at > now - REMEMBERED);
        let Self { upload_failures, doing, .. } = self;
        upload_failures.retain(|to, _| doing.uploads_after.contains_key(to));
    }

    /// A new configuration may have mended what failed.
    pub fn reconsider(&mut self, before: &Config, now: &Config, providers: &[ProviderName]) {
        let is_same = |image: &ImageName| before.diskimages.get(image) == now.diskimages.get(image);
        self.build_failures.retain(|image, _| is_same(image));
        self.doing.builds_after.retain(|image, _| is_same(image));
        self.upload_failures.retain(|(image, _, provider), _| is_same(image) && !providers.contains(provider));
        self.doing.uploads_after.retain(|(image, _, provider), _| is_same(image) && !providers.contains(provider));
        self.doing.retire_after.clear();
        self.retire_failures.clear();
    }

    /// A build failed: none before the pause is over, but for another request than the one it was begun for.
    pub fn build_failed(&mut self, image: &ImageName, first: f64, now: Timestamp, request: Option<i64>) -> f64 {
        let pause = longer(self.build_failures.entry(image.clone()).or_default(), first);
        self.doing.builds_after.insert(image.clone(), (now + pause, request));
        pause
    }

    /// A build worked.
    pub fn build_worked(&mut self, image: &ImageName) {
        self.build_failures.remove(image);
        self.doing.builds_after.remove(image);
    }

    /// An upload failed: none before the pause is over.
    pub fn upload_failed(&mut self, to: &UploadTo, first: f64, now: Timestamp) -> f64 {
        let pause = longer(self.upload_failures.entry(to.clone()).or_default(), first);
        self.doing.uploads_after.insert(to.clone(), now + pause);
        pause
    }

    /// An upload worked.
    pub fn upload_worked(&mut self, to: &UploadTo) {
        self.upload_failures.remove(to);
        self.doing.uploads_after.remove(to);
    }

    /// An action has ended. A deletion that does not wait for another attempt has worked.
    fn acted(&mut self, decision: &Decision) {
        if let Some(subject) = decision.subject()
            && !self.doing.retire_after.contains_key(&subject)
        {
            self.retire_failures.remove(&subject);
        }
    }

    /// A deletion failed: none before the pause is over.
    pub fn retirement_failed(&mut self, subject: &Subject, first: f64, now: Timestamp) {
        let pause = longer(self.retire_failures.entry(subject.clone()).or_default(), first);
        self.doing.retire_after.insert(subject.clone(), now + pause);
    }
}

/// The next pause: doubling.
fn longer(failures: &mut u32, first: f64) -> f64 {
    *failures = failures.saturating_add(1);
    let doublings = i32::try_from(*failures - 1).unwrap_or(i32::MAX).min(16);
    (first * 2f64.powi(doublings)).min(first * LONGEST)
}

impl Builder {
    /// Starts an action; what it works on is marked until it ends, however it ends.
    pub(super) fn carry_out(self: &Arc<Self>, decision: Decision) {
        let marked = self.mark(&decision);
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let _marked = marked;
            debug!(logger = "nodepool.Planner", "Decided: {decision:?}");
            match this.act(&decision).await {
                Ok(()) => this.state().acted(&decision),
                Err(error) => this.action_failed(&decision, &error),
            }
        });
    }

    /// Builds and uploads know that they may have to end; deletions just stop.
    async fn act(self: &Arc<Self>, decision: &Decision) -> Result<(), ZkError> {
        let ending = self.ending.clone();
        let retire = async {
            match decision {
                Decision::Build { .. } | Decision::Upload { .. } => Ok(()),
                Decision::DeleteUpload { key, reason } => self.delete_upload(key, reason).await,
                Decision::ForgetUpload { key } => self.forget_upload(key).await,
                Decision::RetireBuild { image, build, reason } => self.retire_build(image, build, reason).await,
                Decision::DeleteBuild { image, build } => self.delete_build(image, build).await,
                Decision::RemoveEmpty { what } => self.remove_empty(what).await,
                Decision::DeleteFiles { image, build, formats, reason } => {
                    self.delete_files(image, build, formats.as_deref(), reason).await
                }
            }
        };
        match decision {
            Decision::Build { image, formats, newest, why } => self.build(image, formats, newest.as_ref(), *why).await,
            Decision::Upload { image, build, provider, format } => self.upload(image, build, provider, format).await,
            _ => tokio::select! {
                result = retire => result,
                () = ending.cancelled() => Ok(()),
            },
        }
    }

    /// Notes that an action failed, so that the next plan does not repeat it at once.
    fn action_failed(&self, decision: &Decision, error: &ZkError) {
        if error.is_transient() {
            info!(logger = LOGGER, "Will be tried again: {error}");
        } else if error.is_no_node() {
            // Whatever was wanted of it, its deletion above all, nobody wants it of what is gone.
            info!(logger = LOGGER, "Somebody else was faster: {error}");
        } else {
            error!(logger = LOGGER, "{error} (while carrying out {decision:?})");
        }
        let now = clock::now();
        // What ZooKeeper refuses for good is tried less and less.
        let first = if error.is_transient() { AFTER_AN_ERROR } else { self.options.retry_interval.as_secs_f64() };
        let mut state = self.state();
        match decision {
            Decision::Build { image, .. } => {
                state.build_failed(image, first, now, None);
            }
            Decision::Upload { image, build, provider, .. } => {
                let to = (image.clone(), build.clone(), provider.clone());
                if state.doing.uploads_after.get(&to).is_none_or(|after| *after <= now) {
                    state.upload_failed(&to, first, now);
                }
            }
            _ => {
                if let Some(subject) = decision.subject() {
                    state.retirement_failed(&subject, first, now);
                }
            }
        }
    }

    /// Does work whose lock must not be free meanwhile: if it is lost with its session, it is taken again as soon as there is
    /// a new one, while the work goes on. Others would take a build without a lock for a dead builder's.
    pub(super) async fn while_locked<T>(&self, mut lock: HeldWork, work: impl Future<Output = T>) -> (T, HeldWork) {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return (done, lock),
                () = lock.lost() => {}
            }
            let again = async {
                loop {
                    self.zk.connected().await;
                    match self.zk.try_lock_work(lock.work().clone()).await {
                        Ok(TryLock::Held(again)) => return again,
                        Ok(TryLock::Busy) => {}
                        // Nobody else can have it either; what becomes of the work is decided when it ends.
                        Ok(TryLock::Gone) => std::future::pending().await,
                        Err(error) => debug!(logger = LOGGER, "Cannot take a lost lock again yet: {error}"),
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            tokio::select! {
                done = &mut work => return (done, lock),
                again = again => {
                    info!(logger = LOGGER, "Took the lock again that the lost session had: {:?}", again.work());
                    lock = again;
                }
            }
        }
    }

    /// A write under a lock failed with `error`: where that is a matter of the connection or the session, takes the lock
    /// again, so that an hour's work is not lost with it. Where somebody has written meanwhile the lock is good. `None`: the
    /// build that it is about is gone or being deleted. While somebody else has the lock it is waited for.
    pub(super) async fn take_again(
        &self,
        lock: HeldWork,
        until: Instant,
        error: ZkError,
    ) -> Result<Option<HeldWork>, ZkError> {
        if error.is_bad_version() {
            return Ok(Some(lock));
        }
        if !error.is_transient() {
            return Err(error);
        }
        info!(logger = LOGGER, "Taking the lock again for the end of the work: {error}");
        let work = lock.work().clone();
        // Ours of the lost session must not stand in our own way.
        drop(lock);
        while Instant::now() < until {
            tokio::select! {
                _ = self.zk.connected() => {}
                () = self.ending.cancelled() => return Err(error),
            }
            // A session that is about to end may still answer, or end meanwhile.
            match self.zk.try_lock_work(work.clone()).await {
                Ok(TryLock::Held(lock)) => return Ok(Some(lock)),
                Ok(TryLock::Gone) => return Ok(None),
                Err(error) if !error.is_transient() => return Err(error),
                Ok(TryLock::Busy) | Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
        Err(error)
    }

    fn mark(self: &Arc<Self>, decision: &Decision) -> Marked {
        let mut state = self.state();
        let work = match decision {
            Decision::Build { image, .. } => {
                state.doing.building.insert(image.clone());
                Marking::Build(image.clone())
            }
            Decision::Upload { image, build, provider, .. } => {
                let to = (image.clone(), build.clone(), provider.clone());
                state.doing.uploading.insert(to.clone());
                Marking::Upload(to)
            }
            _ => {
                let subject = decision.subject();
                state.doing.busy.extend(subject.clone());
                Marking::Retire(subject)
            }
        };
        Marked { builder: Arc::clone(self), work }
    }
}

enum Marking {
    Build(ImageName),
    Upload(UploadTo),
    Retire(Option<Subject>),
}

/// What an action works on; released when it ends, also by a panic.
struct Marked {
    builder: Arc<Builder>,
    work: Marking,
}

impl Drop for Marked {
    fn drop(&mut self) {
        let mut state = self.builder.state();
        match &self.work {
            Marking::Build(image) => drop(state.doing.building.remove(image)),
            Marking::Upload(to) => drop(state.doing.uploading.remove(to)),
            Marking::Retire(Some(subject)) => drop(state.doing.busy.remove(subject)),
            Marking::Retire(None) => {}
        }
        drop(state);
        self.builder.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = 1_000_000.0;

    #[test]
    fn what_waits_for_a_time_waits_as_long_as_before_when_the_clock_is_set() {
        for step in [7200.0, -7200.0] {
            let (mut state, image) = (State::default(), ImageName::from("i"));
            let to: UploadTo = (image.clone(), "b".into(), "p".into());
            let subject = Subject::Build(image.clone(), "b".into());
            state.build_failed(&image, 60.0, NOW, Some(7));
            state.upload_failed(&to, 60.0, NOW);
            state.retirement_failed(&subject, 60.0, NOW);
            state.doing.wanted.insert(subject.clone(), NOW - 10.0);
            state.clock_stepped(step);
            assert_eq!(state.doing.wanted.get(&subject), Some(&(NOW - 10.0 + step)));
            state.tidy(NOW + step + 59.0);
            assert_eq!(state.doing.builds_after[&image], (NOW + step + 60.0, Some(7)));
            assert_eq!(state.doing.uploads_after.get(&to), Some(&(NOW + step + 60.0)));
            assert_eq!(state.doing.retire_after.get(&subject), Some(&(NOW + step + 60.0)));
            state.tidy(NOW + step + 61.0);
            assert!(state.doing.builds_after.is_empty() && state.doing.retire_after.is_empty());
            assert!(state.doing.uploads_after.contains_key(&to), "what has failed goes behind what has not");
            state.tidy(NOW + step + 61.0 + REMEMBERED);
            assert!(state.doing.uploads_after.is_empty());
        }
    }
}
