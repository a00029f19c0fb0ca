//! What is retired, deleted, forgotten.

use super::*;

#[test]
fn anothers_upload_that_we_do_not_list_has_a_grace() {
    let mut site = Site::new(&CONFIG.replacen("diskimages: [{name: i}]", "diskimages: []", 1));
    site.workers.0 = 0;
    site.build_of("them", "i", 1, BuildState::Ready, 700.0).upload(1, "a", 1, UploadState::Ready, 599.0);
    assert!(site.says().is_empty());
    site.upload(1, "a", 1, UploadState::Ready, 600.0);
    assert_eq!(site.says(), ["delete upload i 1 a 1"]);
}

#[test]
fn two_builds_are_kept_and_what_is_older_goes_uploads_first() {
    let mut site = site();
    site.good(1, 300.0).good(2, 200.0).good(3, 100.0);
    assert_eq!(site.says(), ["delete upload i 1 a 1", "delete upload i 1 b 1"]);
    site.upload(1, "a", 1, UploadState::Deleting, 1.0).upload(1, "b", 1, UploadState::Deleting, 1.0);
    assert_eq!(
        site.says(),
        ["delete upload i 1 a 1", "delete upload i 1 b 1", "retire i 1"],
        "the files need not wait for the clouds"
    );
    site.records.uploads.remove(&key("i", 1, "a", 1));
    site.records.uploads.remove(&key("i", 1, "b", 1));
    change_build(&mut site, "i", 1, |build| build.state = BuildState::Deleting);
    assert_eq!(site.says(), ["delete i 1", "delete files i 1 all"]);
}

#[test]
fn an_old_upload_stays_while_newer_builds_have_not_reached_its_provider() {
    let mut site = site();
    site.good(1, 300.0);
    for (n, age) in [(2, 200.0), (3, 100.0)] {
        site.build("i", n, BuildState::Ready, age).upload(n, "b", 1, UploadState::Ready, age);
    }
    assert_eq!(site.says(), ["upload i 3 a qcow2", "delete upload i 1 b 1"], "provider a has nothing else");
}

#[test]
fn an_upload_that_a_node_was_made_from_is_never_retired() {
    let mut site = site();
    site.good(1, 300.0).good(2, 200.0).good(3, 100.0);
    let mut node = Node::new(NOW);
    node.image_id = Some(format!("/nodepool/images/i/builds/{}/providers/a/images/0000000001", id(1)).into());
    site.records.nodes.insert("1".into(), entry(Ok(Arc::new(node))));
    assert_eq!(site.says(), ["delete upload i 1 b 1"]);
    change_build(&mut site, "i", 1, |build| build.state = BuildState::Deleting);
    assert_eq!(
        site.says(),
        ["delete upload i 1 a 1", "delete upload i 1 b 1", "delete files i 1 all"],
        "unless somebody says so by hand"
    );
}

#[test]
fn the_newest_failed_build_stays_to_be_seen_and_its_files_go() {
    let mut site = site();
    site.good(1, 300.0).build("i", 2, BuildState::Failed, 200.0).build("i", 3, BuildState::Failed, 100.0);
    assert_eq!(site.says(), ["retire i 2", "delete files i 2 all", "delete files i 3 all"]);
    site.good(4, 50.0);
    let says = site.says();
    assert!(says.contains(&"retire i 3".to_owned()), "{says:?}");
}

#[test]
fn a_failed_upload_stays_to_be_seen_until_the_next_one_begins() {
    let mut site = site();
    site.workers.1 = 0;
    site.build("i", 1, BuildState::Ready, 10.0).upload(1, "a", 1, UploadState::Failed, 9.0);
    assert!(site.says().is_empty());
    site.upload(1, "a", 2, UploadState::Uploading, 1.0);
    site.doing.uploading.insert(("i".into(), id(1).into(), "a".into()));
    assert_eq!(site.says(), ["delete upload i 1 a 1"]);
}

