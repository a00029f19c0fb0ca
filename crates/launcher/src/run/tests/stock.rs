//! When nodes to keep in stock are not asked for.

use nodepool_common::{
    model::Uptime,
    sys::{Ambient, clock::Simulated, entropy::Entropy},
    zk::memory::Memory,
};

use super::*;
use crate::plan::Reason;

/// A launcher of two providers with a pool each, both of which have label `a`, of which four are to be in stock. Its loop is the test; the directory has its file.
async fn launcher() -> (Arc<Launcher>, Core, TempDir) {
    let other = provider().to_string().replace("\"p\"", "\"q\"");
    let (mut start, dir) = start(free_port(), &[provider(), serde_json::from_str(&other).unwrap()]);
    Arc::make_mut(&mut start.loaded.config).labels.get_mut("a").unwrap().min_ready = 4;
    start.ambient = Ambient { clock: Simulated::starting_at(1e9).clock(), entropy: Entropy::seeded(1) };
    let (frame, _loaded) = start.connect_with(Arc::new(Memory::new(|| 0)), Duration::from_secs(10), Stats::new(None));
    let (launcher, mut core) = Launcher::new(options(), frame);
    for (name, config) in &launcher.config().providers {
        launcher.clouds.add_started(Arc::clone(config), Arc::new(Buggy(name.clone())));
    }
    launcher.match_pools();
    launcher.zk.cache().until_ready().await;
    assert!(core.book.enter(launcher.zk.connected().await));
    (launcher, core, dir)
}

/// These providers decline a request for stock that somebody has made, one after the other.
async fn decline(launcher: &Arc<Launcher>, core: &mut Core, providers: &[&str]) {
    let session = launcher.zk.in_session(launcher.zk.connected().await);
    let request = NodeRequest::min_ready(&"a".into(), String::new(), 0.0);
    let request = session.create_request("900", true, request).await.unwrap().id;
    for provider in providers {
        let pools = vec![(PoolKey { provider: (*provider).into(), pool: "main".into() }, Reason::LabelRemoved)];
        launcher.carry_out(&mut core.book, Decision::Decline { request: request.clone(), pools });
        let told = core.book.inbox().next().await.unwrap();
        launcher.apply(core, told);
    }
}

/// For how many seconds nothing is asked for.
fn pause(launcher: &Launcher, core: &Core) -> Option<f64> {
    let now = launcher.clock.uptime();
    let until: Option<Uptime> = core.book.min_ready_after.get(&LabelName::from("a")).copied();
    until.map(|until| until - now)
}

#[tokio::test(start_paused = true)]
async fn who_has_no_room_for_what_others_ask_to_keep_in_stock_does_not_ask_for_a_while() {
    let (launcher, mut core, _dir) = launcher().await;
    decline(&launcher, &mut core, &["p"]).await;
    assert_eq!(pause(&launcher, &core), None, "another pool of ours may have room");
    let both = ["p", "q"];
    decline(&launcher, &mut core, &both).await;
    let first = pause(&launcher, &core).unwrap();
    assert!((2.0..2.5).contains(&first), "{first}");
    tokio::time::advance(Duration::from_secs(1)).await;
    for _ in 0..4 {
        decline(&launcher, &mut core, &both).await;
    }
    let again = pause(&launcher, &core).unwrap();
    assert!((2.0..2.5).contains(&again), "it begins anew, and is no longer than before: {again}");
    for at_least in [4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
        tokio::time::advance(Duration::from_secs(80)).await;
        decline(&launcher, &mut core, &both).await;
        let pause = pause(&launcher, &core).unwrap();
        assert!((at_least..at_least * 1.25).contains(&pause), "{pause} of {at_least}");
    }
    launcher.zk.close().await;
}

/// Two requests for one label that were made together, and a third one after their pause.
#[tokio::test(start_paused = true)]
async fn requests_of_ours_that_fail_together_are_one_failure_and_one_that_is_served_ends_it() {
    let (launcher, mut core, _dir) = launcher().await;
    let reports = core.book.reports();
    let fail = async |core: &mut Core, request: &str| {
        reports.tell(Event::MinReadyFailed { request: request.into(), labels: vec!["a".into()] });
        let told = core.book.inbox().next().await.unwrap();
        launcher.apply(core, told);
        pause(&launcher, core).unwrap()
    };
    for request in ["900-0000000001", "900-0000000002"] {
        let pause = fail(&mut core, request).await;
        assert!((2.0..2.5).contains(&pause), "{pause}");
    }
    tokio::time::advance(Duration::from_secs(3)).await;
    let second = fail(&mut core, "900-0000000003").await;
    assert!((4.0..5.0).contains(&second), "{second}");
    // Another launcher has served one.
    let session = launcher.zk.in_session(launcher.zk.connected().await);
    let mut request = NodeRequest::min_ready(&"a".into(), String::new(), 0.0);
    request.set_state(RequestState::Fulfilled, 0.0);
    let request = session.create_request("900", true, request).await.unwrap().id;
    launcher.carry_out(&mut core.book, Decision::FinishMinReady { request });
    let told = core.book.inbox().next().await.unwrap();
    launcher.apply(&mut core, told);
    tokio::time::advance(Duration::from_secs(9)).await;
    let first = fail(&mut core, "900-0000000004").await;
    assert!((2.0..2.5).contains(&first), "{first}");
    launcher.zk.close().await;
}

/// A pool of another launcher, which was registered after ours.
#[tokio::test(start_paused = true)]
async fn who_is_not_the_first_to_ask_asks_for_what_is_left_a_moment_later() {
    let (launcher, mut core, _dir) = launcher().await;
    let ours = async || launcher.zk.cache().read(|records| (records.pools.len() == 2).then_some(()));
    wait_for(SOON, "our pools are seen", ours).await;
    let mut ask = async |asked_by_other: usize| {
        let began = Instant::now();
        let create = Decision::CreateMinReady { label: "a".into(), count: 2 };
        launcher.carry_out(&mut core.book, create);
        // Of another session, as far as that can be seen: these last.
        let session = launcher.zk.in_session(launcher.zk.connected().await);
        for _ in 0..asked_by_other {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let request = NodeRequest::min_ready(&"a".into(), "other".to_owned(), 0.0);
            session.create_request("900", false, request).await.unwrap();
        }
        let told = core.book.inbox().next().await.unwrap();
        launcher.apply(&mut core, told);
        (launcher.zk.cache().read(|records| records.requests.len()), began.elapsed())
    };
    let (there, took) = ask(0).await;
    assert!(there == 2 && took < Duration::from_secs(1), "{there} after {took:?}");
    let labels = vec!["a".into()];
    let said = nodepool_common::model::PoolComponent {
        hostname: "other".to_owned(),
        state: "running".to_owned(),
        version: None,
        model_api: 0,
        id: Some("other".into()),
        name: Some("main".into()),
        provider_name: Some("p".into()),
        supported_labels: labels,
        priority: 100,
        paused: false,
        extra: nodepool_common::model::Extra::default(),
    };
    let registration = launcher.zk.register_pool(said);
    let theirs = async || launcher.zk.cache().read(|records| (records.pools.len() == 3).then_some(()));
    wait_for(SOON, "the other pool is seen", theirs).await;
    let (there, took) = ask(1).await;
    assert!(there == 4 && took > Duration::from_secs(1), "one is asked for, and {there} are there after {took:?}");
    assert_eq!(ask(2).await.0, 6, "none is left");
    registration.withdraw().await;
    launcher.zk.close().await;
}
