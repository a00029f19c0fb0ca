//! `dib-ansible` from its arguments to its exit status.
//!
//! 1. inventory and playbook are found, as the operator's wrapper does;
//! 2. the hosts that the playbook is for ([`targets`]) are checked ([`preflight`]), and the space here;
//! 3. a guard runs the playbook ([`guard`]), until it ends, or we get a signal, or our parent is gone;
//! 4. the files that were asked for are there.
//!
//! The status is ansible-playbook's; 1 where it could not be run or the files are missing, 2 for a wrong command line,
//! 128 + N after signal N.

use std::{
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use clap::Parser as _;
use nix::sys::signal::Signal;
use nodepool_common::{config, sys::entropy::Entropy};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    arguments::Arguments,
    executable::executable,
    guard::{self, Plan},
    output,
    preflight::{self, Checks, PreflightError},
    say::say,
    state::{Build, Declared, Mode, PROGRAMS, State, find_program, is_program},
    targets::{self, TargetsError},
};

/// Where the operator's wrapper finds it.
const ANSIBLE_PLAYBOOK: &str = "/usr/bin/ansible-playbook";
/// Of which `image-builders` count where none are passed.
const CONFIG: &str = "/etc/nodepool/nodepool.yaml";
/// How often we look whether our parent is still there.
const LOOK_AT_PARENT: Duration = Duration::from_secs(1);
/// The formats that playbooks know.
const FORMATS: [&str; 2] = ["raw", "qcow2"];

/// Runs it.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("starting: {error}")),
    };
    runtime.block_on(run(&arguments))
}

fn fail(problem: &str) -> ExitCode {
    say(problem);
    ExitCode::FAILURE
}

/// Why we end early.
#[derive(Clone, Copy, Debug)]
enum Reason {
    Signal(Signal),
    ParentGone,
}

impl Reason {
    fn text(self) -> String {
        match self {
            Self::Signal(signal) => format!("ended by {signal}"),
            Self::ParentGone => "ended, because the process that started this build is gone".to_owned(),
        }
    }

    fn status(self) -> ExitCode {
        let signal = match self {
            Self::Signal(signal) => signal,
            Self::ParentGone => Signal::SIGHUP,
        };
        ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(1))
    }
}

/// Waits for a signal, or for the end of our parent: a builder that is killed cannot tell us.
async fn told_to_end() -> Reason {
    let streams = [
        (SignalKind::terminate(), Signal::SIGTERM),
        (SignalKind::interrupt(), Signal::SIGINT),
        (SignalKind::hangup(), Signal::SIGHUP),
    ];
    let wait = |(kind, number): (SignalKind, Signal)| async move {
        match signal(kind) {
            Ok(mut stream) => {
                stream.recv().await;
                Reason::Signal(number)
            }
            Err(_) => std::future::pending().await,
        }
    };
    let [terminate, interrupt, hangup] = streams.map(wait);
    let parent = async {
        let first = nix::unistd::getppid();
        while nix::unistd::getppid() == first {
            tokio::time::sleep(LOOK_AT_PARENT).await;
        }
        Reason::ParentGone
    };
    tokio::select! {
        biased;
        reason = terminate => reason,
        reason = interrupt => reason,
        reason = hangup => reason,
        reason = parent => reason,
    }
}

/// What is to be built, and with what.
#[derive(Debug)]
struct Order {
    program: PathBuf,
    /// `-i …`, and `--limit …`.
    inventory: Vec<OsString>,
    playbook: PathBuf,
    output: PathBuf,
    formats: Vec<String>,
    declared: Vec<Declared>,
}

impl Order {
    /// ansible-playbook's arguments: the operator's, in their order, when no option of ours is used.
    fn arguments(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["-v".into()];
        words.extend(self.inventory.iter().cloned());
        words.push(self.playbook.clone().into_os_string());
        let mut output = OsString::from("image_output=");
        output.push(&self.output);
        words.extend(["-e".into(), output]);
        for format in &self.formats {
            words.extend(["-e".into(), format!("{format}_type=True").into()]);
        }
        words
    }
}

