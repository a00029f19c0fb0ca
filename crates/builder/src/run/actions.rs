//! Carrying a decision out: one task, what it works on marked, its end noted.

use std::{sync::Arc, time::Duration};

use nodepool_common::{
    model::ImageName,
    zk::{HeldWork, TryLock, ZkError},
};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{Builder, LOGGER};
use crate::plan::{Decision, Subject, UploadTo};

/// Seconds before an action that ZooKeeper made fail is tried again.
const AFTER_AN_ERROR: f64 = 1.0;
/// Seconds before something is tried again whose lock somebody else has: its end is an event, this only a net.
pub(super) const WHILE_LOCKED: f64 = 5.0;
/// How long work that lost its lock with its session tries to take it again.
pub(super) const TAKE_AGAIN: Duration = Duration::from_secs(120);
impl Builder {
    /// Starts an action; what it works on is marked until it ends, however it ends.
    pub(super) fn carry_out(self: &Arc<Self>, decision: Decision) {
        let marked = self.mark(&decision);
        let this = Arc::clone(self);
        self.frame.tasks.spawn(async move {
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
                Decision::RetireBuild { image, build, state, reason } => {
                    self.retire_build(image, build, *state, reason).await
                }
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
                biased;
                result = retire => result,
                () = ending.cancelled() => Ok(()),
            },
        }
    }

    /// Notes that an action failed, so that the next plan does not repeat it at once.
    fn action_failed(&self, decision: &Decision, error: &ZkError) {
        error.say_of(decision, LOGGER);
        let now = self.clock.uptime();
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
                biased;
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
                biased;
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
                biased;
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
        self.builder.frame.wake.notify_one();
    }
}
