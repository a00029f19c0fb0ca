//! Which hosts a playbook is for, and how Ansible would call ssh for each.
//!
//! Neither is guessed. ansible-playbook itself lists the hosts of each play; then `ansible` is to run a command on them
//! while `ssh` only notes how it was called ([`super::wrapper`]). So inventory, variables, ansible.cfg and Ansible's
//! environment have all had their say. Only what a play sets for itself (`remote_user`, `connection`, `port`,
//! `ansible_…` variables) is read from the playbook and passed on.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nodepool_common::config::yaml::{self, Node, Value};

use super::{
    call::Call,
    state::{Build, Mode, State, VARIABLE},
};

/// How long either of Ansible's programs may take; some inventories ask clouds.
const PATIENCE: Duration = Duration::from_secs(120);

/// A host of the playbook that is reached by ssh.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name in the inventory.
    pub name: String,
    /// `ansible_python_interpreter`, where it is a path.
    pub python: Option<String>,
    /// How Ansible calls ssh for it.
    pub call: Call,
}

/// What the playbook is for.
#[derive(Debug, Default)]
pub struct Targets {
    /// Hosts that are reached by ssh.
    pub hosts: Vec<Target>,
    /// Hosts that are not, or not in a way that we could find out.
    pub others: Vec<String>,
    /// What Ansible said where it could not tell how it reaches a host.
    pub remark: Option<String>,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum TargetsError {
    /// ansible-playbook does not start.
    #[error("starting {program}: {source}; install ansible-core, or name another with --ansible-playbook")]
    Start {
        /// What was to be started.
        program: PathBuf,
        /// Why it does not.
        source: std::io::Error,
    },
    /// It does not understand inventory or playbook.
    #[error("{program} cannot use the playbook or the inventory (status {status}):\n{output}")]
    Refused {
        /// What was started.
        program: PathBuf,
        /// Its exit status, which is then ours.
        status: i32,
        /// What it said.
        output: String,
    },
    /// The playbook would do nothing.
    #[error(
        "the playbook {playbook} is for no host of the inventory: {patterns}; give its `hosts` a name that the inventory has"
    )]
    None {
        /// The playbook.
        playbook: PathBuf,
        /// What its plays say.
        patterns: String,
    },
    /// It did not come to an end.
    #[error(
        "{program} did not list the hosts of the playbook within {PATIENCE:?}: does the inventory wait for something?"
    )]
    Late {
        /// What was started.
        program: PathBuf,
    },
}

/// Finds out. `arguments` are those of ansible-playbook, its playbook among them; `inventory` only those that say where
/// hosts are.
pub async fn find(
    state: &State,
    build: &Build,
    program: &Path,
    arguments: &[OsString],
    inventory: &[OsString],
    playbook: &Path,
) -> Result<Targets, TargetsError> {
    let listed = run(program, arguments.iter().cloned().chain(["--list-hosts".into()]), &[]).await;
    let listed = match listed {
        Ok(Some(output)) => output,
        Ok(None) => return Err(TargetsError::Late { program: program.to_owned() }),
        Err(source) => return Err(TargetsError::Start { program: program.to_owned(), source }),
    };
    if listed.status != 0 {
        let output = format!("{}{}", listed.stderr, listed.stdout).trim().to_owned();
        return Err(TargetsError::Refused { program: program.to_owned(), status: listed.status, output });
    }
    let plays = plays(&listed.stdout);
    if plays.iter().all(|play| play.hosts.is_empty()) {
        let patterns = plays.iter().map(|play| play.pattern.as_str()).collect::<Vec<_>>().join(", ");
        return Err(TargetsError::None { playbook: playbook.to_owned(), patterns });
    }
    let own = own_settings(playbook);
    // What a playbook that builds itself from others says cannot be told play by play: then nothing is passed on.
    let own = if own.len() == plays.len() { own } else { vec![BTreeMap::new(); plays.len()] };
    let mut groups: BTreeMap<BTreeMap<String, String>, Vec<String>> = BTreeMap::new();
    for (play, own) in plays.into_iter().zip(own) {
        let hosts = groups.entry(own).or_default();
        hosts.extend(play.hosts.into_iter().filter(|host| !hosts.contains(host)).collect::<Vec<_>>());
    }
    let mut targets = Targets::default();
    for (own, hosts) in groups {
        ask(state, build, &program.with_file_name("ansible"), inventory, &own, hosts, &mut targets).await;
    }
    Ok(targets)
}

