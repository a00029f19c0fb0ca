//! `pause`, `unpause`, `pause-list`: what they write, say, refuse and leave.

use serde_json::{Value, json};

use crate::world::{World, rows, stderr, stdout};

const RECORD: &str = "/nodepool/pauses/p";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_and_pools_are_paused_listed_and_go_on() {
    let world = World::start().await;
    let pool = json!({"hostname": "host", "state": "running", "id": "host-p", "name": "main", "provider_name": "p",
        "supported_labels": ["noble"], "priority": 100, "paused": false});
    world.zk.create("/nodepool/components/pool/host0000000001", pool.to_string().as_bytes()).await.unwrap();
    assert_eq!(rows(&world.nodepool(&["pause-list"]).await).len(), 0);

    let nobody = world.nodepool(&["pause", "nobody"]).await;
    assert_eq!((nobody.status.code(), stdout(&nobody)), (Some(1), ""));
    assert!(stderr(&nobody).contains("there is no provider nobody") && stderr(&nobody).contains(" p"), "{nobody:?}");
    let no_pool = world.nodepool(&["pause", "p", "--pool", "side"]).await;
    assert!(stderr(&no_pool).contains("provider p has no pool side; it has: main"), "{no_pool:?}");
    for note in ["two\nlines", &"x".repeat(501)] {
        assert_eq!(world.nodepool(&["pause", "p", "--note", note]).await.status.code(), Some(2), "{note}");
    }
    assert!(world.record(RECORD).await.is_none(), "what was refused has written nothing");

    let one = world.nodepool(&["pause", "p", "--pool", "main", "--note", "slow", "--by", "alice"]).await;
    assert_eq!(one.status.code(), Some(0), "{one:?}");
    assert!(stdout(&one).starts_with("pool main of provider p is paused"), "{one:?}");
    let all = world.nodepool(&["pause", "p", "--note", " Update, until noon "]).await;
    assert!(stdout(&all).starts_with("provider p is paused"), "{all:?}");
    let list = world.nodepool(&["pause-list", "--format", "json"]).await;
    let list: Value = serde_json::from_str(stdout(&list)).unwrap();
    let notes: Vec<_> = list.as_array().unwrap().iter().map(|row| (&row["pool"], &row["note"])).collect();
    assert_eq!(notes, [(&json!(null), &json!("Update, until noon")), (&json!("main"), &json!("slow"))], "{list}");
    assert_eq!(list[1]["by"], "alice");
    assert!(list[0]["by"].as_str().unwrap().contains('@'), "user@host: {list}");
    assert!(list[0]["since"].as_str().unwrap().ends_with(" UTC"), "{list}");
    assert_eq!(rows(&world.nodepool(&["pause-list", "--provider", "q"]).await).len(), 0);

    let first = world.nodepool(&["unpause", "p", "--pool", "main"]).await;
    assert!(stdout(&first).contains("is paused no longer; but all of provider p is"), "{first:?}");
    world.nodepool(&["pause", "p", "--pool", "main"]).await;
    let whole = world.nodepool(&["unpause", "p"]).await;
    assert!(stdout(&whole).contains("is paused no longer; but of its pools, each by itself: main"), "{whole:?}");
    world.nodepool(&["unpause", "p", "--pool", "main"]).await;
    assert!(world.record(RECORD).await.is_none(), "nothing is left behind");
    let again = world.nodepool(&["unpause", "p"]).await;
    assert_eq!((again.status.code(), stdout(&again)), (Some(0), "provider p was not paused\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_is_shown_and_ends_with_the_pause_of_the_provider() {
    let world = World::start().await;
    world.zk.create("/nodepool/pauses/gone", br#"{"pools": 3}"#).await.unwrap();
    let list = world.nodepool(&["pause-list"]).await;
    assert!(stdout(&list).contains("cannot be read") && stdout(&list).contains("nodepool unpause gone"), "{list:?}");
    let refused = world.nodepool(&["unpause", "gone", "--pool", "main"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("/nodepool/pauses/gone cannot be read"), "{refused:?}");
    let ended = world.nodepool(&["unpause", "gone"]).await;
    assert_eq!((ended.status.code(), stdout(&ended)), (Some(0), "provider gone is paused no longer\n"), "{ended:?}");
    assert!(world.zk.children("/nodepool/pauses").await.unwrap().is_empty());
}
