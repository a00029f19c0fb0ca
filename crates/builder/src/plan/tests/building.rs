//! What is built, and when.

use super::*;

#[test]
fn an_image_without_a_build_is_built_in_its_own_formats_and_those_of_its_providers() {
    let site = Site::new(CONFIG);
    assert_eq!(site.says(), ["build i qcow2,raw NoBuild"], "one worker, the first image of the file");
    let mut site = Site::new(CONFIG);
    site.workers.0 = 3;
    assert_eq!(site.says(), ["build i qcow2,raw NoBuild", "build j tar NoBuild"]);
}

#[test]
fn an_image_is_built_anew_when_it_is_old_or_lacks_a_format() {
    let mut site = site();
    site.good(1, DAY - 10.0);
    let plan = site.plan_at(NOW);
    assert_eq!(plan, Plan { wake_at: Some(NOW + 10.0), held_back: Some(None), ..Plan::default() });
    let later: Vec<_> = site.plan_at(NOW + 10.0).decisions.iter().map(short).collect();
    assert_eq!(later, ["build i qcow2,raw Age"]);
    change_build(&mut site, "i", 1, |build| build.formats = vec!["qcow2".to_owned()]);
    assert_eq!(site.says(), ["build i qcow2,raw Formats"]);
}

#[test]
fn what_is_asked_for_comes_first_and_paused_images_wait() {
    let mut site = Site::new(CONFIG);
    site.build("j", 1, BuildState::Ready, 1.0);
    site.records.build_requests.insert("j".into(), stat());
    assert_eq!(site.says(), ["build j tar Requested"]);
    site.records.paused_images.insert("j".into());
    assert_eq!(site.says(), ["build i qcow2,raw NoBuild"]);
    site.records.paused_images.insert("i".into());
    assert!(site.says().is_empty());
    let mut paused = Site::new(&CONFIG.replace("- name: i\n", "- name: i\n    pause: true\n"));
    paused.build("j", 1, BuildState::Ready, 1.0);
    change_build(&mut paused, "j", 1, |build| build.formats = vec!["tar".to_owned()]);
    assert!(paused.says().is_empty());
}

#[test]
fn an_image_without_formats_is_never_built() {
    assert!(Site::new("diskimages: [{name: i}]").says().is_empty());
    let mut unknown = Site::new(CONFIG);
    unknown.providers.clear();
    assert_eq!(unknown.says(), ["build j tar NoBuild"], "nobody knows what `i` should be");
}

#[test]
fn an_image_that_somebody_builds_is_left_to_him() {
    let mut site = site();
    let lock = WorkLock { contenders: Contenders::from(["c"]), free_since: None };
    site.records.building.insert("i".into(), lock);
    site.build_of("them", "i", 1, BuildState::Building, 5.0);
    assert!(site.says().is_empty());
}

#[test]
fn a_failed_build_is_tried_again_after_a_pause_or_when_somebody_asks_since() {
    let mut site = site();
    site.doing.builds_after.insert("i".into(), (UPTIME + 7.0, Some(50)));
    assert_eq!(site.plan_at(NOW), Plan { wake_at: Some(NOW + 7.0), held_back: Some(None), ..Plan::default() });
    let asked = |mzxid| Stat { mzxid, ..Stat::default() };
    site.records.build_requests.insert("i".into(), asked(50));
    assert!(site.says().is_empty(), "that request has failed already");
    site.records.build_requests.insert("i".into(), asked(51));
    assert_eq!(site.says(), ["build i qcow2,raw Requested"]);
}

#[test]
fn builders_that_want_different_formats_do_not_build_by_turns() {
    let mut site = site();
    site.good(1, 100.0).build_of("them", "i", 2, BuildState::Ready, 50.0);
    change_build(&mut site, "i", 2, |build| build.formats = vec!["vhd".to_owned()]);
    assert!(site.says().is_empty(), "{:?}", site.says());
}

#[test]
fn an_image_whose_builder_lost_its_files_is_built_anew_where_a_provider_lacks_it() {
    let mut site = site();
    site.good(1, 100.0);
    site.files.remove(&("i".into(), id(1).into()));
    assert!(site.says().is_empty(), "every provider has it");
    site.records.uploads.remove(&key("i", 1, "a", 1));
    assert_eq!(site.says(), ["build i qcow2,raw FilesLost"]);
    let unreadable = plan(&World { files: None, ..site.world(NOW) });
    assert!(unreadable.decisions.is_empty(), "images-dir cannot be read");
    site.doing.uploading.insert(("i".into(), id(1).into(), "a".into()));
    assert!(site.says().is_empty(), "it is being uploaded, from the open file");
    site.doing.uploading.clear();
    change_build(&mut site, "i", 1, |build| build.builder_id = Some("them".to_owned()));
    assert!(site.says().is_empty(), "another builder has the files");
}

/// Of a builder whose clock was far ahead.
#[test]
fn a_build_from_the_future_is_neither_the_newest_for_ever_nor_never_rebuilt() {
    let mut site = Site::new(CONFIG);
    site.workers = (2, 4);
    site.build("i", 1, BuildState::Ready, -10.0 * DAY);
    // ZooKeeper saw it written two days ago.
    change_each(&mut site.records.builds, |entry| {
        Arc::make_mut(entry).stat.mtime = 1_000_000_000 - 2 * 86_400_000;
    });
    let built = |site: &Site| {
        let plan = site.plan_at(NOW);
        plan.decisions.iter().any(|d| matches!(d, Decision::Build { image, .. } if image.as_str() == "i"))
    };
    assert!(built(&site), "{:?}", site.plan_at(NOW));
    site.build("i", 2, BuildState::Ready, 60.0);
    assert!(!built(&site));
    let uploads: Vec<_> = site.plan_at(NOW).decisions;
    assert!(
        uploads.iter().any(|d| matches!(d, Decision::Upload { build, .. } if build.as_str() == id(2))),
        "the newer one is uploaded: {uploads:?}"
    );
}
