//! What an image-builder host has, its free space above all.

use std::path::{Path, PathBuf};

use super::openssh::Attempt;

/// `1.5 GiB`, or in MiB below one.
#[allow(clippy::cast_precision_loss)] // for people
pub fn shown(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 1024.0 { format!("{mebibytes:.0} MiB") } else { format!("{:.1} GiB", mebibytes / 1024.0) }
}

/// What the probe of an image-builder host found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// Python's version and where it is.
    pub python: Option<(String, String)>,
    /// `rsync version N`.
    pub rsync: Option<String>,
    /// The directory that was looked at, or the nearest that exists above it.
    pub directory: PathBuf,
    /// Bytes free there.
    pub free: Option<u64>,
    /// What they are on.
    pub device: String,
}

/// Where Ansible 2.16 looks for Python, in this order (its `INTERPRETER_PYTHON_FALLBACK`).
const PYTHONS: &str = "python3.12 python3.11 python3.10 python3.9 python3.8 python3.7 python3.6 /usr/bin/python3 \
                       /usr/libexec/platform-python python2.7 /usr/bin/python python python3";

/// The script that finds out. `python`: where the inventory says it is; `directory`: whose space counts, else the home.
pub fn probe_script(python: Option<&str>, directory: Option<&Path>) -> String {
    let candidates = python.map_or_else(|| PYTHONS.to_owned(), quoted);
    let directory = directory.map_or_else(|| "\"$HOME\"".to_owned(), |path| quoted(&path.to_string_lossy()));
    format!(
        r#"LC_ALL=C; export LC_ALL
echo nodepool-probe
for python in {candidates}; do
  if version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null); then
    echo "python $version $(command -v "$python")"; break
  fi
done
if version=$(rsync --version 2>/dev/null); then echo "rsync $(echo "$version" | head -n 1)"; fi
directory={directory}
while [ -n "$directory" ] && [ ! -d "$directory" ]; do directory=${{directory%/*}}; done
echo "directory ${{directory:-/}}"
echo "space $(df -Pk "${{directory:-/}}" 2>/dev/null | tail -n 1)"
echo nodepool-probe-ends
"#
    )
}

impl Probe {
    /// Reads what the script wrote; `None`: it did not run to its end.
    pub fn of(attempt: &Attempt) -> Option<Self> {
        let (_, text) = attempt.stdout.split_once("nodepool-probe\n")?;
        let (text, _) = text.split_once("nodepool-probe-ends")?;
        let mut probe = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            match key {
                "python" => probe.python = value.split_once(' ').map(|(v, p)| (v.to_owned(), p.to_owned())),
                "rsync" => probe.rsync = Some(value.split_whitespace().take(3).collect::<Vec<_>>().join(" ")),
                "directory" => probe.directory = value.into(),
                "space" => {
                    let words: Vec<&str> = value.split_whitespace().collect();
                    // Filesystem, blocks, used, available, capacity, mounted on.
                    if let Some(at) = words.iter().rposition(|word| word.ends_with('%')).filter(|at| *at >= 4) {
                        probe.free = words[at - 1].parse::<u64>().ok().map(|blocks| blocks * 1024);
                        words[..at - 3].join(" ").clone_into(&mut probe.device);
                    }
                }
                _ => {}
            }
        }
        Some(probe)
    }
}

/// A word for a POSIX shell.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_finds_this_machines_python_rsync_and_space() {
        let run = |script: &str| {
            let output = std::process::Command::new("/bin/sh").args(["-c", script]).output().unwrap();
            let attempt = Attempt { stdout: String::from_utf8(output.stdout).unwrap(), ..Attempt::default() };
            Probe::of(&attempt).unwrap_or_else(|| panic!("{attempt:?} {output:?}", output = output.stderr))
        };
        let probe = run(&probe_script(None, Some(Path::new("/tmp/is not/there"))));
        assert_eq!(probe.directory, PathBuf::from("/tmp"));
        assert!(probe.free.unwrap() > 0 && !probe.device.is_empty(), "{probe:?}");
        let here = crate::files::free_space(Path::new("/tmp")).unwrap();
        assert!(here.abs_diff(probe.free.unwrap()) < here / 2 + (1 << 20), "{here} {probe:?}");
        let probe = run(&probe_script(Some("/no/it's/python"), None));
        assert_eq!(probe.python, None);
    }

    #[test]
    fn a_probe_that_was_cut_short_is_none() {
        let attempt = Attempt { stdout: "welcome\nnodepool-probe\npython 3".to_owned(), ..Attempt::default() };
        assert_eq!(Probe::of(&attempt), None);
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(shown(0), "0 MiB");
        assert_eq!(shown(300 << 20), "300 MiB");
        assert_eq!(shown(3 << 29), "1.5 GiB");
    }
}
