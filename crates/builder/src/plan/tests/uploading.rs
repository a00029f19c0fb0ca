//! What is uploaded where, and when.

use super::*;

#[test]
fn an_image_that_only_a_wrong_part_of_the_file_still_lists_is_kept_and_not_uploaded() {
    let mut site = Site::new(CONFIG);
    site.workers.0 = 0;
    site.good(1, 100.0);
    site.build("i", 2, BuildState::Ready, 50.0);
    let config = Arc::make_mut(&mut site.config);
    config.diskimages.shift_remove("i");
    assert!(site.says().is_empty(), "{:?}", site.says());
}

#[test]
fn what_an_earlier_life_has_left_of_an_upload_goes_before_it_is_begun_anew() {
    let mut site = site();
    site.build("i", 1, BuildState::Ready, 10.0).upload(1, "a", 1, UploadState::Uploading, 9.0);
    assert_eq!(site.says(), ["upload i 1 b raw", "forget upload i 1 a 1"]);
    site.retires = false;
    assert_eq!(site.says(), ["upload i 1 a qcow2", "upload i 1 b raw"], "else it would wait for ever");
}

#[test]
fn the_newest_ready_build_goes_to_every_provider_that_lacks_it() {
    let mut site = site();
    site.good(1, 100.0).build("i", 2, BuildState::Ready, 10.0).upload(2, "b", 1, UploadState::Ready, 5.0);
    assert_eq!(site.says(), ["upload i 2 a qcow2"]);
    site.files.get_mut(&("i".into(), id(2).into())).unwrap().remove("qcow2");
    change_build(&mut site, "i", 2, |build| build.builder_id = Some("them".to_owned()));
    assert!(site.says().is_empty(), "another builder has the file");
}

#[test]
fn uploads_in_progress_paused_or_of_an_unknown_format_are_left_alone() {
    let mut site = site();
    site.build("i", 1, BuildState::Ready, 10.0);
    let to = ("i".into(), id(1).into(), "a".into());
    let lock = WorkLock { contenders: Contenders::from(["c"]), free_since: None };
    site.records.uploading.insert(to, lock);
    assert_eq!(site.says(), ["upload i 1 b raw"]);
    site.providers.insert("b".into(), ProviderImages { format: None });
    assert!(site.says().is_empty());
    let mut paused = Site::new(&CONFIG.replace("diskimages: [{name: i}]", "diskimages: [{name: i, pause: true}]"));
    paused.workers.0 = 0;
    paused.build("i", 1, BuildState::Ready, 10.0);
    assert!(paused.says().is_empty());
}

#[test]
fn an_upload_that_failed_waits_behind_the_others() {
    let mut site = site();
    site.workers.1 = 1;
    site.build("i", 1, BuildState::Ready, 10.0).upload(1, "a", 1, UploadState::Failed, 9.0);
    site.doing.uploads_after.insert(("i".into(), id(1).into(), "a".into()), UPTIME + -1.0);
    assert_eq!(site.says(), ["upload i 1 b raw"]);
    site.upload(1, "b", 1, UploadState::Ready, 1.0);
    assert_eq!(site.says(), ["upload i 1 a qcow2"]);
}
