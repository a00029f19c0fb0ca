//! What everything above [`protocol`] relies on, tried on a real ZooKeeper and on the one in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::time::Duration;

use futures::StreamExt;
use nodepool_common::{
    model::{NodeId, NodeState},
    sys::entropy::Entropy,
    zk::{
        Freshness, connector,
        memory::Memory,
        protocol::{
            Change, Client, Connector, Done, Error, Event, Events, Found, Mode, MultiError, Op, Read, SessionId, State,
        },
    },
};
use nodepool_testing::{LossyProxy, ZooKeeperServer, wait_for};
use zk_common::*;

/// What breaks connections.
enum Faults {
    Real(LossyProxy),
    InMemory(Memory),
}

impl Faults {
    /// The next request is carried out, and not answered.
    fn lose_answer(&self, session: SessionId) {
        match self {
            Self::Real(proxy) => proxy.lose_answer(1),
            Self::InMemory(memory) => memory.lose_answer(session),
        }
    }

    /// The next request is not carried out.
    fn lose_request(&self, session: SessionId) {
        match self {
            Self::Real(proxy) => proxy.lose_request(),
            Self::InMemory(memory) => memory.lose_request(session),
        }
    }

    /// The connection works again.
    fn reconnect(&self, session: SessionId) {
        match self {
            // By itself.
            Self::Real(_) => {}
            Self::InMemory(memory) => memory.resume(session),
        }
    }
}

/// Each case, on two sessions of an empty ZooKeeper.
async fn cases(connector: &dyn Connector, faults: &Faults) {
    let (one, two) = (connector.connect().await.unwrap(), connector.connect().await.unwrap());
    assert_ne!(one.id(), two.id());
    assert_eq!(one.states().next().await, Some(State::Connected));
    versions_and_errors(&one).await;
    names_are_numbered(&one, &two).await;
    a_multi_is_all_or_nothing(&one).await;
    many_are_read_at_once(&one).await;
    a_watch_tells_of_all_below(&one, &two).await;
    one_change_is_told(&one, &two).await;
    requests_are_carried_out_in_the_order_of_their_calls(&one).await;
    answers_and_requests_are_lost_with_the_connection(&one, faults).await;
    watches_end_with_the_connection(&one, &two, faults).await;
    a_session_takes_its_ephemerals_along(&one, two).await;
}

async fn versions_and_errors(zk: &Client) {
    let (path, stat) = zk.create("/v", b"0", Mode::Persistent).await.unwrap();
    assert_eq!((path.as_str(), stat.version, stat.ephemeral_owner), ("/v", 0, 0));
    assert_eq!(stat.czxid, stat.mzxid);
    assert_eq!(zk.create("/v", b"", Mode::Persistent).await, Err(Error::NodeExists));
    assert_eq!(zk.create("/none/x", b"", Mode::Persistent).await, Err(Error::NoNode));
    let first = zk.set("/v", b"1", Some(0)).await.unwrap();
    assert!(first.version == 1 && first.mzxid > stat.mzxid && first.czxid == stat.czxid);
    assert_eq!(zk.set("/v", b"2", Some(0)).await, Err(Error::BadVersion));
    // What is refused has a transaction of its own.
    let second = zk.set("/v", b"1", Some(1)).await.unwrap();
    assert!(second.mzxid >= first.mzxid + 2, "{first:?} {second:?}");
    let first = second;
    assert_eq!(zk.set("/none", b"", None).await, Err(Error::NoNode));
    assert_eq!(zk.get("/v").await.unwrap(), (b"1".to_vec(), first));
    assert_eq!(zk.get("/none").await, Err(Error::NoNode));
    assert_eq!(zk.exists("/none").await, Ok(None));
    zk.create("/v/a", b"", Mode::Persistent).await.unwrap();
    zk.create("/v/b", b"", Mode::Persistent).await.unwrap();
    zk.delete("/v/a", None).await.unwrap();
    let parent = zk.exists("/v").await.unwrap().unwrap();
    // Two creations and a deletion.
    assert_eq!((parent.num_children, parent.cversion, parent.version), (1, 3, 2));
    assert_eq!(zk.children("/v").await.unwrap(), ["b"]);
    assert_eq!(zk.children("/none").await, Err(Error::NoNode));
    assert_eq!(zk.delete("/v", None).await, Err(Error::NotEmpty));
    assert_eq!(zk.delete("/v/b", Some(7)).await, Err(Error::BadVersion));
    assert_eq!(zk.delete("/v/none", None).await, Err(Error::NoNode));
    zk.sync("/v").await.unwrap();
}

