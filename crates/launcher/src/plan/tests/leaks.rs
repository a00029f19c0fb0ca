//! What of a search for leaks may be removed.

use std::collections::BTreeSet;

use nodepool_common::{
    config::{OpenStack, OpenStackDiskimage},
    model::{BuilderComponent, HeldBack, Holder, ImageUpload, UploadKey, UploadState, brake::Standing},
};

use super::*;

fn site() -> Setting {
    Setting::new().provider("p", |_| {})
}

fn server(node: u64, standing: Standing) -> Tagged {
    let node = format!("{node:010}");
    let id = format!("server-{node}");
    Tagged { kind: "instances", id, is_image: false, node: Some(node.into()), standing, is_confirmed: true }
}

fn leaked(node: u64) -> Tagged {
    server(node, Standing::Leaked("there is no node".to_owned()))
}

fn image(n: u32, standing: Standing) -> Tagged {
    Tagged { kind: "images", id: format!("image-{n}"), is_image: true, node: None, standing, is_confirmed: true }
}

/// The same, found for the first time.
fn once(tagged: Tagged) -> Tagged {
    Tagged { is_confirmed: false, ..tagged }
}

/// How many may go, and how many stay with which reason.
fn judged(setting: &Setting, tagged: &[Tagged], next_node: u64) -> (usize, usize, String) {
    let verdict = LeakSearch {
        now: 100,
        host: "h",
        provider: &setting.config.providers["p"],
        records: &setting.records,
        tagged,
        unlisted: &BTreeSet::new(),
        next_node: Some(next_node),
    }
    .judge();
    let held = verdict.held.unwrap_or_default();
    (verdict.free.len(), held.items.len(), held.why)
}

fn lists_diskimage(mut setting: Setting) -> Setting {
    let provider = Arc::get_mut(&mut setting.config.providers["p"]).unwrap();
    let Driver::Fake(OpenStack { diskimages, .. }) = &mut provider.driver else { panic!("{:?}", provider.driver) };
    let image = OpenStackDiskimage {
        name: "i".into(),
        pause: false,
        meta: indexmap::IndexMap::new(),
        config_drive: None,
        connection_type: "ssh".to_owned(),
        connection_port: 22,
        username: "zuul".to_owned(),
        python_path: "auto".to_owned(),
        shell_type: None,
    };
    diskimages.insert("i".into(), image);
    setting
}

#[test]
fn one_leak_is_removed_also_where_nothing_else_is() {
    assert_eq!(judged(&site(), &[leaked(3)], 4), (1, 0, String::new()));
    assert_eq!(judged(&site(), &[leaked(3), server(4, Standing::Known)], 5), (1, 0, String::new()));
    assert_eq!(judged(&site(), &[server(3, Standing::Open)], 4), (0, 0, String::new()));
}

#[test]
fn a_server_of_a_node_that_this_zookeeper_has_never_given_out_stops_all_removals() {
    let (free, held, why) = judged(&site(), &[leaked(3), leaked(4), leaked(52_000)], 4);
    assert_eq!((free, held), (0, 3));
    assert_eq!(
        why,
        "2 of them name nodes that this ZooKeeper has not given out yet, up to 0000052000 (its next one is 0000000004): it was \
         emptied, or set back to an older state"
    );
    assert_eq!(judged(&site(), &[server(52_000, Standing::Known), leaked(3)], 4).0, 1, "it must have leaked");
    let odd = Tagged { node: Some("x-1".into()), ..leaked(0) };
    assert_eq!(judged(&site(), &[odd], 4).0, 1);
}