/// Has Ansible call ssh for these hosts, and reads how it did.
async fn ask(
    state: &State,
    build: &Build,
    ansible: &Path,
    inventory: &[OsString],
    own: &BTreeMap<String, String>,
    hosts: Vec<String>,
    targets: &mut Targets,
) {
    let calls = state.path("calls");
    for entry in fs::read_dir(&calls).into_iter().flatten().filter_map(Result::ok) {
        let _ = fs::remove_file(entry.path());
    }
    let mut variables: serde_json::Map<String, serde_json::Value> =
        own.iter().filter(|(key, _)| key.starts_with("ansible_")).map(|(k, v)| (k.clone(), v.clone().into())).collect();
    // What is run as another user is of no interest here.
    variables.insert("ansible_become".to_owned(), false.into());
    let mut arguments: Vec<OsString> = inventory.to_vec();
    for (key, option) in [("remote_user", "-u"), ("connection", "-c")] {
        if let Some(value) = own.get(key) {
            arguments.extend([option.into(), value.into()]);
        }
    }
    let variables = serde_json::Value::Object(variables).to_string();
    let marker = ": nodepool-target,{{ inventory_hostname }},{{ ansible_python_interpreter | default('') }},";
    arguments.extend(["-e".into(), variables.into(), "-m".into(), "raw".into(), "-a".into(), marker.into()]);
    arguments.push(hosts.join(",").into());
    let mut environment = vec![(VARIABLE, state.directory.clone().into_os_string())];
    if let Some(port) = own.get("port") {
        environment.push(("ANSIBLE_REMOTE_PORT", port.into()));
    }
    let recording = Build { mode: Mode::Record, ..build.clone() };
    let said = match state.set_build(&recording) {
        Err(error) => Some(format!("writing {}: {error}", state.path("build.json").display())),
        Ok(()) => match run(ansible, arguments, &path_with(state, environment)).await {
            Ok(Some(output)) if output.status == 0 => None,
            Ok(Some(output)) => Some(format!("{}{}", output.stderr, output.stdout).trim().to_owned()),
            Ok(None) => Some(format!("{} took longer than {PATIENCE:?}", ansible.display())),
            Err(error) => Some(format!("starting {}: {error}", ansible.display())),
        },
    };
    let mut found: Vec<Target> = fs::read_dir(&calls)
        .into_iter()
        .flatten()
        .filter_map(|entry| Target::of(&serde_json::from_slice(&fs::read(entry.ok()?.path()).ok()?).ok()?))
        .collect();
    found.sort_by_key(|target| hosts.iter().position(|host| *host == target.name));
    for host in hosts {
        let is_known = targets.others.contains(&host);
        if !found.iter().any(|target| target.name == host) && !is_known {
            targets.others.push(host);
        }
    }
    targets.hosts.extend(found);
    targets.remark = targets.remark.take().or(said);
}

impl Target {
    fn of(call: &Call) -> Option<Self> {
        let command = call.command.join(" ");
        let mut words = command.split_once("nodepool-target,")?.1.split(',');
        let (name, python) = (words.next()?.to_owned(), words.next()?.trim());
        let python = Some(python.to_owned()).filter(|python| python.starts_with('/'));
        Some(Self { name, python, call: Call { command: Vec::new(), ..call.clone() } })
    }
}

/// The environment in which `ssh` is ours.
pub fn path_with<'a>(state: &State, mut more: Vec<(&'a str, OsString)>) -> Vec<(&'a str, OsString)> {
    let mut path = state.path("bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()));
    more.push(("PATH", path));
    more
}

struct Said {
    status: i32,
    stdout: String,
    stderr: String,
}

/// Runs one of Ansible's programs; `None`: it took too long.
async fn run(
    program: &Path,
    arguments: impl IntoIterator<Item = OsString>,
    environment: &[(&str, OsString)],
) -> std::io::Result<Option<Said>> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).env("ANSIBLE_NOCOLOR", "1");
    command.env_remove("ANSIBLE_FORCE_COLOR").envs(environment.iter().cloned());
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(output) => {
            let output = output?;
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let status = output.status.code().unwrap_or(1);
            Ok(Some(Said { status, stdout: text(output.stdout), stderr: text(output.stderr) }))
        }
        Err(_) => Ok(None),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Play {
    pattern: String,
    hosts: Vec<String>,
}