async fn names_are_numbered(one: &Client, two: &Client) {
    one.create("/n", b"", Mode::Persistent).await.unwrap();
    let (path, stat) = one.create("/n/a-", b"x", Mode::PersistentSequential).await.unwrap();
    assert_eq!((path.as_str(), stat.ephemeral_owner), ("/n/a-0000000000", 0));
    let (path, stat) = two.create("/n/", b"", Mode::EphemeralSequential).await.unwrap();
    assert_eq!((path.as_str(), stat.ephemeral_owner), ("/n/0000000001", two.id().0));
    two.delete(&path, None).await.unwrap();
    // Each creation counts, whatever became of it and whatever it was called.
    one.create("/n/plain", b"", Mode::Persistent).await.unwrap();
    assert_eq!(one.create("/n/a-", b"", Mode::PersistentSequential).await.unwrap().0, "/n/a-0000000003");
    let (path, _) = one.create("/n/e", b"", Mode::Ephemeral).await.unwrap();
    assert!(one.create("/n/e/below", b"", Mode::Persistent).await.is_err());
    one.delete(&path, None).await.unwrap();
}

async fn a_multi_is_all_or_nothing(zk: &Client) {
    zk.create("/m", b"", Mode::Persistent).await.unwrap();
    let made = [
        Op::Check("/m", Some(0)),
        Op::Create("/m/dir", b"", Mode::Persistent),
        Op::Create("/m/dir/c-", b"", Mode::EphemeralSequential),
        Op::Set("/m", b"new", Some(0)),
    ];
    let done = zk.multi(&made).await.unwrap();
    assert_eq!(done[0], Done::Checked);
    assert!(matches!(&done[2], Done::Created(path, _) if path == "/m/dir/c-0000000000"), "{done:?}");
    let Done::Set(stat) = &done[3] else { panic!("{done:?}") };
    assert_eq!(stat.version, 1);
    let dir = zk.exists("/m/dir").await.unwrap().unwrap();
    assert_eq!((dir.czxid, dir.ctime), (stat.mzxid, stat.mtime), "one transaction, at one time");
    let before = [zk.exists("/m").await.unwrap(), zk.exists("/m/dir").await.unwrap()];
    let refused = async |operations: &[Op<'_>], at: usize, why: Error| {
        let error = zk.multi(operations).await.unwrap_err();
        assert_eq!(error, MultiError::Refused { index: at, source: why });
    };
    let set = Op::Set("/m", b"not", None);
    let new = Op::Create("/m/dir/new", b"", Mode::Persistent);
    refused(&[set, new, Op::Check("/m", Some(1))], 2, Error::BadVersion).await;
    refused(&[set, new, Op::Delete("/m/dir", None)], 2, Error::NotEmpty).await;
    refused(&[set, Op::Check("/m/none", None)], 1, Error::NoNode).await;
    refused(&[new, new], 1, Error::NodeExists).await;
    let numbered = Op::Create("/m/dir/n-", b"", Mode::PersistentSequential);
    let gone = Op::Delete("/m/dir/c-0000000000", None);
    refused(&[numbered, gone, Op::Delete("/m", Some(7))], 2, Error::BadVersion).await;
    assert_eq!(zk.children("/m/dir").await.unwrap(), ["c-0000000000"]);
    assert_eq!(zk.get("/m").await.unwrap().0, b"new");
    assert_eq!([zk.exists("/m").await.unwrap(), zk.exists("/m/dir").await.unwrap()], before);
    // What comes later in it sees what came before.
    let contender = "/m/dir/c-0000000000";
    zk.multi(&[Op::Delete(contender, None), Op::Delete("/m/dir", None), Op::Create("/m/dir", b"", Mode::Persistent)])
        .await
        .unwrap();
    assert!(zk.children("/m/dir").await.unwrap().is_empty());
}

