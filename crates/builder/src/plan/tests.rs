//! The planner's rules as sentences.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodepool_common::{
    config::{self, Config},
    model::{
        BuildId, BuildState, BuilderComponent, Entry, HeldBack, Holder, ImageBuild, ImageName, ImageUpload, Node,
        ProviderName, RecordError, Records, Stat, Timestamp, UploadKey, UploadState, WorkLock,
    },
};

use super::*;

const NOW: Timestamp = 1_000_000.0;
const DAY: f64 = 86400.0;
const US: &str = "us";

/// Two providers, `a` that takes qcow2 and `b` that takes raw, both with image `i`; image `j` for nobody.
const CONFIG: &str = "
diskimages:
  - name: i
  - name: j
    formats: [tar]
providers:
  - name: a
    driver: fake
    cloud: c
    diskimages: [{name: i}]
    pools: []
  - name: b
    driver: fake
    cloud: c
    diskimages: [{name: i}]
    pools: []
";

struct Site {
    config: Arc<Config>,
    records: Records,
    files: LocalFiles,
    providers: BTreeMap<ProviderName, ProviderImages>,
    doing: Doing,
    workers: (usize, usize),
    retires: bool,
    stopping: bool,
    lacks_providers: bool,
}

fn load(text: &str) -> Arc<Config> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nodepool.yaml");
    std::fs::write(&path, text).unwrap();
    config::load(&path, None).unwrap().config
}

fn id(n: u32) -> String {
    format!("{n:032x}")
}

fn stat() -> Stat {
    Stat::default()
}

fn entry<T>(record: Result<Arc<T>, RecordError>) -> Entry<T> {
    Entry { record, stat: stat(), contenders: BTreeSet::new(), free_since: Some(0.0) }
}

fn key(image: &str, build: u32, provider: &str, upload: u32) -> UploadKey {
    UploadKey {
        image: image.into(),
        provider: provider.into(),
        build: id(build).into(),
        id: format!("{upload:010}").into(),
    }
}

impl Site {
    fn new(config: &str) -> Self {
        let format = |format: &str| ProviderImages { format: Some(format.to_owned()) };
        Self {
            config: load(config),
            records: Records::default(),
            files: LocalFiles::new(),
            providers: BTreeMap::from([("a".into(), format("qcow2")), ("b".into(), format("raw"))]),
            doing: Doing::default(),
            workers: (1, 4),
            retires: true,
            stopping: false,
            lacks_providers: false,
        }
    }

    /// A build of ours with its files, in the formats of both providers; `age` in seconds.
    fn build(&mut self, image: &str, n: u32, state: BuildState, age: f64) -> &mut Self {
        self.build_of(US, image, n, state, age);
        let formats = ["qcow2", "raw"].map(str::to_owned);
        self.files.insert((image.into(), id(n).into()), BTreeSet::from(formats));
        self
    }

    /// Somebody's, whose files are elsewhere.
    fn build_of(&mut self, builder: &str, image: &str, n: u32, state: BuildState, age: f64) -> &mut Self {
        let mut build = ImageBuild::begun(image.into(), id(n).into(), NOW - age);
        build.state = state;
        build.builder_id = Some(builder.to_owned());
        build.formats = vec!["qcow2".to_owned(), "raw".to_owned()];
        self.records.images.insert(image.into());
        self.records.builds.insert((image.into(), id(n).into()), entry(Ok(Arc::new(build))));
        self
    }

    fn upload(&mut self, build: u32, provider: &str, n: u32, state: UploadState, age: f64) -> &mut Self {
        let key = key("i", build, provider, n);
        let data = format!(r#"{{"state": "{}", "state_time": {}, "external_id": "x"}}"#, state.as_str(), NOW - age);
        let UploadKey { image, provider, build, id } = key.clone();
        let (upload, _) = ImageUpload::read(image, build, provider, id, data.as_bytes()).unwrap();
        self.records.uploads.insert(key, entry(Ok(Arc::new(upload))));
        self
    }

    /// A build that both providers have.
    fn good(&mut self, n: u32, age: f64) -> &mut Self {
        self.build("i", n, BuildState::Ready, age);
        self.upload(n, "a", 1, UploadState::Ready, age).upload(n, "b", 1, UploadState::Ready, age)
    }

    fn plan_at(&self, now: Timestamp) -> Plan {
        plan(&self.world(now))
    }

    fn world(&self, now: Timestamp) -> World<'_> {
        World {
            now,
            config: &self.config,
            records: &self.records,
            builder_id: US,
            files: Some(&self.files),
            lacks_providers: self.lacks_providers,
            providers: &self.providers,
            doing: &self.doing,
            build_workers: self.workers.0,
            upload_workers: self.workers.1,
            retires: self.retires,
            stopping: self.stopping,
        }
    }

    /// The decisions in short words.
    fn says(&self) -> Vec<String> {
        self.plan_at(NOW).decisions.iter().map(short).collect()
    }
}

fn number(build: &BuildId) -> u32 {
    u32::from_str_radix(build.as_str(), 16).unwrap()
}