#[test]
fn images_stay_while_no_upload_is_on_record_although_the_file_wants_some() {
    let gone = || image(1, Standing::Leaked("there is no upload".to_owned()));
    let known = image(2, Standing::Known);
    assert_eq!(judged(&site(), &[gone()], 0).0, 1, "the provider takes no images any more");
    let mut setting = lists_diskimage(site());
    let (free, held, why) = judged(&setting, &[gone(), leaked(3)], 4);
    assert_eq!((free, held), (1, 1), "the server goes: nodes' records are not in doubt");
    assert!(why.starts_with("there are 1 images of builds, the configuration lists diskimages"), "{why}");
    let key = UploadKey { image: "i".into(), provider: "p".into(), build: "b".into(), id: "0000000001".into() };
    let UploadKey { image, provider, build, id } = key.clone();
    let (mut upload, _) = ImageUpload::read(image, build, provider, id, br#"{"state": "uploading"}"#).unwrap();
    setting.records.uploads.insert(key.clone(), entry(upload.clone()));
    assert_eq!(judged(&setting, &[gone()], 0).0, 0, "the first upload after the loss is on its way");
    upload.set_state(UploadState::Ready, NOW);
    setting.records.uploads.insert(key, entry(upload));
    let (free, held, why) = judged(&setting, &[gone()], 0);
    assert_eq!((free, held), (0, 1), "the records are of other images: an older copy");
    assert!(why.ends_with("none of the images in its cloud is on record"), "{why}");
    assert_eq!(judged(&setting, &[gone(), known], 0).0, 1);
}

#[test]
fn what_was_found_once_only_is_neither_removed_nor_held_back_nor_a_reason() {
    let ended: Vec<Tagged> = (0..20).map(|n| once(leaked(n))).collect();
    assert_eq!(judged(&site(), &ended, 100), (0, 0, String::new()), "nodes that ended while the cloud was listed");
    let with_a_leak: Vec<Tagged> = ended.iter().cloned().chain([leaked(50)]).collect();
    assert_eq!(judged(&site(), &with_a_leak, 100), (1, 0, String::new()));
    let rotated = once(image(1, Standing::Leaked("there is no upload".to_owned())));
    assert_eq!(judged(&lists_diskimage(site()), &[rotated, leaked(50)], 100).0, 1);
    let (free, held, why) = judged(&site(), &with_a_leak, 10);
    assert_eq!((free, held), (0, 21), "after a loss all is held back at once, before the numbers are given out");
    assert!(why.starts_with("11 of them name nodes"), "{why}");
}

#[test]
fn a_restarted_launcher_drops_nothing_of_what_is_on_record() {
    let mut setting = site();
    let verdict = |setting: &Setting, tagged: &[Tagged]| {
        let (provider, records) = (&setting.config.providers["p"], &setting.records);
        LeakSearch { now: 100, host: "h", provider, records, tagged, unlisted: &BTreeSet::new(), next_node: Some(100) }
            .judge()
    };
    let confirmed: Vec<Tagged> = (0..20).map(leaked).collect();
    let held = verdict(&setting, &confirmed).held.unwrap();
    let holder = Holder::Provider("p".into());
    setting.records.held_back.insert(holder.clone(), entry(held.clone()));
    let anew: Vec<Tagged> = confirmed.into_iter().map(once).collect();
    assert_eq!(verdict(&setting, &anew).held.as_ref(), Some(&held));
    setting.records.held_back.insert(holder, entry(HeldBack { found: 21, ..held }));
    let more = [&anew[..], &[once(leaked(30))]].concat();
    assert_eq!(verdict(&setting, &more).held.unwrap().items.len(), 21, "also of what the record had no room for");
}

#[test]
fn what_is_held_back_stays_while_its_kind_cannot_be_listed() {
    let mut setting = site();
    let images: Vec<Tagged> = (0..20).map(|n| image(n, Standing::Leaked("there is no upload".to_owned()))).collect();
    let held = |setting: &Setting, now: i64, tagged: &[Tagged], unlisted: &[&'static str]| {
        let (provider, records) = (&setting.config.providers["p"], &setting.records);
        let unlisted = &unlisted.iter().copied().collect();
        LeakSearch { now, host: "h", provider, records, tagged, unlisted, next_node: Some(100) }.judge().held
    };
    let mut first = held(&setting, 100, &images, &[]);
    for hour in 1..4 {
        setting.records.held_back.insert(Holder::Provider("p".into()), entry(first.clone().unwrap()));
        let later = held(&setting, 100 + 3600 * hour, &[], &["images"]);
        assert_eq!(later, first, "after {hour} h");
        first = later;
    }
    assert!(held(&setting, 20_000, &[], &["volumes"]).unwrap().items.iter().all(|item| item.missed_since.is_some()));
}

#[test]
fn images_are_not_outweighed_by_servers() {
    let mut tagged: Vec<Tagged> = (0..200).map(|n| server(n, Standing::Known)).collect();
    tagged.extend((0..20).map(|n| image(n, Standing::Leaked("there is no upload".to_owned()))));
    let (free, held, why) = judged(&site(), &tagged, 1000);
    assert_eq!((free, held), (0, 20));
    assert!(why.starts_with("one search would remove 20 images, and none"), "{why}");
}

#[test]
fn a_record_holds_back_whatever_the_records_have_become() {
    let mut setting = site();
    let held = HeldBack { why: "w".to_owned(), ..HeldBack::default() };
    setting.records.held_back.insert(Holder::Provider("p".into()), entry(held));
    assert_eq!(judged(&setting, &[leaked(3), server(4, Standing::Known)], 5), (0, 1, "w".to_owned()));
    setting.records.held_back.clear();
    assert_eq!(judged(&setting, &[leaked(3), server(4, Standing::Known)], 5).0, 1);
}

#[test]
fn the_numbers_of_nodes_that_servers_bear_without_a_record_are_not_used_again() {
    let setting = site().node("0000000004", "small", NodeState::Ready, |_| {});
    let tagged = [leaked(3), server(4, Standing::Known)];
    let search = LeakSearch {
        now: 100,
        host: "h",
        provider: &setting.config.providers["p"],
        records: &setting.records,
        tagged: &tagged,
        unlisted: &BTreeSet::new(),
        next_node: None,
    };
    assert_eq!(search.named_nodes(), ["0000000003".into()].into());
}

#[test]
fn what_is_held_back_is_looked_after_by_who_has_the_provider_or_is_the_builder() {
    let mut setting = site();
    let provider = |name: &str| Holder::Provider(name.into());
    let unclaimed = |setting: &Setting, holder: &Holder| {
        let held = HeldBack { host: "builder-1".to_owned(), ..HeldBack::default() };
        is_unclaimed(holder, Some(&held), &setting.records, &setting.config)
    };
    assert!(!unclaimed(&setting, &provider("p")));
    assert!(unclaimed(&setting, &provider("gone")));
    setting.config.providers.clear();
    assert!(!unclaimed(&setting, &provider("p")), "another launcher has a pool of it");
    setting.records.pools.clear();
    assert!(unclaimed(&setting, &provider("p")));
    let builder = Holder::Builder("id".to_owned());
    assert!(unclaimed(&setting, &builder));
    let component = Arc::new(BuilderComponent { state: "running".to_owned() });
    setting.records.builders.insert("builder-10000000001".to_owned(), Arc::clone(&component));
    assert!(!unclaimed(&setting, &builder));
    setting.records.builders = [("builder-20000000001".to_owned(), component)].into_iter().collect();
    assert!(unclaimed(&setting, &builder));
}
