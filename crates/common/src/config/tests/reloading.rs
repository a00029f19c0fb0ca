//! Half-written files do not become configurations.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::{
    super::{Poll, Watcher},
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

    /// A second passes, and the launcher looks.
    fn poll(&mut self) -> String {
        self.now += Duration::from_secs(1);
        self.look()
    }

    fn look(&mut self) -> String {
        match self.watcher.poll_at(self.now) {
            Poll::Unchanged => "unchanged".to_owned(),
            Poll::Settling => "settling".to_owned(),
            Poll::Changed(loaded) => format!("changed: {} providers", loaded.config.providers.len()),
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
