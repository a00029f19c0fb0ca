//! Ending what a build runs on its hosts.
//!
//! ssh ends its client's side; what runs on the other side without a terminal goes on. So each remote command carries
//! the build's mark in its environment ([`super::wrapper`]), and a script, sent over a connection of its own, looks for
//! it in `/proc`: processes with the mark, with the word of a task that sudo started ([`super::notes`]), their
//! descendants, and all in their sessions. They get SIGTERM, what is left after two seconds SIGKILL. Under sudo where that
//! works without a password, because only root may look at, and end, what became root; what we may not end is not waited
//! for. A host that is so busy that each look takes long has no more time than any other: what a sweep has done is told at its
//! end, which must come before the patience is over.

use std::{path::Path, time::Duration};

use super::{
    call::Call,
    notes::Notes,
    openssh::Attempt,
    state::{MARK, State},
};

/// What came of a host.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Commands of processes that are gone.
    pub ended: Vec<String>,
    /// Commands of processes that are still there, with their numbers.
    pub left: Vec<String>,
}

/// The hosts that the build has talked to.
pub fn hosts(state: &State) -> Vec<Call> {
    let entries = std::fs::read_dir(state.path("hosts")).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter(|entry| entry.path().extension().is_none())
        .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
        .collect()
}

/// Ends the build's processes on one host and removes Ansible's temporary directories there.
pub async fn host(ssh: &Path, call: &Call, mark: &str, notes: &Notes, patience: Duration) -> Result<Swept, String> {
    let become_root = "if sudo -n true >/dev/null 2>&1; then exec sudo -n /bin/sh -s; fi; exec /bin/sh -s";
    let mut call = call.clone();
    call.options.splice(..0, ["-o".to_owned(), "ConnectTimeout=5".to_owned()]);
    call.command = vec![become_root.to_owned()];
    let attempt = Attempt::make(ssh, &call, &script(mark, notes), patience)
        .await
        .map_err(|error| format!("running {}: {error}", ssh.display()))?;
    read(&attempt).ok_or_else(
        || {
            if attempt.late { format!("no answer within {patience:?}") } else { attempt.summary() }
        },
    )
}

fn read(attempt: &Attempt) -> Option<Swept> {
    let (text, _) = attempt.stdout.split_once("nodepool-sweep-ends")?;
    let mut swept = Swept::default();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("ended ") {
            swept.ended.push(command.trim().to_owned());
        } else if let Some(process) = line.strip_prefix("left ") {
            swept.left.push(process.trim().to_owned());
        }
    }
    Some(swept)
}

