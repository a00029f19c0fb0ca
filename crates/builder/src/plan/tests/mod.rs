//! The planner's rules as sentences.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodepool_common::{
    config::{self, Config},
    model::{
        BuildId, BuildState, BuilderComponent, Contenders, Entry, HeldBack, Holder, ImageBuild, ImageName, ImageUpload,
        Node, ProviderName, RecordError, Records, Stat, Timestamp, UploadKey, UploadState, Uptime, WorkLock,
        change_each,
    },
};

use super::*;

mod building;
mod orphans;
mod retiring;
mod uploading;

const NOW: Timestamp = 1_000_000.0;
/// The same moment by monotonic time.
const UPTIME: Uptime = Uptime(500.0);
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

fn entry<T>(record: Result<Arc<T>, RecordError>) -> Arc<Entry<T>> {
    Arc::new(Entry { record, stat: stat(), contenders: Contenders::default(), free_since: Some(0.0) })
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
            uptime: UPTIME + (now - NOW),
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
    let entry = Arc::make_mut(site.records.builds.get_mut(&(image.into(), id(n).into())).unwrap());
    let mut build = ImageBuild::clone(entry.usable().unwrap());
    change(&mut build);
    entry.record = Ok(Arc::new(build));
}
