//! Half-written files do not become configurations.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::{
    super::{Poll, Watcher, extensions::NAME},
    SMALL,
};

/// A configuration file in its own directory, and a clock that only the test moves.
struct Scene {
    _dir: tempfile::TempDir,
    path: PathBuf,
    now: SystemTime,
    watcher: Watcher,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("nodepool.yaml");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        write(&path, SMALL, now);
        let watcher = Watcher::new(&path, None);
        Self { _dir: dir, path, now, watcher }
    }

    /// Rewrites the file in place, now.
    fn write(&mut self, text: &str) {
        write(&self.path, text, self.now);
    }

    /// Rewrites the file with our own keys in place, now.
    fn extend(&mut self, text: &str) {
        write(&self.path.with_file_name(NAME), text, self.now);
    }

    /// A second passes, and the launcher looks.
    fn poll(&mut self) -> String {
        self.now += Duration::from_secs(1);
        self.look()
    }

    /// What the polls of so many seconds say.
    fn polls(&mut self, seconds: usize) -> Vec<String> {
        (0..seconds).map(|_| self.poll()).collect()
    }

    fn look(&mut self) -> String {
        match self.watcher.poll_at(self.now) {
            Poll::Unchanged => "unchanged".to_owned(),
            Poll::Settling => "settling".to_owned(),
            Poll::Changed(loaded) => {
                let broken = if loaded.broken_extensions.is_some() { ", extensions broken" } else { "" };
                let hosts =
                    loaded.config.image_builders.iter().fold(String::new(), |all, host| all + ", " + &host.name);
                format!("changed: {} providers{hosts}{broken}", loaded.config.providers.len())
            }
            Poll::Invalid(errors) => format!("invalid: {errors}"),
        }
    }
}

fn write(path: &std::path::Path, text: &str, now: SystemTime) {
    fs::write(path, text).expect("written");
    fs::File::options().write(true).open(path).and_then(|file| file.set_modified(now)).expect("touched");
}

#[test]
fn a_file_that_nobody_touches_is_unchanged() {
    let mut scene = Scene::new();
    assert_eq!([scene.poll(), scene.poll()], ["unchanged", "unchanged"]);
}

#[test]
fn a_whole_new_file_is_taken_within_two_seconds_and_once() {
    let mut scene = Scene::new();
    let other = scene.path.with_extension("new");
    write(&other, &format!("{SMALL}  - name: second\n"), scene.now + Duration::from_millis(900));
    fs::rename(&other, &scene.path).expect("renamed");
    assert_eq!([scene.poll(), scene.poll(), scene.poll()], ["settling", "changed: 2 providers", "unchanged"]);
}

#[test]
fn what_is_in_force_is_behind_the_file_until_the_change_is_taken_or_refused() {
    let mut scene = Scene::new();
    assert!(!scene.watcher.is_behind());
    for (text, end) in [(format!("{SMALL}  - name: second\n"), "changed"), ("providers: [".to_owned(), "invalid")] {
        scene.write(&text);
        assert!(scene.watcher.is_behind(), "before the first look already");
        assert_eq!(scene.look(), "settling");
        assert!(scene.watcher.is_behind());
        assert!(scene.poll().starts_with(end));
        assert!(!scene.watcher.is_behind());
    }
}

#[test]
fn a_file_that_changed_long_ago_is_taken_at_once() {
    let mut scene = Scene::new();
    scene.write(&format!("{SMALL}  - name: second\n"));
    scene.now += Duration::from_secs(3600);
    assert_eq!(scene.look(), "changed: 2 providers");
}

#[test]
fn a_file_that_is_still_being_written_is_waited_for() {
    let mut scene = Scene::new();
    let whole = format!("{SMALL}  - name: second\n");
    for end in [0, 40, 200, whole.len() - 9] {
        scene.write(&whole[..end]);
        scene.now += Duration::from_millis(500);
        assert_eq!(scene.look(), "settling");
    }
    scene.write(&whole);
    assert_eq!([scene.poll(), scene.poll()], ["changed: 2 providers", "unchanged"]);
}

#[test]
fn an_invalid_file_is_told_once_and_its_correction_is_taken() {
    let mut scene = Scene::new();
    scene.write("labels: [\n");
    assert_eq!(scene.poll(), "settling");
    assert!(scene.poll().starts_with("invalid: "));
    assert_eq!([scene.poll(), scene.poll()], ["unchanged", "unchanged"]);
    scene.write(SMALL);
    assert_eq!([scene.poll(), scene.poll()], ["changed: 1 providers", "unchanged"]);
}