/// Reads `ansible-playbook --list-hosts`.
fn plays(text: &str) -> Vec<Play> {
    let mut plays: Vec<Play> = Vec::new();
    let mut in_hosts = false;
    for line in text.lines() {
        let (content, indent) = (line.trim(), line.len() - line.trim_start().len());
        if indent == 2 && content.starts_with("play #") {
            plays.push(Play { pattern: String::new(), hosts: Vec::new() });
            in_hosts = false;
        } else if let Some(play) = plays.last_mut() {
            if let Some(pattern) = content.strip_prefix("pattern: ").filter(|_| indent == 4) {
                pattern.clone_into(&mut play.pattern);
            } else if indent == 4 && content.starts_with("hosts (") {
                in_hosts = true;
            } else if in_hosts && indent == 6 {
                play.hosts.push(content.to_owned());
            }
        }
    }
    plays
}

/// What each play says of its connection, in the order of the file, with the plays of imported playbooks.
fn own_settings(playbook: &Path) -> Vec<BTreeMap<String, String>> {
    let mut found = Vec::new();
    collect(playbook, &mut found, 0);
    found
}

fn collect(playbook: &Path, found: &mut Vec<BTreeMap<String, String>>, depth: usize) {
    let Some(root) = fs::read_to_string(playbook).ok().and_then(|text| yaml::parse(&text).ok()?.root) else { return };
    let Value::List(plays) = &root.value else { return };
    for play in plays {
        let imported =
            ["import_playbook", "ansible.builtin.import_playbook"].into_iter().find_map(|key| scalar(play.get(key)?));
        if let Some(imported) = imported.filter(|_| depth < 10) {
            collect(&playbook.with_file_name(imported), found, depth + 1);
            continue;
        }
        let mut own = BTreeMap::new();
        let mut note = |key: &str, node: &Node| {
            if let Some(value) = scalar(node).filter(|value| !value.contains("{{")) {
                own.insert(key.to_owned(), value);
            }
        };
        for key in ["remote_user", "connection", "port"] {
            if let Some(value) = play.get(key) {
                note(key, value);
            }
        }
        for (key, value) in play.get("vars").and_then(|vars| vars.entries()).unwrap_or_default() {
            if let Some(key) = key.as_text().filter(|key| key.starts_with("ansible_")) {
                note(key, value);
            }
        }
        found.push(own);
    }
}

fn scalar(node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar(_, text) if !node.is_null() => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_of_each_play_are_read() {
        let text = "\nplaybook: p.yaml\n\n  play #1 (image-builder): hosts (3):\tTAGS: []\n    pattern: ['image-builder']\n    \
                    hosts (2):\n      ib-1\n      ib-2\n\n  play #2 (none): none\tTAGS: []\n    pattern: ['none']\n    hosts (0):\n";
        let plays = plays(text);
        assert_eq!(plays.len(), 2);
        assert_eq!(
            plays[0],
            Play { pattern: "['image-builder']".to_owned(), hosts: vec!["ib-1".to_owned(), "ib-2".to_owned()] }
        );
        assert!(plays[1].hosts.is_empty());
    }

    #[test]
    fn what_a_play_says_of_its_connection_is_read_through_imports() {
        let directory = tempfile::tempdir().unwrap();
        let main = directory.path().join("main.yaml");
        fs::write(&main, "- import_playbook: other.yaml\n- hosts: a\n  vars: {ansible_port: 22, x: 1}\n").unwrap();
        let other = "- hosts: b\n  remote_user: me\n  connection: '{{ x }}'\n";
        fs::write(directory.path().join("other.yaml"), other).unwrap();
        let own = own_settings(&main);
        let is = |play: &BTreeMap<String, String>, key: &str, value: &str| play.len() == 1 && play[key] == value;
        assert!(own.len() == 2 && is(&own[0], "remote_user", "me") && is(&own[1], "ansible_port", "22"), "{own:?}");
        assert!(own_settings(Path::new("/no/such/file")).is_empty());
    }
}