#[test]
fn what_a_dead_builder_left_half_done_is_cleaned_away_soon_and_our_own_at_once() {
    let mut site = site();
    site.workers = (0, 0);
    site.build("i", 1, BuildState::Building, 5.0);
    assert_eq!(site.says(), ["retire i 1"], "our own: nobody here builds it");
    site.doing.building.insert("i".into());
    assert!(site.says().is_empty());
    site.doing.building.clear();
    site.records.builds.clear();
    site.files.clear();
    site.build_of("them", "i", 2, BuildState::Building, 5.0);
    assert_eq!(site.plan_at(NOW), Plan { wake_at: Some(NOW + 25.0), held_back: Some(None), ..Plan::default() });
    let later: Vec<_> = site.plan_at(NOW + 25.0).decisions.iter().map(short).collect();
    assert_eq!(later, ["retire i 2"]);
}

#[test]
fn an_upload_that_nobody_goes_on_with_is_forgotten() {
    let mut site = site();
    site.workers.1 = 0;
    site.build("i", 1, BuildState::Ready, 10.0).upload(1, "a", 1, UploadState::Uploading, 5.0);
    assert_eq!(site.says(), ["forget upload i 1 a 1"]);
    let lock = WorkLock { contenders: Contenders::from(["c"]), free_since: None };
    site.records.uploading.insert(("i".into(), id(1).into(), "a".into()), lock);
    assert!(site.says().is_empty());
}

#[test]
fn of_an_image_that_is_gone_from_the_configuration_we_delete_our_own_builds() {
    let mut site =
        Site::new("diskimages: [{name: j, formats: [tar]}]\nproviders: [{name: a, driver: fake, cloud: c, pools: []}]");
    site.workers.0 = 0;
    site.providers.remove(&ProviderName::from("b"));
    site.build("i", 1, BuildState::Ready, 10.0).upload(1, "a", 1, UploadState::Ready, 9.0);
    site.build_of("them", "i", 2, BuildState::Ready, 5.0).upload(2, "a", 1, UploadState::Ready, 4.0);
    assert_eq!(site.says(), ["delete upload i 1 a 1"]);
    site.upload(1, "a", 1, UploadState::Deleting, 1.0);
    assert_eq!(site.says(), ["delete upload i 1 a 1", "retire i 1"]);
}

#[test]
fn an_image_that_a_provider_no_longer_lists_goes_there_and_only_there() {
    let mut site = Site::new(&CONFIG.replacen("diskimages: [{name: i}]", "diskimages: []", 1));
    site.workers.0 = 0;
    site.good(1, 100.0);
    assert_eq!(site.says(), ["delete upload i 1 a 1"]);
}

#[test]
fn uploads_of_a_provider_that_we_do_not_have_are_not_ours_to_judge() {
    let mut site = site();
    site.good(1, 300.0).good(2, 200.0).good(3, 100.0);
    site.providers.remove(&ProviderName::from("b"));
    site.workers.0 = 0;
    assert_eq!(site.says(), ["delete upload i 1 a 1"]);
    site.records.uploads.remove(&key("i", 1, "a", 1));
    assert!(site.says().is_empty(), "the build stays as long as it has an upload");
}

#[test]
fn files_without_a_build_go_and_those_of_builds_that_cannot_be_read_stay() {
    let mut site = site();
    site.workers = (0, 0);
    site.build("i", 1, BuildState::Ready, 10.0);
    site.files.insert(("i".into(), id(7).into()), BTreeSet::new());
    site.files.insert(("i".into(), id(8).into()), BTreeSet::new());
    let broken = RecordError::NotAnObject;
    site.records.builds.insert(("i".into(), id(8).into()), entry(Err(broken)));
    assert_eq!(site.says(), ["delete files i 7 all"]);
}

#[test]
fn formats_that_every_provider_has_go_where_the_image_says_so() {
    let mut site = Site::new(
        &CONFIG.replace("- name: i\n", "- name: i\n    delete-after-upload: true\n    keep-formats: [raw]\n"),
    );
    site.workers = (0, 0);
    site.build("i", 1, BuildState::Ready, 10.0);
    assert!(site.says().is_empty(), "nobody has it yet");
    site.upload(1, "b", 1, UploadState::Ready, 5.0);
    assert!(site.says().is_empty(), "qcow2 is still needed, raw kept");
    site.upload(1, "a", 1, UploadState::Ready, 5.0);
    assert_eq!(site.says(), ["delete files i 1 qcow2"]);
    site.lacks_providers = true;
    assert!(site.says().is_empty(), "a provider that is left out for now may need it");
}