async fn many_are_read_at_once(zk: &Client) {
    let found = zk.read(&[Read::Data("/m"), Read::Children("/m"), Read::Data("/none"), Read::Children("/none")]).await;
    let found = found.unwrap();
    assert!(matches!(&found[0], Ok(Found::Data(data, stat)) if data == b"new" && stat.version == 1), "{found:?}");
    assert_eq!(found[1], Ok(Found::Children(vec!["dir".to_owned()])));
    assert_eq!(found[2..], [Err(Error::NoNode), Err(Error::NoNode)]);
}

async fn next(events: &mut Events) -> (Change, String) {
    match tokio::time::timeout(SOON, events.next()).await.expect("an event") {
        Some(Event::Znode { change, path, .. }) => (change, path),
        other => panic!("{other:?}"),
    }
}

async fn a_watch_tells_of_all_below(one: &Client, two: &Client) {
    one.create("/w", b"", Mode::Persistent).await.unwrap();
    let mut events = one.watch("/w").await.unwrap();
    two.create("/wider", b"", Mode::Persistent).await.unwrap();
    two.create("/w/a", b"", Mode::Persistent).await.unwrap();
    two.create("/w/a/b", b"", Mode::Ephemeral).await.unwrap();
    two.set("/w/a/b", b"1", None).await.unwrap();
    two.multi(&[Op::Delete("/w/a/b", None), Op::Set("/w/a", b"2", None)]).await.unwrap();
    assert_eq!(next(&mut events).await, (Change::Created, "/w/a".to_owned()));
    assert_eq!(next(&mut events).await, (Change::Created, "/w/a/b".to_owned()));
    assert_eq!(next(&mut events).await, (Change::Written, "/w/a/b".to_owned()));
    assert_eq!(next(&mut events).await, (Change::Deleted, "/w/a/b".to_owned()));
    assert_eq!(next(&mut events).await, (Change::Written, "/w/a".to_owned()));
    // Our own are told before their answers.
    one.set("/w", b"own", None).await.unwrap();
    let told = futures::FutureExt::now_or_never(events.next());
    assert!(matches!(told, Some(Some(Event::Znode { change: Change::Written, .. }))), "{told:?}");
}

async fn one_change_is_told(one: &Client, two: &Client) {
    assert!(matches!(one.get_and_watch("/none").await, Err(Error::NoNode)));
    let (data, _, changed) = one.get_and_watch("/w/a").await.unwrap();
    assert_eq!(data, b"2");
    two.set("/w/a", b"3", None).await.unwrap();
    tokio::time::timeout(SOON, changed).await.expect("the change");
    let (_, _, gone) = one.get_and_watch("/w/a").await.unwrap();
    two.delete("/w/a", None).await.unwrap();
    tokio::time::timeout(SOON, gone).await.expect("the deletion");
}

async fn requests_are_carried_out_in_the_order_of_their_calls(zk: &Client) {
    let creating = zk.create("/order", b"1", Mode::Persistent);
    let writing = zk.set("/order", b"2", Some(0));
    let reading = zk.get("/order");
    // Polled the other way round.
    let (data, stat) = reading.await.unwrap();
    assert_eq!((data.as_slice(), stat.version), (b"2".as_slice(), 1));
    writing.await.unwrap();
    creating.await.unwrap();
}