/// Reads the arguments; what is wrong is a message.
fn order(arguments: &Arguments, state: &State) -> Result<Order, String> {
    let declared = declared(arguments)?;
    let find = |path: &Path| -> Option<PathBuf> {
        [path.to_owned(), arguments.directory.join(path)].into_iter().find(|path| path.exists())
    };
    let wanted = arguments.inventory.clone().unwrap_or_else(|| arguments.directory.join("inventory.yaml"));
    let mut inventory: Vec<OsString> = Vec::new();
    let mut add = |path: PathBuf| inventory.extend(["-i".into(), path.into_os_string()]);
    let own: Vec<&Declared> = declared.iter().filter(|declared| declared.host.is_some()).collect();
    match find(&wanted) {
        Some(path) => add(path),
        None if arguments.inventory.is_none() && !own.is_empty() => {}
        None => {
            return Err(format!(
                "there is no inventory {}: write one that has the image-builder host, or declare the host in `image-builders`, with `host`",
                wanted.display()
            ));
        }
    }
    if !own.is_empty() {
        let path = state.path("image-builders.json");
        fs::write(&path, own_inventory(&own)).map_err(|error| format!("writing {}: {error}", path.display()))?;
        add(path);
    }
    if let Some(host) = &arguments.image_builder {
        inventory.extend(["--limit".into(), host.into()]);
    }
    let playbook = find(&arguments.playbook).ok_or_else(|| {
        format!(
            "there is no playbook {}, neither as it is nor in {}",
            arguments.playbook.display(),
            arguments.directory.display()
        )
    })?;
    let output = arguments.output.clone().ok_or("-o is missing: where is the image to go?")?;
    let given = arguments.formats.as_deref().ok_or("-t is missing: the formats that the image is wanted in")?;
    if let Some(unknown) = given.split(',').find(|format| !FORMATS.contains(format)) {
        return Err(format!("the format `{unknown}` is none that playbooks know; they are {}", FORMATS.join(", ")));
    }
    let formats = FORMATS.into_iter().filter(|format| given.split(',').any(|one| one == *format)).map(str::to_owned);
    let program = program(arguments)?;
    Ok(Order { program, inventory, playbook, output, formats: formats.collect(), declared })
}

/// `image-builders`: those passed, else those of the configuration.
fn declared(arguments: &Arguments) -> Result<Vec<Declared>, String> {
    if let Some(list) = &arguments.image_builders {
        return Ok(list.0.clone());
    }
    let (path, is_asked_for) = arguments.config.as_deref().map_or((Path::new(CONFIG), false), |path| (path, true));
    match config::load(path, None) {
        Ok(loaded) => Ok(loaded.config.image_builders.iter().map(Declared::from).collect()),
        Err(errors) if is_asked_for => Err(format!("the configuration cannot be used:\n{errors}")),
        Err(_) => Ok(Vec::new()),
    }
}

/// An inventory of the hosts that have an address in `image-builders`.
fn own_inventory(own: &[&Declared]) -> String {
    let hosts = own.iter().map(|declared| {
        let mut variables = serde_json::Map::new();
        let mut set = |key: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                variables.insert(key.to_owned(), value);
            }
        };
        set("ansible_host", declared.host.clone().map(Into::into));
        set("ansible_port", declared.port.map(Into::into));
        set("ansible_user", declared.username.clone().map(Into::into));
        (declared.name.clone(), serde_json::Value::Object(variables))
    });
    let hosts: serde_json::Map<_, _> = hosts.collect();
    serde_json::json!({ "ungrouped": { "hosts": hosts } }).to_string()
}

fn program(arguments: &Arguments) -> Result<PathBuf, String> {
    if let Some(program) = &arguments.ansible_playbook {
        return if is_program(program) {
            Ok(program.clone())
        } else {
            Err(format!("{} is no program", program.display()))
        };
    }
    Some(PathBuf::from(ANSIBLE_PLAYBOOK))
        .filter(|program| is_program(program))
        .or_else(|| find_program("ansible-playbook", None))
        .ok_or_else(|| format!("{ANSIBLE_PLAYBOOK} is not here: install ansible-core beside nodepool-builder, or name it with --ansible-playbook"))
}

async fn run(arguments: &Arguments) -> ExitCode {
    let beside = arguments.output.as_deref().and_then(Path::parent);
    let (state, directory) = match State::make(beside) {
        Ok(made) => made,
        Err(error) => {
            return fail(&format!("making a directory for this build: {error}"));
        }
    };
    let order = match order(arguments, &state) {
        Ok(order) => order,
        Err(problem) => return fail(&problem),
    };
    let mut end = std::pin::pin!(told_to_end());
    let prepared = tokio::select! {
        biased;
        prepared = prepare(arguments, &state, &order) => prepared,
        // What runs now ends with us.
        reason = &mut end => {
            say(format!("{}, before the playbook was started", reason.text()));
            return reason.status();
        }
    };
    let build = match prepared {
        Ok(build) => build,
        Err(Stop { problem, status }) => {
            say(problem);
            return ExitCode::from(status);
        }
    };
    let files = output::files(&order.output, &order.formats);
    let words: Vec<String> = order.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
    say(format!("running {} {}", order.program.display(), words.join(" ")));
    let plan =
        Plan { program: order.program, arguments: words, files: files.clone(), own_sockets: has_no_own_sockets() };
    let code = guarded(&state, &build, &plan, directory, end).await;
    if code != ExitCode::SUCCESS {
        return code;
    }
    let missing: Vec<String> = output::missing(&files).iter().map(|file| file.display().to_string()).collect();
    if missing.is_empty() {
        say("the playbook has ended, and the image is there");
        return ExitCode::SUCCESS;
    }
    fail(&format!(
        "the playbook has ended without an error, but {} is not there: its last task must bring the image to \
         `{{{{ image_output }}}}.FORMAT`, for each format that is asked for",
        missing.join(" and ")
    ))
}