/// The script. The mark is put together only there, so that nothing that carries the script carries the mark.
fn script(mark: &str, notes: &Notes) -> String {
    let becomes = notes.becomes.iter().map(|word| format!("{word}\n")).collect::<Vec<_>>().concat();
    let temporaries = notes.temporaries.iter().map(|path| format!(" '{path}'")).collect::<Vec<_>>().concat();
    format!(
        r#"LC_ALL=C; export LC_ALL
name={MARK}
words="$name={mark}
{becomes}"
words=$(printf '%s\n' "$words" | grep .)
seen=' '
# Numbers of all that belongs to the build and runs.
find_them() {{
  roots=$(printf '%s\n' "$words" | grep -alFf - /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 | tr '\n' ' ')
  cat /proc/[0-9]*/stat 2>/dev/null | awk -v roots="$roots$seen" '
    {{
      pid = $1; line = $0; sub(/^.*\) /, "", line); split(line, field, " ")
      state[pid] = field[1]; parent[pid] = field[2]; session[pid] = field[4]
    }}
    END {{
      n = split(roots, root, " ")
      for (i = 1; i <= n; i++) if (root[i] in state) ours[root[i]] = 1
      do {{
        more = 0
        for (pid in ours) if (session[pid] > 1) sessions[session[pid]] = 1
        for (pid in state) if (!(pid in ours) && ((parent[pid] in ours) || (session[pid] in sessions))) {{ ours[pid] = 1; more = 1 }}
      }} while (more)
      for (pid in ours) if (state[pid] != "Z" && state[pid] != "X") printf "%s ", pid
    }}'
}}
# Sets `now`, in hundredths of a second.
clock() {{ read -r up rest </proc/uptime; now=${{up%.*}}${{up#*.}}; }}
command_of() {{ tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | tr '\n' ' ' | cut -c 1-200; }}
all=
for signal in TERM KILL; do
  tries=0
  while [ $tries -lt 20 ]; do
    them=$(find_them)
    [ -n "$them" ] || break
    new=
    for pid in $them; do
      case $seen in
        *" $pid "*) ;;
        *) new="$new $pid"; seen="$seen$pid "; all="$all$pid $(command_of "$pid")
" ;;
      esac
    done
    # Each hears SIGTERM once. The first that ends may take others with it: so all were noted before.
    [ $signal = KILL ] && new=$them
    for pid in $new; do kill -$signal "$pid" 2>/dev/null; kill -CONT "$pid" 2>/dev/null; done
    clock
    [ $tries -gt 0 ] || until=$((now + 200))
    [ "$now" -lt "$until" ] || break
    ends=
    for pid in $them; do
      if kill -0 "$pid" 2>/dev/null || [ ! -d "/proc/$pid" ]; then ends=1; fi
    done
    [ -n "$ends" ] || break
    sleep 0.1 2>/dev/null || sleep 1
    tries=$((tries + 1))
  done
done
left=" $(find_them)"
printf '%s' "$all" | while read -r pid command; do
  case $left in *" $pid "*) echo "left $pid $command" ;; *) echo "ended $command" ;; esac
done
for directory in{temporaries}; do rm -rf -- "$directory"; done
echo nodepool-sweep-ends
"#
    )
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process of this machine that counts as one of the build's.
    fn marked(mark: &str, script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).env(MARK, mark).stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().unwrap()
    }

    /// Waits until that process, or one that it has started, runs this.
    fn runs(child: &Child, command: &str) {
        let is_or_has = |id: u32| {
            let mut id = id;
            while id > 1 && id != child.id() {
                // After the name, which may have anything in it: the state and the parent.
                let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
                let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
                id = parent.unwrap_or_default();
            }
            id == child.id()
        };
        let is_it = |id: &u32| {
            let arguments = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&arguments).replace('\0', " ").trim() == command
        };
        let start = std::time::Instant::now();
        loop {
            let processes = std::fs::read_dir("/proc").unwrap();
            let mut ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
            if ids.any(|id| is_it(&id) && is_or_has(id)) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "after 30 s `{command}` does not run");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn sweep(mark: &str, notes: &Notes) -> Swept {
        let output = Command::new("/bin/sh").arg("-c").arg(script(mark, notes)).output().unwrap();
        let attempt = Attempt { stdout: String::from_utf8_lossy(&output.stdout).into_owned(), ..Attempt::default() };
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        read(&attempt).unwrap()
    }

    #[test]
    fn processes_with_the_mark_end_and_no_others() {
        let (mark, other) = (uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string());
        let mut stranger = marked(&other, "exec setsid sleep 1000");
        // Its own session; a descendant that has lost the mark and left the session; one that will not hear SIGTERM.
        let mut ours = marked(
            &mark,
            "exec setsid sh -c 'env -i setsid sleep 2001 & trap \"\" TERM; sleep 2002 & wait; sleep 2003'",
        );
        runs(&stranger, "sleep 1000");
        runs(&ours, "sleep 2001");
        runs(&ours, "sleep 2002");
        let directory = tempfile::tempdir().unwrap();
        let temporary = directory.path().join("ansible-tmp-1700000000.1-42-7");
        std::fs::create_dir(&temporary).unwrap();
        let mut notes = Notes::default();
        notes.temporaries.insert(temporary.to_str().unwrap().to_owned());
        let swept = sweep(&mark, &notes);
        assert!(swept.left.is_empty(), "{swept:?}");
        for seconds in ["2001", "2002"] {
            assert!(swept.ended.iter().any(|command| command.contains(&format!("sleep {seconds}"))), "{swept:?}");
        }
        assert!(!temporary.exists() && directory.path().exists());
        ours.wait().unwrap();
        assert_eq!(stranger.try_wait().unwrap(), None, "another build's process was ended");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert_eq!(sweep(&mark, &Notes::default()), Swept::default());
    }

    /// Each look at the processes takes half a second there.
    #[test]
    fn a_busy_host_has_no_more_time_than_any_other() {
        let mark = uuid::Uuid::new_v4().to_string();
        // In a session of its own: else ours would count as the build's.
        let mut stubborn = marked(&mark, "exec setsid sh -c 'trap \"\" TERM; sleep 2005; sleep 2006'");
        runs(&stubborn, "sleep 2005");
        let directory = tempfile::tempdir().unwrap();
        let awk = directory.path().join("awk");
        std::fs::write(&awk, "#!/bin/sh\nPATH=${PATH#*:}\nsleep 0.5\nexec awk \"$@\"\n").unwrap();
        std::fs::set_permissions(&awk, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
        let started = std::time::Instant::now();
        let mut command = Command::new("/bin/sh");
        let output = command.arg("-c").arg(script(&mark, &Notes::default())).env("PATH", path).output().unwrap();
        let took = started.elapsed();
        assert!(String::from_utf8_lossy(&output.stdout).contains("ended "), "{output:?}");
        assert!(took > Duration::from_secs(2), "it had its time to end by itself: {took:?}");
        // Two seconds for each signal and some looks; without a clock it would be the number of looks that ends it, which take
        // more than twenty.
        assert!(took < Duration::from_secs(16), "{took:?}");
        stubborn.wait().unwrap();
    }

    #[test]
    fn what_sudo_started_is_known_by_its_word() {
        let word = format!("BECOME-SUCCESS-{}", uuid::Uuid::new_v4().simple());
        let mut child = Command::new("setsid")
            .args(["sleep", "2004"])
            .env_clear()
            .env("SUDO_COMMAND", format!("/bin/sh -c echo {word} ; python3"))
            .spawn()
            .unwrap();
        runs(&child, "sleep 2004");
        let mut notes = Notes::default();
        notes.becomes.insert(word);
        let swept = sweep(&uuid::Uuid::new_v4().to_string(), &notes);
        assert_eq!(swept.ended, ["sleep 2004"]);
        child.wait().unwrap();
    }
}