#[test]
fn a_file_that_is_gone_is_told_when_it_stays_away() {
    let mut scene = Scene::new();
    fs::remove_file(&scene.path).expect("removed");
    assert_eq!(scene.poll(), "settling");
    assert!(scene.poll().contains("it is gone"));
    assert_eq!(scene.poll(), "unchanged");
    scene.write(SMALL);
    assert_eq!(scene.poll(), "changed: 1 providers");
}

#[test]
fn a_file_that_lost_its_providers_is_believed_when_it_has_stood_still() {
    let mut scene = Scene::new();
    scene.write(&SMALL[..SMALL.find("providers:").expect("providers")]);
    scene.now += Duration::from_millis(100);
    assert_eq!(scene.look(), "settling");
    assert_eq!([scene.poll(), scene.poll()], ["settling", "changed: 0 providers"]);
    scene.write("labels: []\n");
    assert_eq!(scene.poll(), "changed: 0 providers", "it has none to lose any more");
}

#[test]
fn an_empty_file_is_never_a_configuration() {
    let mut scene = Scene::new();
    scene.write("");
    assert_eq!(scene.poll(), "settling");
    assert!(scene.poll().contains("the configuration is empty"));
}

#[test]
fn the_secure_file_is_watched_too() {
    let mut scene = Scene::new();
    let secure = scene.path.with_extension("secure");
    write(&secure, "", scene.now);
    scene.watcher = Watcher::new(&scene.path, Some(secure.clone()));
    assert_eq!([scene.poll(), scene.poll()], ["unchanged", "unchanged"], "an empty one is no change");
    write(&secure, "zookeeper-servers: [{host: a}]\n", scene.now);
    assert_eq!([scene.poll(), scene.poll()], ["changed: 1 providers", "unchanged"]);
}

#[test]
fn a_file_with_our_own_keys_that_appears_changes_or_goes_is_noticed_when_it_has_stood_still() {
    let mut scene = Scene::new();
    for (name, then) in [("a", ", a"), ("b", ", b")] {
        scene.extend(&format!("image-builders: [{{name: {name}}}]\n"));
        let changed = format!("changed: 1 providers{then}");
        assert_eq!(scene.polls(4), ["settling", "settling", &changed, "unchanged"]);
    }
    fs::remove_file(scene.path.with_file_name(NAME)).expect("removed");
    assert_eq!(scene.polls(5), ["settling", "settling", "settling", "changed: 1 providers", "unchanged"]);
    scene.extend("image-builders: [{name: c}]\n");
    scene.now += Duration::from_secs(3600);
    assert_eq!(scene.look(), "changed: 1 providers, c", "an old one counts at once");
}

#[test]
fn both_files_that_change_one_after_the_other_are_taken_at_once() {
    let mut scene = Scene::new();
    scene.extend("image-builders: [{name: a}]\n");
    assert_eq!(scene.polls(2), ["settling", "settling"], "nodepool.yaml may follow");
    scene.write(&format!("{SMALL}  - name: second\n"));
    scene.now += Duration::from_millis(100);
    assert_eq!(scene.look(), "settling");
    assert_eq!(scene.polls(2), ["changed: 2 providers, a", "unchanged"]);
}

#[test]
fn a_broken_file_with_our_own_keys_leaves_the_one_before_in_force_and_nodepool_yaml_as_it_is_now() {
    let mut scene = Scene::new();
    scene.extend("image-builders: [{name: a}]\n");
    assert_eq!(scene.polls(3).pop().as_deref(), Some("changed: 1 providers, a"));
    scene.extend("image-builders: [{name: b, port: 1}]\n");
    assert_eq!(scene.polls(4).pop().as_deref(), Some("unchanged"), "told once");
    scene.write(&format!("{SMALL}  - name: second\n"));
    assert_eq!(scene.polls(3), ["settling", "changed: 2 providers, a, extensions broken", "unchanged"]);
    scene.extend("image-builders: [{name: c}]\n");
    assert_eq!(scene.polls(3), ["settling", "settling", "changed: 2 providers, c"]);
    scene.write("labels: [\n");
    scene.extend("a: [\n");
    assert_eq!(scene.poll(), "settling");
    let told = scene.poll();
    assert!(told.starts_with("invalid: ") && told.lines().count() == 2, "{told}");
}

#[test]
fn one_that_is_broken_at_the_start_counts_as_soon_as_it_is_mended() {
    let mut scene = Scene::new();
    scene.extend("a: [\n");
    let (watcher, loaded) = Watcher::load(&scene.path, None).expect("starts");
    assert!(loaded.broken_extensions.is_some());
    scene.watcher = watcher;
    assert_eq!(scene.poll(), "unchanged");
    scene.extend("image-builders: [{name: a}]\n");
    assert_eq!(scene.polls(4), ["settling", "settling", "changed: 1 providers, a", "unchanged"]);
}