async fn answers_and_requests_are_lost_with_the_connection(zk: &Client, faults: &Faults) {
    zk.create("/lost", b"", Mode::Persistent).await.unwrap();
    zk.create("/lost/e", b"", Mode::Ephemeral).await.unwrap();
    let mut events = zk.watch("/lost").await.unwrap();
    let (_, _, changed) = zk.get_and_watch("/lost").await.unwrap();
    faults.lose_answer(zk.id());
    let lost = zk.set("/lost", b"done", None).await.unwrap_err();
    assert!(lost.is_unanswered(), "{lost:?}");
    faults.reconnect(zk.id());
    let (data, stat) = zk.get("/lost").await.unwrap();
    assert_eq!((data.as_slice(), stat.version), (b"done".as_slice(), 1), "carried out, once");
    tokio::time::timeout(SOON, changed).await.expect("a change is told after the interruption, too");
    assert_eq!(zk.exists("/lost/e").await.unwrap().map(|stat| stat.ephemeral_owner), Some(zk.id().0));
    let gap = async {
        loop {
            match events.next().await {
                Some(Event::Gap) => break,
                Some(Event::Suspended | Event::Znode { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(SOON, gap).await.expect("what was missed is not told, but that something may be missing");

    faults.lose_request(zk.id());
    let lost = zk.set("/lost", b"not done", None).await.unwrap_err();
    assert!(lost.is_unanswered(), "{lost:?}");
    faults.reconnect(zk.id());
    assert_eq!(zk.get("/lost").await.unwrap(), (b"done".to_vec(), stat));
}

/// The server has forgotten both sorts with the connection: whoever waits for one change looks again, and what is watched for ever
/// is to be watched anew.
async fn watches_end_with_the_connection(one: &Client, two: &Client, faults: &Faults) {
    two.create("/watched", b"", Mode::Persistent).await.unwrap();
    let mut events = one.watch("/watched").await.unwrap();
    let (_, _, changed) = one.get_and_watch("/watched").await.unwrap();
    faults.lose_request(one.id());
    one.set("/watched", b"not done", None).await.unwrap_err();
    tokio::time::timeout(SOON, changed).await.expect("nothing has changed, and nothing is watched any more");
    faults.reconnect(one.id());
    let (_, stat, changed) = one.get_and_watch("/watched").await.unwrap();
    assert_eq!(stat.version, 0);
    two.set("/watched", b"1", None).await.unwrap();
    tokio::time::timeout(SOON, changed).await.expect("what is watched since then is told");
    one.sync("/watched").await.unwrap();
    let rest = async { events.by_ref().collect::<Vec<_>>().await };
    let rest = tokio::time::timeout(SOON, rest).await.expect("the end of what was watched for ever");
    assert_eq!(rest.last(), Some(&Event::Gap), "{rest:?}");
}

async fn a_session_takes_its_ephemerals_along(one: &Client, two: Client) {
    one.create("/s", b"", Mode::Persistent).await.unwrap();
    two.create("/s/e", b"", Mode::Ephemeral).await.unwrap();
    two.create("/s/p", b"", Mode::Persistent).await.unwrap();
    let mut events = one.watch("/s").await.unwrap();
    let mut states = two.states();
    drop(two);
    assert_eq!(next(&mut events).await, (Change::Deleted, "/s/e".to_owned()));
    assert_eq!(one.children("/s").await.unwrap(), ["p"]);
    let ended = async { while !matches!(states.next().await, Some(State::Ended(_)) | None) {} };
    tokio::time::timeout(SOON, ended).await.expect("the end is told");
}

#[tokio::test]
async fn a_real_zookeeper_conforms() {
    let server = ZooKeeperServer::start();
    let proxy = LossyProxy::start(server.port()).await;
    let mut config = config(&server, "/chroot");
    config.servers[0].port = proxy.port();
    cases(&*connector(&config, &Entropy::system()).unwrap(), &Faults::Real(proxy)).await;
}

#[tokio::test]
async fn the_one_in_memory_conforms() {
    let memory = in_memory();
    cases(&memory, &Faults::InMemory(memory.clone())).await;
}

/// Only the fence helps: whoever had the lock is connected, in the same session, and has heard of nothing.
#[tokio::test]
async fn whoever_has_lost_its_lock_writes_nothing() {
    let memory = in_memory();
    let (one, two) = (open_in(&memory), open_in(&memory));
    let mut old = one.create_node(node(1.0), |_| ()).await.unwrap();
    let id = old.record().id.clone();
    let lock = format!("/nodepool/nodes/{id}/lock");
    let [contender] = &two.children(&lock).await.unwrap()[..] else { panic!("one contender") };
    memory.connect().await.unwrap().delete(&format!("{lock}/{contender}"), None).await.unwrap();
    let mut new = two.try_lock_node(&id).await.unwrap().held().expect("its lock is gone");
    new.update(|node| node.comment = Some("new".to_owned())).await.unwrap();
    assert!(old.is_valid(), "its holder does not know");
    let error = old.update(|node| node.comment = Some("late".to_owned())).await.unwrap_err();
    assert!(error.is_lock_lost(), "{error}");
    let (data, stat) = two.get(&format!("/nodepool/nodes/{id}")).await.unwrap().unwrap();
    assert_eq!((data, stat.version), (new.record().write(), new.stat().version));
    one.close().await;
    two.close().await;
}

/// What was asked for while the connection was broken is not done once the session has ended meanwhile.
#[tokio::test]
async fn what_waits_for_a_session_that_has_ended_is_not_done() {
    let memory = in_memory();
    let (one, two) = (open_in(&memory), open_in(&memory));
    let first = one.connected().await;
    let mut old = one.create_node(node(1.0), |_| ()).await.unwrap();
    let id = old.record().id.clone();
    memory.suspend(first);
    assert!(two.try_lock_node(&id).await.unwrap().held().is_none(), "it may come back");
    memory.expire(first);
    let mut new = two.try_lock_node(&id).await.unwrap().held().expect("its lock is gone");
    assert!(old.is_valid(), "its holder does not know");
    let mut late = std::pin::pin!(old.update(|node| node.comment = Some("late".to_owned())));
    assert!(futures::poll!(&mut late).is_pending(), "it waits for the connection");
    new.update(|node| node.comment = Some("new".to_owned())).await.unwrap();
    memory.resume(first);
    let error = tokio::time::timeout(SOON, late).await.unwrap().unwrap_err();
    assert!(error.is_lock_lost(), "{error}");
    let (data, stat) = two.get(&format!("/nodepool/nodes/{id}")).await.unwrap().unwrap();
    assert_eq!((data, stat.version), (new.record().write(), new.stat().version));
    let next = async || Some(one.connected().await).filter(|next| *next != first);
    wait_for(SOON, "the next session", next).await;
    one.close().await;
    two.close().await;
}

/// Nothing is done twice and no lock is left, whichever request the connection breaks with.
#[tokio::test]
async fn lost_answers_are_found_out_in_memory() {
    let memory = in_memory();
    let (one, two) = (open_in(&memory), open_in(&memory));
    let first = one.connected().await;
    let resuming = tokio::spawn({
        let memory = memory.clone();
        async move {
            loop {
                memory.resume(first);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    for is_done in [true, false] {
        let lose = || if is_done { memory.lose_answer(first) } else { memory.lose_request(first) };
        lose();
        let mut held = one.create_node(node(1.0), |_| ()).await.unwrap();
        let path = format!("/nodepool/nodes/{}", held.record().id);
        assert_eq!(two.children("/nodepool/nodes").await.unwrap(), [held.record().id.to_string()]);
        lose();
        held.update(|node| node.comment = Some("once".to_owned())).await.unwrap();
        let (data, stat) = two.get(&path).await.unwrap().unwrap();
        assert_eq!((data, stat.version), (held.record().write(), 2));
        lose();
        held.unlock().await.unwrap();
        assert!(two.children(&format!("{path}/lock")).await.unwrap().is_empty());
        lose();
        let id = path[path.len() - 10..].into();
        let held = one.try_lock_node(&id).await.unwrap().held().expect("it is free");
        assert_eq!(two.children(&format!("{path}/lock")).await.unwrap().len(), 1);
        lose();
        held.delete(3.0).await.unwrap();
        assert!(two.children("/nodepool/nodes").await.unwrap().is_empty());
    }
    resuming.abort();
    one.close().await;
    two.close().await;
}

/// Locks, fences and cache on it, through a suspension and the end of a session.
#[tokio::test]
async fn everything_above_runs_in_memory() {
    let memory = in_memory();
    let (one, two) = (open_in(&memory), open_in(&memory));
    let first = one.connected().await;
    for zk in [&one, &two] {
        tokio::time::timeout(SOON, zk.cache().until_ready()).await.unwrap();
    }
    let mut held = one.create_node(node(1.0), |_| ()).await.unwrap();
    let id = held.record().id.clone();
    assert_eq!(id.as_str(), "0000000000");
    let seen = async |what: &str, state: NodeState, is_locked: bool| {
        let seen = || {
            two.cache().read(|records| {
                let entry = records.nodes.get(&id)?;
                (entry.usable()?.state == state && entry.is_locked() == is_locked).then_some(())
            })
        };
        wait_for(SOON, what, async || seen()).await;
    };
    seen("the new node", NodeState::Building, true).await;
    assert!(two.try_lock_node(&id).await.unwrap().held().is_none(), "it is locked");

    memory.suspend(first);
    wait_for(SOON, "the suspension", async || (!one.cache().ready()).then_some(())).await;
    let writing = tokio::spawn(async move {
        held.update(|node| node.set_state(NodeState::Ready, 2.0)).await.unwrap();
        held
    });
    memory.resume(first);
    let mut held = tokio::time::timeout(SOON, writing).await.unwrap().unwrap();
    seen("what waited", NodeState::Ready, true).await;
    tokio::time::timeout(SOON, one.cache().until_ready()).await.unwrap();

    memory.expire(first);
    seen("the lock's end", NodeState::Ready, false).await;
    held.update(|node| node.comment = Some("late".to_owned())).await.unwrap_err();
    let locked = two.try_lock_node(&id).await.unwrap().held().unwrap();
    locked.delete(3.0).await.unwrap();
    let gone = || async { one.cache().read(|records| records.nodes.is_empty() && one.cache().ready()).then_some(()) };
    wait_for(SOON, "the deletion, in another session", gone).await;
    assert_ne!(one.connected().await, first);
    one.close().await;
    two.close().await;
}

/// While the tree is walked again in the same session, what was known serves with what is written and seen; what happened while
/// the connection was broken is found by the walk.
#[tokio::test]
async fn what_was_known_serves_while_it_is_renewed() {
    let memory = in_memory();
    let (one, two) = (open_in(&memory), open_in(&memory));
    let session = one.connected().await;
    tokio::time::timeout(SOON, one.cache().until_ready()).await.unwrap();
    let make = async || two.create_node(node(1.0), |_| ()).await.unwrap();
    let (gone, mut written) = (make().await, make().await);
    let (gone_id, written_id) = (gone.record().id.clone(), written.record().id.clone());
    let seen = |id: &NodeId| one.cache().read(|records| records.nodes.get(id)?.usable().cloned());
    let knows = async |id: &NodeId| {
        wait_for(SOON, "the node is seen", async || seen(id)).await;
    };
    knows(&gone_id).await;
    knows(&written_id).await;
    assert!(!one.cache().take_in(session).unwrap().renewing);

    memory.suspend(session);
    memory.hold_listings(session);
    let is = async |freshness| {
        wait_for(SOON, "that", async || (one.cache().freshness() == freshness).then_some(())).await;
    };
    is(Freshness::Stale).await;
    assert!(one.cache().take_in(session).is_none());
    gone.delete(2.0).await.unwrap();
    let missed = make().await.record().id.clone();
    memory.resume(session);
    is(Freshness::Renewing).await;
    let taken = one.cache().take_in(session).unwrap();
    assert!(taken.renewing && taken.records.nodes.contains_key(&gone_id) && !taken.records.nodes.contains_key(&missed));
    assert!(one.cache().snapshot_in(session).is_none(), "nothing follows from what is not in it");

    written.update(|node| node.comment = Some("seen".to_owned())).await.unwrap();
    let commented = async || seen(&written_id).filter(|node| node.comment.is_some()).map(drop);
    wait_for(SOON, "what is written now is seen", commented).await;
    let new = make().await;
    knows(&new.record().id).await;
    let ours = one.create_node(node(3.0), |_| ()).await.unwrap();
    knows(&ours.record().id).await;
    let deleted = new.record().id.clone();
    new.delete(4.0).await.unwrap();
    wait_for(SOON, "what is deleted now is gone", async || seen(&deleted).is_none().then_some(())).await;
    assert!(one.cache().take_in(session).unwrap().renewing);

    memory.release_listings(session);
    is(Freshness::Current).await;
    let taken = one.cache().take_in(session).unwrap();
    assert!(!taken.renewing && taken.changes.everything);
    let nodes: Vec<_> = taken.records.nodes.keys().cloned().collect();
    assert_eq!(nodes, [written_id, missed, ours.record().id.clone()]);
    let is_locked: Vec<_> = taken.records.nodes.values().map(|entry| entry.is_locked()).collect();
    assert_eq!(is_locked, [true, false, true]);

    // A walk that is interrupted begins anew; one of a new session serves nobody until it is done.
    memory.suspend(session);
    memory.hold_listings(session);
    memory.resume(session);
    is(Freshness::Renewing).await;
    memory.suspend(session);
    is(Freshness::Stale).await;
    memory.resume(session);
    is(Freshness::Renewing).await;
    memory.expire(session);
    is(Freshness::Current).await;
    assert_ne!(one.connected().await, session);
    one.close().await;
    two.close().await;
}
