//! What is read, decided and done in one ZooKeeper session is of that session only.

use nodepool_common::{
    model::Records,
    zk::{SessionId, memory::Memory},
};

use super::*;
use crate::plan::Reason;

/// The directory of the lock of a request that is gone: it is to be removed.
const LITTER: &str = "/nodepool/requests-lock/100-0000000001";

fn litter() -> RequestId {
    RequestId::from("100-0000000001")
}

/// A launcher whose loop is the test; the directory has its file.
async fn launcher(memory: &Memory) -> (Arc<Launcher>, Core, TempDir) {
    let (start, dir) = start(free_port(), &[]);
    let (frame, _loaded) = start.connect_with(Arc::new(memory.clone()), Duration::from_secs(10), Stats::new(None));
    let (launcher, core) = Launcher::new(Options { request_lock_age: Duration::ZERO, ..options() }, frame);
    tokio::time::timeout(SOON, launcher.zk.cache().until_ready()).await.unwrap();
    (launcher, core, dir)
}

fn in_memory() -> Memory {
    #[allow(clippy::cast_possible_truncation)] // ms since the epoch fit
    Memory::new(|| (clock::now() * 1000.0) as i64)
}

/// Ends the session, and waits until the next one knows the records, which the launcher's core does not notice.
async fn lose_session(launcher: &Launcher, memory: &Memory, first: SessionId) {
    memory.expire(first);
    wait_for(SOON, "the next session", async || {
        let next = *launcher.zk.session().borrow();
        next.filter(|next| *next != first && launcher.zk.cache().ready() && launcher.zk.cache().is_of(*next))
    })
    .await;
}

async fn make_litter(launcher: &Launcher) {
    launcher.zk.create(LITTER, b"").await.unwrap();
    is_seen(launcher, "the directory", |records| records.request_locks.contains_key(&litter())).await;
}

/// Waits until the records show something.
async fn is_seen(launcher: &Launcher, what: &str, look: impl Fn(&Records) -> bool) {
    let seen = async || launcher.zk.cache().read(&look).then_some(());
    wait_for(SOON, &format!("{what} is seen"), seen).await;
}

#[tokio::test]
async fn no_pass_is_made_with_the_records_of_another_session() {
    let memory = in_memory();
    let (launcher, mut core, _dir) = launcher(&memory).await;
    let first = launcher.zk.connected().await;
    launcher.plan_and_act(&mut core, false);
    make_litter(&launcher).await;
    lose_session(&launcher, &memory, first).await;
    launcher.plan_and_act(&mut core, false);
    assert!(core.book.is_idle(), "what is held and done is of the session before");
    core.book.start_over();
    launcher.plan_and_act(&mut core, false);
    assert!(!core.book.is_idle(), "the directory is removed");
    launcher.zk.close().await;
}

#[tokio::test]
async fn what_was_decided_in_a_session_is_not_done_in_the_next_one() {
    let memory = in_memory();
    let (launcher, mut core, _dir) = launcher(&memory).await;
    let first = launcher.zk.connected().await;
    make_litter(&launcher).await;
    launcher.plan_and_act(&mut core, false);
    let removed = async || launcher.zk.get(LITTER).await.unwrap().is_none().then_some(());
    wait_for(SOON, "the directory is removed", removed).await;
    assert!(core.book.inbox().next().await.is_some());

    make_litter(&launcher).await;
    lose_session(&launcher, &memory, first).await;
    launcher.carry_out(&mut core.book, Decision::RemoveRequestLock { request: litter() });
    let told = tokio::time::timeout(SOON, core.book.inbox().next()).await.unwrap();
    assert!(launcher.zk.get(LITTER).await.unwrap().is_some(), "{told:?}");
    launcher.zk.close().await;
}

/// A request that can be accepted or declined.
async fn make_request(launcher: &Launcher) -> RequestId {
    let session = launcher.zk.in_session(launcher.zk.connected().await);
    let request = NodeRequest::min_ready(&"a".into(), String::new(), clock::now());
    let id = session.create_request("200", false, request).await.unwrap().id;
    is_seen(launcher, "the request", |records| records.requests.contains_key(&id)).await;
    id
}

/// Whoever declines counts those who are registered, and whoever accepts or resets goes by what was read: both are of the
/// session in which it was decided.
#[tokio::test]
async fn nothing_is_locked_in_the_next_session_for_what_was_decided_in_the_one_before() {
    let memory = in_memory();
    let (launcher, mut core, _dir) = launcher(&memory).await;
    let first = launcher.zk.connected().await;
    launcher.plan_and_act(&mut core, false);
    let request = make_request(&launcher).await;
    let before = launcher.zk.cache().read(|records| records.requests[&request].stat);
    lose_session(&launcher, &memory, first).await;
    let pool = PoolKey { provider: "p".into(), pool: "main".into() };
    let decline = Decision::Decline { request: request.clone(), pools: vec![(pool, Reason::LabelRemoved)] };
    for decision in [decline, Decision::ResetLost { request: request.clone() }] {
        launcher.carry_out(&mut core.book, decision);
        let told = tokio::time::timeout(SOON, core.book.inbox().next()).await.unwrap();
        assert!(format!("{told:?}").contains("SessionLost"), "{told:?}");
    }
    let held = launcher.zk.try_lock_request(&request).await.unwrap().held().expect("nobody has its lock");
    assert_eq!(held.stat().version, before.version, "it is as it was");
    launcher.zk.close().await;
}
