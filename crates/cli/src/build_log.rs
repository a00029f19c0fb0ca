//! `build-log IMAGE`: a build's log, from the disk of the builder that has made it.
//!
//! A log is a file in the builder's `build-log-dir` and nowhere else; so the command is run beside the builder, and
//! elsewhere says where that is. `-f` asks in turn whether the build still runs, by its record, and what is new in the
//! file: in this order, so that everything is printed when it says that the build has ended.
//!
//! The file is opened once. A builder writes into the file that it has opened, whatever becomes of its name; so do we
//! read it. It is read and printed on a thread of its own: whoever reads our output may be slow, and ZooKeeper is to
//! hear from us meanwhile.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nodepool_common::{
    config::Config,
    model::{BuildState, ImageBuild, ImageName, Records},
    sys::host,
    zk::ZooKeeper,
};
use tokio::time::{Instant, sleep};

use crate::{
    args::WhichLog,
    failure::{Failure, say_aside},
    session::Session,
    walk,
};

/// Where logs are without `build-log-dir` (`nodepool 11.0.0: builder.py _getBuildLogRoot`).
const DIRECTORY: &str = "/var/log/nodepool/builds";
/// Between two looks into the file.
const LOOK: Duration = Duration::from_millis(200);
/// Between two looks at the record.
const ASK: Duration = Duration::from_secs(1);
/// Read at a time.
const CHUNK: usize = 64 * 1024;

/// `build-log [-f] [--build-id ID] IMAGE`.
pub async fn print(session: &Session, wanted: &WhichLog) -> Result<(), Failure> {
    let build = find(&walk::builds(&session.zk).await?, &session.config, wanted)?;
    let directory = session.config.build_log_dir.as_deref().unwrap_or(Path::new(DIRECTORY));
    let mut log = Log::new(directory.join(format!("{}-{}.log", build.image, build.id)));
    let mut ended = (build.state != BuildState::Building).then(|| outcome(&build));
    let mut asked = Instant::now();
    loop {
        log = log.print().await?;
        // A builder opens the log a moment after it has written the record.
        let may_come = wanted.follow && ended.is_none() && is_here(&build);
        if log.file.is_none() && !may_come {
            return Err(missing(session.config.build_log_retention, &build, ended, &log.path));
        }
        if !wanted.follow {
            return Ok(());
        }
        if let Some(outcome) = ended {
            say_aside(&format!("build {} of image {}: {outcome}", build.id, build.image));
            return Ok(());
        }
        sleep(LOOK).await;
        if asked.elapsed() >= ASK {
            ended = ask(&session.zk, &build).await?;
            asked = Instant::now();
        }
    }
}

/// The build that is asked for; else the one that runs, else the newest.
fn find(records: &Records, config: &Config, wanted: &WhichLog) -> Result<Arc<ImageBuild>, Failure> {
    let image = ImageName::from(wanted.image.as_str());
    let of_image = records.builds.iter().filter(|((of, _), _)| *of == image);
    let mut builds: Vec<_> = of_image.filter_map(|(_, entry)| Some((entry.order()?, entry.usable()?))).collect();
    builds.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let builds: Vec<_> = builds.into_iter().map(|(_, build)| build).collect();
    if !config.diskimages.contains_key(&image) && !records.images.contains(&image) {
        let names: BTreeSet<&ImageName> = config.diskimages.keys().chain(&records.images).collect();
        let names: Vec<&str> = names.into_iter().map(ImageName::as_str).collect();
        return Err(Failure::Refused(format!("There is no image {image}; there are: {}", names.join(", "))));
    }
    if builds.is_empty() {
        return Err(Failure::Refused(format!(
            "Image {image} has no build; `image-status` tells whether one is asked for, `image-build` asks for one"
        )));
    }
    let Some(id) = &wanted.build_id else {
        let running = builds.iter().find(|build| build.state == BuildState::Building);
        return Ok(Arc::clone(running.unwrap_or(&builds[0])));
    };
    // `dib-image-list` shows IMAGE-BUILDID.
    let id = id.strip_prefix(&format!("{image}-")).unwrap_or(id);
    builds.iter().find(|build| build.id.as_str() == id).map(|build| Arc::clone(build)).ok_or_else(|| {
        let ids: Vec<String> = builds.iter().map(|build| format!("{} ({})", build.id, build.state)).collect();
        Failure::Refused(format!("Image {image} has no build {id}; it has: {}", ids.join(", ")))
    })
}

/// How the build has ended; `None`: it runs, as far as can be told.
async fn ask(zk: &ZooKeeper, build: &ImageBuild) -> Result<Option<String>, Failure> {
    match zk.read_build(&build.image, &build.id).await {
        Ok(Some((now, _))) => Ok((now.state != BuildState::Building).then(|| outcome(&now))),
        Ok(None) => Ok(Some("its record is gone".to_owned())),
        // The log goes on without ZooKeeper, and so do we.
        Err(error) if error.is_transient() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The state, with the reason for it where the builder has left one.
fn outcome(build: &ImageBuild) -> String {
    let reason = build.reason().map(|reason| reason.trim().replace('\n', " ")).filter(|reason| !reason.is_empty());
    reason.map_or_else(|| build.state.to_string(), |reason| format!("{}: {reason}", build.state))
}

/// Whether the build was made where we are, as far as host names tell.
fn is_here(build: &ImageBuild) -> bool {
    build.builder.as_ref().is_none_or(|builder| [host::hostname(), host::fqdn()].contains(builder))
}

fn missing(retention: i64, build: &ImageBuild, ended: Option<String>, path: &Path) -> Failure {
    let (ImageBuild { image, id, .. }, path) = (build, path.display());
    let outcome = ended.unwrap_or_else(|| build.state.to_string());
    let what = format!("The log of build {id} of image {image} ({outcome}) is not here");
    Failure::Refused(match &build.builder {
        Some(builder) if !is_here(build) => {
            format!(
                "{what}: builder {builder} has it, as {path}; run this command there, with that builder's configuration"
            )
        }
        Some(_) => format!(
            "{what}, where it was built: there is no {path}. The build ended before it had one, or it was removed \
             (build-log-retention: {retention})"
        ),
        None => format!("{what}: there is no {path}, and the build's record does not say which builder made it"),
    })
}

/// A log and how far it is printed.
struct Log {
    path: PathBuf,
    /// `None`: there was none so far.
    file: Option<File>,
}

impl Log {
    const fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Prints what is new.
    async fn print(mut self) -> Result<Self, Failure> {
        let printing = tokio::task::spawn_blocking(move || self.print_now().map(|()| self));
        printing.await.unwrap_or_else(|error| Err(Failure::Runtime(io::Error::other(error))))
    }

    fn print_now(&mut self) -> Result<(), Failure> {
        let failed = |source| Failure::File { doing: "reading", path: self.path.clone(), source };
        let file = match &mut self.file {
            Some(file) => file,
            none => match File::open(&self.path) {
                Ok(file) => none.insert(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(failed(error)),
            },
        };
        let mut out = io::stdout().lock();
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => {
                    let length = file.metadata().map_err(failed)?.len();
                    if file.stream_position().map_err(failed)? <= length {
                        break;
                    }
                    // Emptied under our hands: what is in it now is new.
                    file.seek(SeekFrom::Start(0)).map_err(failed)?;
                }
                Ok(read) => out.write_all(&chunk[..read]).map_err(Failure::Output)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        out.flush().map_err(Failure::Output)
    }
}