/// A reason not to begin, and our exit status.
struct Stop {
    problem: String,
    status: u8,
}

impl From<PreflightError> for Stop {
    fn from(error: PreflightError) -> Self {
        let mut problem = error.to_string();
        if error.may_mend_itself() {
            problem.push_str(
                "\nWhere the playbook itself sees to that, set NODEPOOL_ANSIBLE_PREFLIGHT to `warn`, in `env-vars` of the \
                 diskimage or in the builder's environment",
            );
        }
        Self { problem, status: 1 }
    }
}

/// Finds the hosts and checks them.
async fn prepare(arguments: &Arguments, state: &State, order: &Order) -> Result<Build, Stop> {
    say(format!("building with the playbook {}", order.playbook.display()));
    let programs: Vec<(String, PathBuf)> =
        PROGRAMS.iter().filter_map(|name| Some(((*name).to_owned(), find_program(name, None)?))).collect();
    let ssh = programs.iter().find(|(name, _)| name == "ssh").map(|(_, path)| path.clone());
    let mark = Entropy::system().uuid().to_string();
    let mut build = Build { mark, mode: Mode::Connect, programs, hosts: Vec::new() };
    let ssh = ssh.ok_or(PreflightError::NoSshHere)?;
    let mode = arguments.preflight;
    say(preflight::here(&order.output, &order.formats, arguments.min_free).or_else(|error| mode.going_on(error))?);
    let needs_rsync = preflight::calls_rsync(&order.playbook);
    if find_program("rsync", None).is_none() && needs_rsync {
        say(mode.going_on(PreflightError::NoRsyncHere)?);
    }
    let found =
        targets::find(state, &build, &order.program, &order.arguments(), &order.inventory, &order.playbook).await;
    let found = found.map_err(|error| {
        let status = match &error {
            TargetsError::Refused { status, .. } => u8::try_from(*status).unwrap_or(1),
            _ => 1,
        };
        Stop { problem: error.to_string(), status }
    })?;
    let checks = Checks { state, ssh: &ssh, declared: &order.declared, needs_rsync, mode };
    for target in &found.hosts {
        let checked = checks.host(target).await?;
        say(checked.line);
        build.hosts.extend(checked.options);
    }
    for host in found.others.iter().filter(|host| *host != "localhost") {
        let why = found.remark.as_deref().unwrap_or("Ansible does not reach it by ssh");
        say(format!("host {host}: not checked: {why}"));
    }
    Ok(build)
}

/// Runs the playbook under its guard, which then owns the directory.
async fn guarded(
    state: &State,
    build: &Build,
    plan: &Plan,
    directory: TempDir,
    end: impl Future<Output = Reason>,
) -> ExitCode {
    let write = || -> std::io::Result<std::process::Command> {
        state.set_build(build)?;
        fs::write(state.path("plan.json"), serde_json::to_vec(plan)?)?;
        let mut command = std::process::Command::new(executable()?);
        command.arg(guard::ARGUMENT).arg(&state.directory).stdin(Stdio::piped()).process_group(0);
        Ok(command)
    };
    let spawned = write().and_then(|command| tokio::process::Command::from(command).spawn());
    let mut guard = match spawned {
        Ok(guard) => guard,
        Err(error) => return fail(&format!("starting the playbook's guard: {error}")),
    };
    let _ = directory.keep();
    // Its end tells the guard; waiting for a child would close it.
    let input = guard.stdin.take();
    let status = tokio::select! {
        biased;
        status = guard.wait() => status,
        reason = end => {
            say(reason.text());
            drop(input);
            let _ = guard.wait().await;
            return reason.status();
        }
    };
    match status {
        Ok(status) => match status.code().map(u8::try_from) {
            Some(Ok(code)) => ExitCode::from(code),
            _ => fail(&format!("the playbook's guard has ended early: {status}")),
        },
        Err(error) => fail(&format!("waiting for the playbook's guard: {error}")),
    }
}

/// Whether neither environment nor ansible.cfg says where Ansible's sockets are to be.
fn has_no_own_sockets() -> bool {
    let variables = ["ANSIBLE_SSH_CONTROL_PATH_DIR", "ANSIBLE_SSH_CONTROL_PATH"];
    if variables.iter().any(|name| std::env::var_os(name).is_some()) {
        return false;
    }
    // The first that exists is the one that Ansible reads.
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".ansible.cfg"));
    let files = [
        std::env::var_os("ANSIBLE_CONFIG").map(PathBuf::from),
        Some("ansible.cfg".into()),
        home,
        Some("/etc/ansible/ansible.cfg".into()),
    ];
    let text = files.into_iter().flatten().find_map(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    !text.lines().any(|line| line.trim_start().starts_with("control_path"))
}