fn short(decision: &Decision) -> String {
    let upload = |key: &UploadKey| {
        format!("{} {} {} {}", key.image, number(&key.build), key.provider, key.id.as_str().trim_start_matches('0'))
    };
    match decision {
        Decision::Build { image, formats, why, .. } => format!("build {image} {} {why:?}", formats.join(",")),
        Decision::Upload { image, build, provider, format } => {
            format!("upload {image} {} {provider} {format}", number(build))
        }
        Decision::DeleteUpload { key, .. } => format!("delete upload {}", upload(key)),
        Decision::ForgetUpload { key } => format!("forget upload {}", upload(key)),
        Decision::RetireBuild { image, build, .. } => format!("retire {image} {}", number(build)),
        Decision::DeleteBuild { image, build } => format!("delete {image} {}", number(build)),
        Decision::RemoveEmpty { what: Subject::Upload(key) } => format!("remove empty upload {}", upload(key)),
        Decision::RemoveEmpty { what } => format!("remove empty {what:?}"),
        Decision::DeleteFiles { image, build, formats, .. } => {
            format!(
                "delete files {image} {} {}",
                number(build),
                formats.as_ref().map_or("all".to_owned(), |f| f.join(","))
            )
        }
    }
}

/// The site of most tests: image `j` is built, so that only `i` is talked about.
fn site() -> Site {
    let mut site = Site::new(CONFIG);
    site.build("j", 99, BuildState::Ready, 1.0);
    let tar = |build: &mut ImageBuild| build.formats = vec!["tar".to_owned()];
    change_build(&mut site, "j", 99, tar);
    site.files.insert(("j".into(), id(99).into()), BTreeSet::from(["tar".to_owned()]));
    site
}

fn change_build(site: &mut Site, image: &str, n: u32, change: impl FnOnce(&mut ImageBuild)) {
    let entry = site.records.builds.get_mut(&(image.into(), id(n).into())).unwrap();
    let mut build = ImageBuild::clone(entry.usable().unwrap());
    change(&mut build);
    entry.record = Ok(Arc::new(build));
}

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
    let lock = WorkLock { contenders: BTreeSet::from(["c".to_owned()]), free_since: None };
    site.records.building.insert("i".into(), lock);
    site.build_of("them", "i", 1, BuildState::Building, 5.0);
    assert!(site.says().is_empty());
}

#[test]
fn a_failed_build_is_tried_again_after_a_pause_or_when_somebody_asks_since() {
    let mut site = site();
    site.doing.builds_after.insert("i".into(), (NOW + 7.0, Some(50)));
    assert_eq!(site.plan_at(NOW), Plan { wake_at: Some(NOW + 7.0), held_back: Some(None), ..Plan::default() });
    let asked = |mzxid| Stat { mzxid, ..Stat::default() };
    site.records.build_requests.insert("i".into(), asked(50));
    assert!(site.says().is_empty(), "that request has failed already");
    site.records.build_requests.insert("i".into(), asked(51));
    assert_eq!(site.says(), ["build i qcow2,raw Requested"]);
}

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
fn builders_that_want_different_formats_do_not_build_by_turns() {
    let mut site = site();
    site.good(1, 100.0).build_of("them", "i", 2, BuildState::Ready, 50.0);
    change_build(&mut site, "i", 2, |build| build.formats = vec!["vhd".to_owned()]);
    assert!(site.says().is_empty(), "{:?}", site.says());
}

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
fn files_that_may_be_somebody_elses_stay() {
    let mut site = site();
    site.workers.0 = 0;
    site.files.insert(("notes".into(), id(7).into()), BTreeSet::new());
    site.files.insert(("i".into(), "1700000000".into()), BTreeSet::new());
    site.records.images.insert("i".into());
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
    let lock = WorkLock { contenders: BTreeSet::from(["c".to_owned()]), free_since: None };
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
    site.doing.uploads_after.insert(("i".into(), id(1).into(), "a".into()), NOW - 1.0);
    assert_eq!(site.says(), ["upload i 1 b raw"]);
    site.upload(1, "b", 1, UploadState::Ready, 1.0);
    assert_eq!(site.says(), ["upload i 1 a qcow2"]);
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
    node.image_id = Some(format!("/nodepool/images/i/builds/{}/providers/a/images/0000000001", id(1)));
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
    let lock = WorkLock { contenders: BTreeSet::from(["c".to_owned()]), free_since: None };
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
    site.doing.retire_after.insert(Subject::Upload(key("i", 1, "a", 1)), NOW + 20.0);
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

/// Of a builder whose clock was far ahead.
#[test]
fn a_build_from_the_future_is_neither_the_newest_for_ever_nor_never_rebuilt() {
    let mut site = Site::new(CONFIG);
    site.workers = (2, 4);
    site.build("i", 1, BuildState::Ready, -10.0 * DAY);
    // ZooKeeper saw it written two days ago.
    site.records.builds.values_mut().for_each(|entry| entry.stat.mtime = 1_000_000_000 - 2 * 86_400_000);
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