#[test]
fn records_without_data_are_removed() {
    let mut site = site();
    site.workers.0 = 0;
    site.records.uploads.insert(key("i", 1, "a", 1), entry(Err(RecordError::Empty)));
    site.records.builds.insert(("i".into(), id(2).into()), entry(Err(RecordError::Empty)));
    let build = Decision::RemoveEmpty { what: Subject::Build(ImageName::from("i"), id(2).into()) };
    assert_eq!(site.says(), [short(&build), "remove empty upload i 1 a 1".to_owned()]);
}

#[test]
fn a_deletion_that_a_cloud_refused_waits_and_one_under_way_is_not_repeated() {
    let mut site = site();
    site.good(1, 300.0).good(2, 200.0).good(3, 100.0);
    site.doing.retire_after.insert(Subject::Upload(key("i", 1, "a", 1)), UPTIME + 20.0);
    site.doing.busy.insert(Subject::Upload(key("i", 1, "b", 1)));
    let plan = site.plan_at(NOW);
    assert!(plan.decisions.is_empty(), "{plan:?}");
    assert_eq!(plan.wake_at, Some(NOW + 20.0));
}

#[test]
fn nothing_is_deleted_without_a_cleanup_interval_and_nothing_begun_while_stopping() {
    let mut site = site();
    site.good(1, 300.0).good(2, 200.0).good(3, 100.0);
    site.retires = false;
    assert!(site.says().is_empty());
    let mut stopping = Site::new(CONFIG);
    stopping.stopping = true;
    assert!(stopping.says().is_empty());
}

/// The decisions once a deletion has been called for long enough.
fn after(site: &Site, seconds: f64) -> Vec<String> {
    let doing = Doing { wanted: site.plan_at(NOW).wanted, ..site.doing.clone() };
    let plan = plan(&World { doing: &doing, ..site.world(NOW + seconds) });
    plan.decisions.iter().map(short).collect()
}

#[test]
fn an_image_of_anothers_build_is_left_to_that_builder_for_half_a_minute() {
    let mut site = site();
    site.workers = (0, 0);
    site.good(2, 200.0).good(3, 100.0);
    site.build_of("them", "i", 1, BuildState::Ready, 300.0).upload(1, "a", 1, UploadState::Ready, 300.0);
    site.build_of("them", "i", 4, BuildState::Deleting, 300.0);
    let all = ["delete upload i 1 a 1", "delete i 4"];
    for number in ["1", "2"] {
        assert_eq!(site.says(), all, "there is no other builder");
        let running = BuilderComponent { state: "running".to_owned() };
        site.records.builders.insert(number.to_owned(), Arc::new(running));
    }
    assert_eq!(site.says(), all[1..]);
    assert_eq!(site.plan_at(NOW).wake_at, Some(NOW + 30.0));
    assert_eq!(after(&site, 29.0), all[1..]);
    assert_eq!(after(&site, 30.0), all);
}

#[test]
fn beside_a_python_builder_the_clean_up_is_left_to_it_unless_it_does_not_do_it() {
    let mut site = site();
    site.workers = (0, 0);
    site.good(1, 300.0).good(2, 200.0).good(3, 100.0).build("i", 4, BuildState::Deleting, 300.0);
    site.records.uploads.insert(key("i", 5, "a", 1), entry(Err(RecordError::Empty)));
    site.files.insert(("i".into(), id(4).into()), BTreeSet::from(["raw".to_owned()]));
    let builder = |state: &str| BuilderComponent { state: state.to_owned() };
    site.records.builders.insert("another of ours".to_owned(), Arc::new(builder("running")));
    assert_eq!(site.says().len(), 5);
    site.records.builders.insert("python".to_owned(), Arc::new(builder("stopped")));
    assert_eq!(site.says(), ["delete files i 4 all"], "files are nobody else's");
    assert_eq!(after(&site, 10.0), ["remove empty upload i 5 a 1", "delete files i 4 all"]);
    let all = ["remove empty upload i 5 a 1", "delete upload i 1 a 1", "delete upload i 1 b 1", "delete i 4"];
    assert_eq!(after(&site, 90.0)[..4], all);
}
