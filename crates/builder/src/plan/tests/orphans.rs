//! Files without a record.

use super::*;

#[test]
fn files_that_may_be_somebody_elses_stay() {
    let mut site = site();
    site.workers.0 = 0;
    site.files.insert(("notes".into(), id(7).into()), BTreeSet::new());
    site.files.insert(("i".into(), "1700000000".into()), BTreeSet::new());
    site.records.images.insert("i".into());
    assert!(site.says().is_empty(), "{:?}", site.says());
}

/// Files of builds of `i` without a record.
fn old_files(site: &mut Site, builds: std::ops::Range<u32>) {
    site.files.extend(builds.map(|n| (("i".into(), id(n).into()), BTreeSet::from(["raw".to_owned()]))));
}

fn held_back(site: &Site) -> Option<HeldBack> {
    site.plan_at(NOW).held_back.expect("images-dir was looked at")
}

#[test]
fn with_an_empty_zookeeper_no_file_goes_until_it_is_allowed() {
    let mut site = site();
    site.workers = (0, 0);
    old_files(&mut site, 1..3);
    assert!(site.says().is_empty());
    let mut held = held_back(&site).expect("both are held back, although ZooKeeper has never heard of the image");
    assert_eq!(
        held.items.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(),
        [1, 2].map(|n| format!("i-{}", id(n)))
    );
    assert!(held.why.starts_with("no build of image i is on record as ready"), "{}", held.why);

    // The builder begins anew, and its records grow.
    site.records.held_back.insert(Holder::Builder(US.to_owned()), entry(Ok(Arc::new(held.clone()))));
    site.doing.building.insert("i".into());
    assert!(site.says().is_empty());
    assert_eq!(held_back(&site).as_ref(), Some(&held), "while the image is built");
    site.doing.building.clear();
    site.build("i", 9, BuildState::Ready, 10.0);
    assert!(site.says().is_empty());
    assert_eq!(held_back(&site).as_ref(), Some(&held), "nothing has changed in it");
    old_files(&mut site, 3..4);
    held.items.iter_mut().for_each(|item| item.allowed = true);
    site.records.held_back.insert(Holder::Builder(US.to_owned()), entry(Ok(Arc::new(held))));
    assert_eq!(site.says(), ["delete files i 1 all", "delete files i 2 all"], "the third was not allowed");
    site.files.retain(|(_, build), _| number(build) > 2);
    let held = held_back(&site).unwrap();
    assert_eq!(held.items.len(), 1, "{held:?}");
    site.records.held_back.insert(Holder::Builder(US.to_owned()), entry(Ok(Arc::new(held))));
    site.files.retain(|(_, build), _| number(build) > 3);
    assert_eq!(held_back(&site).unwrap().items[0].missed_since, Some(1_000_000), "images-dir may come back");
}

#[test]
fn with_an_older_copy_of_the_records_the_build_that_it_does_not_know_stays() {
    let deletes_after_upload = load(&CONFIG.replace("- name: i\n", "- name: i\n    delete-after-upload: true\n"));
    let mut site = site();
    site.workers = (0, 0);
    site.build("i", 1, BuildState::Ready, DAY);
    old_files(&mut site, 2..3);
    assert_eq!(site.says(), ["delete files i 2 all"], "a leak beside a build whose files are here");
    site.files.retain(|(_, build), _| number(build) > 1);
    assert_eq!(held_back(&site).unwrap().items.len(), 1, "the build of the copy was retired long ago");
    let config = std::mem::replace(&mut site.config, deletes_after_upload);
    assert_eq!(held_back(&site), None, "its files went when they were uploaded");
    site.config = config;
    site.build_of("them", "i", 1, BuildState::Ready, DAY);
    assert_eq!(held_back(&site), None, "another builder has its files");
}

#[test]
fn more_files_than_are_on_record_stay_and_a_few_beside_those_on_record_go() {
    let mut site = site();
    site.workers = (0, 0);
    site.build("i", 100, BuildState::Ready, 10.0);
    old_files(&mut site, 0..10);
    assert_eq!(site.says().len(), 10);
    old_files(&mut site, 10..11);
    assert!(site.says().is_empty());
    assert_eq!(held_back(&site).unwrap().items.len(), 11);
    site.retires = false;
    assert_eq!(site.plan_at(NOW).held_back, None, "nobody looks where nothing is ever deleted");
}

#[test]
fn files_that_another_builder_has_retired_while_ours_was_away_go() {
    let mut site = site();
    site.workers = (0, 0);
    old_files(&mut site, 1..3);
    site.build_of("them", "i", 9, BuildState::Ready, 10.0);
    assert_eq!(site.says(), ["delete files i 1 all", "delete files i 2 all"]);
}
